"""Who bounds the operands of non-linear equations, and who the output: what methods are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._backward import map_rows, walk_back
from jaxbound._exactness import LOOSE, affine_ends, exactness, nonlinear_before
from jaxbound._forward import Affine
from jaxbound._interval import Interval, LpBall, Region, intersect, outward, supersede
from jaxbound._linear import LinearBounds, once, support, weigh
from jaxbound._program import Equation, Graph, Var
from jaxbound._relaxations import Relaxation


@dataclasses.dataclass(frozen=True)
class Walk:
    """What the steps of one call share."""

    graph: Graph
    regions: dict[Var, Region]
    env: dict[Var, Any]
    relax: Callable[[Equation], Relaxation]
    linear: Callable[[Var], Affine]
    chunk_size: int | None


# Affine lower bounds of ``rows . var``: the regions they run over, their coefficients [K, *region.shape]
# and the offset [K].
Below = tuple[list[Region], list[Any], Any]


def from_inputs(walk: Walk, var: Var) -> Callable[[Any], Below]:
    """Rows back to the inputs, through the relaxations."""
    for eqn in nonlinear_before(walk.graph, var):
        walk.relax(eqn)  # made here, outside of the loop over rows

    def below(rows) -> Below:
        ends, offset = walk_back(walk.graph, var, rows, walk.env, walk.relax)
        shapes = [(rows.shape[0], *v.shape) for v in walk.regions]
        coeffs = [
            ends[v] if v in ends else jnp.zeros(s, rows.dtype)
            for v, s in zip(walk.regions, shapes, strict=True)
        ]
        return list(walk.regions.values()), coeffs, offset

    return below


def from_affine_ends(walk: Walk, var: Var) -> Callable[[Any], Below]:
    """Rows back through affine equations only, to values whose intervals are known."""

    def below(rows) -> Below:
        ends, offset = walk_back(walk.graph, var, rows, walk.env, None)
        regions = [walk.regions[v] if v in walk.regions else walk.env[v] for v in ends]
        return regions, list(ends.values()), offset

    return below


def through_linear_bounds(walk: Walk, var: Var) -> Callable[[Any], Below]:
    """Rows back through affine equations, then through the forward linear bounds found there."""
    affine = {end: walk.linear(end) for end in affine_ends(walk.graph, var)}
    sizes = [v.size for v in walk.regions]
    starts = [sum(sizes[:i]) for i in range(1, len(sizes))]

    def below(rows) -> Below:
        ends, offset = walk_back(walk.graph, var, rows, walk.env, None)
        total = jnp.zeros((rows.shape[0], sum(sizes)), rows.dtype)
        for end, coeffs in ends.items():
            flat = coeffs.reshape(rows.shape[0], -1)
            for part, side in ((jnp.maximum(flat, 0), "lower"), (jnp.minimum(flat, 0), "upper")):
                slopes = getattr(affine[end].coeffs, side)
                total = total + part @ slopes.reshape(slopes.shape[0], -1).T
                offset = offset + weigh(part, getattr(affine[end].offset, side))
        blocks = zip(jnp.split(total, starts, axis=1), walk.regions, strict=True)
        return (
            list(walk.regions.values()),
            [b.reshape(rows.shape[0], *v.shape) for b, v in blocks],
            offset,
        )

    return below


def _interval_below(below: Below):
    regions, coeffs, offset = below
    pairs = zip(regions, coeffs, strict=True)
    return once(offset - sum(support(region, -c.reshape(c.shape[0], -1)) for region, c in pairs))


def concretized(kind: Callable[..., Callable[[Any], Below]], walk: Walk, var: Var) -> Interval:
    """The interval of ``var`` by rows; the upper end is the lower end of its negative."""
    below = kind(walk, var)

    def some(rows):
        return _interval_below(below(rows)), -_interval_below(below(-rows))

    lower, upper = map_rows(some, walk.graph, var, walk.chunk_size)
    return outward(lower.reshape(var.shape), upper.reshape(var.shape))


def linear_bounds_of(
    kind: Callable[..., Callable[[Any], Below]], walk: Walk, var: Var
) -> LinearBounds:
    """The linear bounds of ``var`` with respect to the inputs."""
    below = kind(walk, var)

    def some(rows):
        (_, low, low_offset), (_, high, high_offset) = below(rows), below(-rows)
        return tuple(low), low_offset, tuple(-c for c in high), -high_offset

    arrays = map_rows(some, walk.graph, var, walk.chunk_size)
    return LinearBounds(*jax.tree.map(lambda x: x.reshape(*var.shape, *x.shape[1:]), arrays))


# ---------------------------------------------------------------- who bounds an operand


def keep(walk: Walk, var: Var) -> Interval:
    """The interval walk; the first affine block after an lp ball by its dual norm."""
    ends = affine_ends(walk.graph, var)
    if ends != [var] and any(isinstance(walk.regions.get(v), LpBall) for v in ends):
        return intersect(walk.env[var], concretized(from_affine_ends, walk, var))
    return walk.env[var]


def forward(walk: Walk, var: Var) -> Interval:
    return supersede(walk.env[var], walk.linear(var).interval(list(walk.regions.values())))


def backward(walk: Walk, var: Var) -> Interval:
    return supersede(walk.env[var], concretized(from_inputs, walk, var))


# ---------------------------------------------------------------- who bounds the output


def _elided(walk: Walk, var: Var) -> bool:
    """Whether the last affine block is worth bounding as one map."""
    ends = affine_ends(walk.graph, var)
    if any(isinstance(walk.regions.get(v), LpBall) for v in ends):
        return ends != [var]
    tighter = exactness(walk.graph, walk.regions, restart=True)[var] == LOOSE
    return tighter and var.size <= max(v.size for v in ends)


def interval_output(walk: Walk, var: Var) -> Interval:
    return concretized(from_affine_ends, walk, var) if _elided(walk, var) else walk.env[var]


def forward_output(walk: Walk, var: Var) -> Interval:
    if affine_ends(walk.graph, var) != [var] and var.size <= max(
        v.size for v in affine_ends(walk.graph, var)
    ):
        return concretized(through_linear_bounds, walk, var)
    return walk.linear(var).interval(list(walk.regions.values()))


def backward_output(walk: Walk, var: Var) -> Interval:
    return concretized(from_inputs, walk, var)


class Recipe(NamedTuple):
    """A published method."""

    operand: Callable[[Walk, Var], Interval]
    output: Callable[[Walk, Var], Interval]
    rows: Callable[..., Callable[[Any], Below]] | None  # of the output, for `linear_bounds`
