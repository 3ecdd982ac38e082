"""Defines what methods are made of: ways to bound the operands of non-linear equations, and the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, intersect, ordered, outward, supersede
from jaxbound._bounds.regions import LpBall
from jaxbound._program.graph import Var
from jaxbound._rules.elementwise import ELEMENTWISE, is_partial
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._walks.alphas import best_start, optimised
from jaxbound._walks.exactness import LOOSE, affine_ends, exactness
from jaxbound._walks.intervals import interval_step
from jaxbound._walks.rows import (
    Finish,
    Walk,
    apart,
    by_rows,
    by_windows,
    concretized,
    from_affine_ends,
    through_linear_bounds,
    together,
)

# ---------------------------------------------------------------- ways to bound an operand


def keep(walk: Walk, var: Var) -> Interval:
    """Keeps the interval of the interval walk; bounds the affine block after an lp ball by the dual norm too."""
    ends = affine_ends(walk.graph, var)
    if ends != [var] and any(isinstance(walk.regions.get(v), LpBall) for v in ends):
        return intersect(walk.env[var], concretized(by_rows(from_affine_ends, walk, var), var))
    return walk.env[var]


def forward(walk: Walk, var: Var) -> Interval:
    """Bounds an operand by forward linear bounds."""
    return _update(walk, var, ordered(walk.forward.interval(var)))


def backward(walk: Walk, var: Var) -> Interval:
    """Bounds an operand by rows back to the inputs: all of its elements, or as many undecided ones as may."""
    both = together
    if walk.search:
        both = optimised if walk.search.inside else best_start
    known, ends, count = walk.env[var], by_windows(walk, var, both), walk.capacity(var)
    if count is None:
        return _update(walk, var, concretized(ends, var))
    # Where fewer elements are undecided, the rest of ``here`` lies beyond the operand and is dropped.
    here = jnp.nonzero(undecided(walk, var), size=min(count, var.size), fill_value=var.size)[0]
    lower, upper = (
        end.ravel().at[here].set(new, mode="drop").reshape(var.shape)
        for end, new in zip((known.lower, known.upper), ends.some(here), strict=True)
    )
    return _update(walk, var, outward(lower, upper))


def _update(walk: Walk, var: Var, found: Interval) -> Interval:
    """Intersects what is found with the known interval.

    A published method replaces the interval, unless the operand enters a function that is not defined
    everywhere: bounds by lines may leave its domain, intervals seldom do.
    """
    alone = walk.published and not any(
        is_partial(eqn.primitive) and var in eqn.moving.values() for eqn in walk.graph.equations
    )
    return supersede(walk.env[var], found) if alone else intersect(found, walk.env[var])


def undecided(walk: Walk, var: Var) -> Any:
    """Returns a flat mask of the elements that tighter intervals would help: their lines differ."""
    found = jnp.zeros(var.shape, bool)
    for eqn in walk.graph.equations:
        if var not in eqn.moving.values() or linear_operands(eqn) is not None:
            continue
        shapes = [v.shape for v in (*eqn.outputs, *eqn.moving.values())]
        if eqn.primitive not in ELEMENTWISE or shapes != 2 * [var.shape]:
            return jnp.ones(var.size, bool)
        image = zip(eqn.outputs, interval_step(eqn, walk.env), strict=True)
        lines = dataclasses.replace(walk, env=walk.env | dict(image)).relax(eqn)
        for end in (walk.env[var].lower, walk.env[var].upper):
            (low,), (high,) = (jax.tree.leaves(line(end)) for line in (lines.lower, lines.upper))
            found |= low != high
    return found.ravel()


# ---------------------------------------------------------------- ways to bound the output


def _elided(walk: Walk, var: Var) -> bool:
    """Tells whether to bound the last affine block as one map.

    It is where that is tighter, for no more rows than the largest input of the block has elements;
    after an lp ball, always.
    """
    ends = affine_ends(walk.graph, var)
    if any(isinstance(walk.regions.get(v), LpBall) for v in ends):
        return ends != [var]
    tighter = exactness(walk.graph, walk.regions, restart=True)[var] == LOOSE
    return tighter and var.size <= max(v.size for v in ends)


def interval_output(walk: Walk, var: Var) -> Interval:
    """Bounds the output by its interval, or by the intervals before its last affine block, taken as one map."""
    return (
        concretized(by_rows(from_affine_ends, walk, var), var)
        if _elided(walk, var)
        else walk.env[var]
    )


def forward_output(walk: Walk, var: Var) -> Interval:
    """Bounds the output by forward linear bounds; a small last affine block by those before it, as one map."""
    if affine_ends(walk.graph, var) != [var] and var.size <= max(
        v.size for v in affine_ends(walk.graph, var)
    ):
        return _within(walk, var, concretized(by_rows(through_linear_bounds, walk, var), var))
    return _within(walk, var, ordered(walk.forward.interval(var)))


def backward_output(walk: Walk, var: Var) -> Interval:
    """Bounds the output by rows back to the inputs."""
    both = optimised if walk.search else apart
    return _within(walk, var, concretized(by_windows(walk, var, both), var))


def _within(walk: Walk, var: Var, found: Interval) -> Interval:
    """Intersects what is found with the interval of the output.

    A published method does so only for the value of a non-linear equation: a probability is at most 1.
    """
    if not walk.published:
        return intersect(found, interval_output(walk, var))
    return intersect(found, walk.env[var]) if affine_ends(walk.graph, var) == [var] else found


class Recipe(NamedTuple):
    """Describes a method: how it bounds the operands of non-linear equations, and the output."""

    operand: Callable[[Walk, Var], Interval]
    output: Callable[[Walk, Var], Interval]
    rows: Callable[..., Finish] | None  # of the output, for `linear_bounds`; None: no such
