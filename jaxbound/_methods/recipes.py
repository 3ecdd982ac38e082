"""Who bounds the operands of non-linear equations, and who the output: what methods are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, intersect, ordered, outward, supersede
from jaxbound._bounds.regions import LpBall
from jaxbound._program.graph import Var
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import elementwise, partial
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

# ---------------------------------------------------------------- who bounds an operand


def keep(walk: Walk, var: Var) -> Interval:
    """The interval walk; the first affine block after an lp ball by its dual norm."""
    ends = affine_ends(walk.graph, var)
    if ends != [var] and any(isinstance(walk.regions.get(v), LpBall) for v in ends):
        return intersect(walk.env[var], concretized(by_rows(from_affine_ends, walk, var), var))
    return walk.env[var]


def forward(walk: Walk, var: Var) -> Interval:
    return _update(walk, var, ordered(walk.forward.interval(var)))


def backward(walk: Walk, var: Var) -> Interval:
    both = together
    if walk.search:
        both = optimised if walk.search.inside else best_start
    known, ends, count = walk.env[var], by_windows(walk, var, both), walk.capacity(var)
    if count is None:
        return _update(walk, var, concretized(ends, var))
    here = jnp.nonzero(undecided(walk, var), size=min(count, var.size), fill_value=var.size)[0]
    lower, upper = (
        end.ravel().at[here].set(new, mode="drop").reshape(var.shape)
        for end, new in zip((known.lower, known.upper), ends.some(here), strict=True)
    )
    return _update(walk, var, outward(lower, upper))


def _update(walk: Walk, var: Var, found: Interval) -> Interval:
    """Intersects what is found with the interval; as published, it replaces it, unless a domain may end there."""
    alone = walk.published and not any(
        eqn.primitive in partial and var in eqn.moving.values() for eqn in walk.graph.equations
    )
    return supersede(walk.env[var], found) if alone else intersect(found, walk.env[var])


def undecided(walk: Walk, var: Var) -> Any:
    """The elements, flat, that tighter intervals would help: their lines are not the function itself."""
    found = jnp.zeros(var.shape, bool)
    for eqn in walk.graph.equations:
        if var not in eqn.moving.values() or linear_operands(eqn) is not None:
            continue
        shapes = [v.shape for v in (*eqn.outputs, *eqn.moving.values())]
        if eqn.primitive not in elementwise or shapes != 2 * [var.shape]:
            return jnp.ones(var.size, bool)
        image = zip(eqn.outputs, interval_step(eqn, walk.env), strict=True)
        lines = dataclasses.replace(walk, env=walk.env | dict(image)).relax(eqn)
        for end in (walk.env[var].lower, walk.env[var].upper):
            (low,), (high,) = (jax.tree.leaves(line(end)) for line in (lines.lower, lines.upper))
            found |= low != high
    return found.ravel()


# ---------------------------------------------------------------- who bounds the output


def _elided(walk: Walk, var: Var) -> bool:
    """Whether the last affine block is worth bounding as one map."""
    ends = affine_ends(walk.graph, var)
    if any(isinstance(walk.regions.get(v), LpBall) for v in ends):
        return ends != [var]
    tighter = exactness(walk.graph, walk.regions, restart=True)[var] == LOOSE
    return tighter and var.size <= max(v.size for v in ends)


def interval_output(walk: Walk, var: Var) -> Interval:
    return (
        concretized(by_rows(from_affine_ends, walk, var), var)
        if _elided(walk, var)
        else walk.env[var]
    )


def forward_output(walk: Walk, var: Var) -> Interval:
    if affine_ends(walk.graph, var) != [var] and var.size <= max(
        v.size for v in affine_ends(walk.graph, var)
    ):
        return _within(walk, var, concretized(by_rows(through_linear_bounds, walk, var), var))
    return _within(walk, var, ordered(walk.forward.interval(var)))


def backward_output(walk: Walk, var: Var) -> Interval:
    both = optimised if walk.search else apart
    return _within(walk, var, concretized(by_windows(walk, var, both), var))


def _within(walk: Walk, var: Var, found: Interval) -> Interval:
    """Intersects with the interval; as published, with that of a non-linear equation (a probability is at most 1)."""
    if not walk.published:
        return intersect(found, interval_output(walk, var))
    return intersect(found, walk.env[var]) if affine_ends(walk.graph, var) == [var] else found


class Recipe(NamedTuple):
    """A published method."""

    operand: Callable[[Walk, Var], Interval]
    output: Callable[[Walk, Var], Interval]
    rows: Callable[..., Finish] | None  # of the output, for `linear_bounds`
