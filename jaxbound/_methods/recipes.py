"""Defines what methods are made of: ways to bound the operands of non-linear equations, and the output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbound._bounds.interval import Interval, common, intersect, outward, supersede
from jaxbound._program.graph import Var
from jaxbound._rules.elementwise import ELEMENTWISE, is_partial
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxing import relax
from jaxbound._walks.alphas import Search, best_start, optimised, sound
from jaxbound._walks.context import Context
from jaxbound._walks.exactness import LOOSE, exactness
from jaxbound._walks.intervals import interval_step
from jaxbound._walks.operands import affine_ends
from jaxbound._walks.rows import (
    Bounder,
    Finish,
    RowEnds,
    apart,
    by_rows,
    by_windows,
    concretized,
    from_affine_ends,
    from_inputs,
    through_linear_bounds,
    together,
)

# ---------------------------------------------------------------- ways to bound an operand


def keep(context: Context, var: Var) -> Interval:
    """Keeps the interval of the interval walk; bounds the affine block after dependent inputs as one map too."""
    ends = affine_ends(context.graph, var)
    if ends != [var] and _dependent(context, ends):
        block = concretized(by_rows(from_affine_ends, context, var), var)
        return intersect(context.env[var], block)
    return context.env[var]


def _dependent(context: Context, ends: list[Var]) -> bool:
    """Tells whether one of these is an input whose elements depend on each other."""
    return not all(context.regions[v].independent for v in ends if v in context.regions)


def forward(context: Context, var: Var) -> Interval:
    """Bounds an operand by forward linear bounds."""
    return _update(context, var, context.forward.interval(var, context.env, context.lines))


def backward(ends: Callable[..., RowEnds]) -> Callable[[Context, Var], Interval]:
    """Returns a way to bound an operand by rows back to the inputs: all elements, or as many undecided ones as may."""

    def operand(context: Context, var: Var) -> Interval:
        known, bounder = context.env[var], _by_rows(context, var, ends)
        count = context.capacity(var)
        if count is None:
            return _update(context, var, concretized(bounder, var))
        # Where fewer elements are undecided, the rest of ``here`` lies beyond the operand and is dropped.
        size = min(count, var.size)
        here = jnp.nonzero(undecided(context, var), size=size, fill_value=var.size)[0]
        lower, upper = (
            end.ravel().astype(new.dtype).at[here].set(new, mode="drop").reshape(var.shape)
            for end, new in zip((known.lower, known.upper), bounder.chosen(here), strict=True)
        )
        return _update(context, var, outward(lower, upper))

    return operand


def _by_rows(context: Context, var: Var, ends: Callable[..., RowEnds]) -> Bounder:
    """Bounds by rows back to the inputs: through windows, unless constraints tie elements of other places."""
    if context.constraints:
        return by_rows(from_inputs, context, var, ends)
    return by_windows(context, var, ends)


def _update(context: Context, var: Var, found: Interval) -> Interval:
    """Intersects what is found with the known interval.

    A published method replaces the interval, unless the operand enters a function that is not defined
    everywhere: bounds by lines may leave its domain, intervals seldom do.
    """
    alone = context.published and not any(
        is_partial(eqn.primitive) and var in eqn.moving.values() for eqn in context.graph.equations
    )
    return supersede(context.env[var], found) if alone else intersect(found, context.env[var])


def undecided(context: Context, var: Var) -> Any:
    """Returns a flat mask of the elements that tighter intervals would help: their lines differ."""
    found = jnp.zeros(var.shape, bool)
    for eqn in context.graph.equations:
        if var not in eqn.moving.values() or linear_operands(eqn) is not None:
            continue
        shapes = [v.shape for v in (*eqn.outputs, *eqn.moving.values())]
        if eqn.primitive not in ELEMENTWISE or shapes != 2 * [var.shape]:
            return jnp.ones(var.size, bool)
        image = zip(eqn.outputs, interval_step(eqn, context.env), strict=True)
        choices = context.choices._replace(rounding=None)
        lines = relax(eqn, {**context.env, **dict(image)}, choices)
        for end in (context.env[var].lower, context.env[var].upper):
            (low,), (high,) = (jax.tree.leaves(line(end)) for line in (lines.lower, lines.upper))
            found |= low != high
    return found.ravel()


# ---------------------------------------------------------------- ways to bound the output
#
# The two ends that these return do not look at each other, so that a caller who reads one of them pays for one.
# Rounding may have crossed them.


def _elided(context: Context, var: Var) -> bool:
    """Tells whether to bound the last affine block as one map.

    It is where that is tighter, for no more rows than the largest input of the block has elements;
    after a set whose elements depend on each other, always.
    """
    ends = affine_ends(context.graph, var)
    if _dependent(context, ends):
        return ends != [var]
    tighter = exactness(context.graph, context.regions, restart=True)[var] == LOOSE
    return tighter and var.size <= max(v.size for v in ends)


def interval_output(context: Context, var: Var) -> Interval:
    """Bounds the output by its interval, or by the intervals before its last affine block, taken as one map."""
    return (
        concretized(by_rows(from_affine_ends, context, var), var)
        if _elided(context, var)
        else context.env[var]
    )


def forward_output(context: Context, var: Var) -> Interval:
    """Bounds the output by forward linear bounds; a small last affine block by those before it, as one map."""
    ends = affine_ends(context.graph, var)
    if ends != [var] and var.size <= max(v.size for v in ends):
        return _within(context, var, concretized(by_rows(through_linear_bounds, context, var), var))
    return _within(context, var, context.forward.interval(var, context.env, context.lines))


def backward_output(ends: Callable[..., RowEnds]) -> Callable[[Context, Var], Interval]:
    """Returns a way to bound the output by rows back to the inputs."""

    def output(context: Context, var: Var) -> Interval:
        return _within(context, var, concretized(_by_rows(context, var, ends), var))

    return output


def _within(context: Context, var: Var, found: Interval) -> Interval:
    """Intersects what is found with the interval of the output.

    A published method does so only for the value of a non-linear equation: a probability is at most 1.
    """
    if not context.published:
        return common(found, interval_output(context, var))
    return common(found, context.env[var]) if affine_ends(context.graph, var) == [var] else found


class Recipe(NamedTuple):
    """Describes a method: how it bounds the operands of non-linear equations, and the output."""

    name: str
    operand: Callable[[Context, Var], Interval]
    output: Callable[[Context, Var], Interval]
    rows: Callable[..., Finish] | None  # of the output, for `linear_bounds`; None: no such
    relaxes: bool = True  # whether either looks at relaxations
    rounds: bool = True  # whether it can account for rounding


# Finds alphas in [0, 1]: Adam, its rate 0.25 falling by 3 % a step.
OPTIMIZER = optax.adam(optax.exponential_decay(0.25, 1, 0.97))


def optimising(steps=20, optimizer=None, optimize_intermediates=False) -> Recipe:
    """Returns alpha-CROWN: each row of the output has its own lines, optimised; if asked, of operands too.

    Raises:
      ValueError, TypeError: an option is not valid.
    """
    if not (isinstance(steps, int) and steps >= 0):
        raise ValueError(f"steps is {steps!r}; expected an integer >= 0")
    optimizer = OPTIMIZER if optimizer is None else optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is {optimizer!r}; expected an optax gradient transformation, such as optax.adam(0.1)"
        )
    best = functools.partial(optimised, Search(steps, optimizer, sound))
    operand = backward(best if optimize_intermediates else best_start)
    return Recipe("alpha_crown", operand, backward_output(best), None)


IBP = Recipe("ibp", keep, interval_output, None, relaxes=False)
LBP = Recipe("lbp", forward, forward_output, through_linear_bounds, rounds=False)
CROWN_IBP = Recipe("crown_ibp", keep, backward_output(apart), from_inputs)
CROWN_LBP = Recipe("crown_lbp", forward, backward_output(apart), from_inputs, rounds=False)
CROWN = Recipe("crown", backward(together), backward_output(apart), from_inputs)
