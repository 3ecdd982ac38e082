"""Bounds a variable by rows that go backward, many at a time."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, outward
from jaxbound._bounds.linear import LinearBounds
from jaxbound._bounds.numerics import once, weigh
from jaxbound._bounds.regions import Region
from jaxbound._bounds.rounding import lowered, wide
from jaxbound._locality.receptive import crop
from jaxbound._locality.slices import joined
from jaxbound._locality.windows import sizes
from jaxbound._program.graph import Equation, Var
from jaxbound._rules.arithmetic import ends as ends_of
from jaxbound._rules.relaxing import relax_all
from jaxbound._walks import losses
from jaxbound._walks.backward import Rows, Step, unit_rows, walk_back
from jaxbound._walks.chunks import check_fits, map_chunks
from jaxbound._walks.context import Context
from jaxbound._walks.operands import affine_ends, nonlinear_before, relaxed_operands


class Below(NamedTuple):
    """Holds affine lower bounds of some rows.

    Attributes:
      regions: of the values that the bounds are functions of.
      coeffs: ``[K, *region.shape]`` for each region.
      offset: ``[K]``.
      floor: ``[K]``, lower bounds that are known otherwise.
      lost: ``[K]``, what rounding may have added on the way to the coefficients and the offset; None: not asked.
    """

    regions: list[Region]
    coeffs: list[Any]
    offset: Any
    floor: Any = -jnp.inf
    lost: Any = None


# Turns rows at inputs and at outputs of non-linear equations, and their offset, into affine lower bounds.
Finish = Callable[[Rows, Any], Below]


def from_inputs(context: Context, var: Var) -> Finish:
    """Returns a `Finish` that takes rows back to the inputs, through the relaxations."""

    def finish(rows: Rows, offset) -> Below:
        floors: list[Any] = []
        lost = context.losses()
        step = _looking(context, var, floors, lost) if context.early else context.step
        ends, offset = walk_back(
            context.graph, rows, offset, context.env, context.lines, step, lost
        )
        floor = jnp.stack(floors).max(0) if floors else -jnp.inf
        coeffs = [
            ends[v] if v in ends else jnp.zeros((len(offset), *v.shape), offset.dtype)
            for v in context.regions
        ]
        return Below(list(context.regions.values()), coeffs, offset, floor, _sum(lost))

    return finish


def _sum(lost: list[Any] | None):
    """Returns what was lost so far; None if it is not asked."""
    return None if lost is None else losses.total(lost)


def _looking(context: Context, var: Var, floors: list[Any], lost: list[Any] | None) -> Step:
    """Returns a step that appends to ``floors`` the least values of rows, wherever intervals are known."""
    known = {*context.regions, *relaxed_operands(context.graph)}
    known |= {out for eqn in nonlinear_before(context.graph, var) for out in eqn.outputs}

    def step(eqn: Equation, rows: Rows, offset):
        if rows.keys() <= known and not rows.keys().isdisjoint(eqn.outputs):
            floors.append(least(_where_they_are(context, rows, offset)._replace(lost=_sum(lost))))
        return context.step(eqn, rows, offset)

    return step


def _where_they_are(context: Context, rows: Rows, offset) -> Below:
    """Returns rows as lower bounds in terms of the values where they are."""
    regions = [context.regions.get(v, context.env[v]) for v in rows]
    return Below(regions, list(rows.values()), offset, lost=_sum(context.losses()))


def from_affine_ends(context: Context, var: Var) -> Finish:
    """Returns a `Finish` that leaves rows where affine equations end, at values whose intervals are known."""
    return functools.partial(_where_they_are, context)


def through_linear_bounds(context: Context, var: Var) -> Finish:
    """Returns a `Finish` that takes rows through the forward linear bounds of the values where they are."""
    affine = {
        end: context.forward.linear(end, context.env, context.lines)
        for end in affine_ends(context.graph, var)
    }
    lengths = [v.size for v in context.regions]
    starts = [sum(lengths[:i]) for i in range(1, len(lengths))]

    def finish(rows: Rows, offset) -> Below:
        total = jnp.zeros((len(offset), sum(lengths)), offset.dtype)
        for end, coeffs in rows.items():
            flat = coeffs.reshape(len(offset), -1)
            low, high = (c.reshape(c.shape[0], -1).T for c in ends_of(affine[end].coeffs))
            total = total + jnp.maximum(flat, 0) @ low + jnp.minimum(flat, 0) @ high
            low_offset, high_offset = map(jnp.ravel, ends_of(affine[end].offset))
            offset = offset + weigh(flat, low_offset, high_offset)
        blocks = zip(jnp.split(total, starts, axis=1), context.regions, strict=True)
        coeffs = [b.reshape(len(offset), *v.shape) for b, v in blocks]
        return Below(list(context.regions.values()), coeffs, offset)

    return finish


def least(below: Below):
    """Returns the least values ``[K]`` of affine lower bounds in their regions, or the floor where that is higher."""
    pairs = zip(below.regions, below.coeffs, strict=True)
    lowest = sum(region.support(-c.reshape(c.shape[0], -1)) for region, c in pairs)
    if below.lost is None:
        return jnp.maximum(once(below.offset - lowest), below.floor)
    found = losses.least(below.regions, below.coeffs, below.offset, lowest, below.lost)
    return jnp.maximum(found, below.floor)


def affine_rows(context: Context, var: Var, indices, lost: list[Any] | None = None):
    """Takes rows back as far as equations are affine: there, the rows of ``-var`` are those of ``var``, negated.

    Returns:
      The rows and their offset; what both signs of them lose on the way is appended to ``lost``, as in `walk_back`.
    """
    start, rows, offset = unit_rows(context.graph, var, indices, context.env, lost)
    offset = offset if lost is None else wide(offset)
    return walk_back(context.graph, {start: rows}, offset, context.env, None, lost=lost)


def _both_signs(finish: Finish, rows: Rows, offset) -> tuple[Below, Below]:
    """Returns lower bounds of the rows' values and of their negatives."""
    return finish(rows, offset), finish({v: -row for v, row in rows.items()}, -offset)


# Gives the lower and the upper ends ``[K]`` of the values of rows and their offset.
RowEnds = Callable[[Rows, Any], tuple[Any, Any]]


def apart(kind: Callable[..., Finish], context: Context, var: Var) -> RowEnds:
    """Returns a function for both ends by two walks: a caller who reads one end pays for one."""
    finish = kind(context, var)

    def ends_of_rows(rows: Rows, offset):
        below, above = _both_signs(finish, rows, offset)
        return least(below), -least(above)

    return ends_of_rows


def together(kind: Callable[..., Finish], context: Context, var: Var) -> RowEnds:
    """Returns a function for both ends by one walk: less to compile."""
    finish = kind(context, var)

    def ends_of_rows(rows: Rows, offset):
        def lower_end(sign):
            return least(finish({v: sign * row for v, row in rows.items()}, sign * offset))

        lower, upper = jax.vmap(lower_end)(jnp.array([1, -1], offset.dtype))
        return lower, -upper

    return ends_of_rows


class Bounder(NamedTuple):
    """Holds functions that bound a variable: all of its elements, or some.

    ``every()`` gives lower and upper ends of ``var.size`` elements, ``chosen(indices [C])`` those at flat indices.
    """

    every: Callable[[], tuple[Any, Any]]
    chosen: Callable[[Any], tuple[Any, Any]]


def by_rows(kind: Callable[..., Finish], context: Context, var: Var, row_ends=apart) -> Bounder:
    """Bounds ``var`` by rows ``[C, *var.shape]``, many at a time."""
    ends, limit = row_ends(kind, context, var), context.rows_at_once(context.graph)

    def of_elements(indices):
        lost = context.losses()
        found = ends(*affine_rows(context, var, indices, lost))
        return losses.apart(found, _sum(lost))

    def chosen(indices):
        return map_chunks(lambda i: of_elements(indices[i]), limit, len(indices))

    return Bounder(lambda: map_chunks(of_elements, limit, var.size), chosen)


def by_windows(context: Context, var: Var, row_ends=apart) -> Bounder:
    """Bounds ``var`` by rows back to the inputs; where its elements read small windows, through those alone."""
    found = crop(context.graph, var)
    if found is None:
        return by_rows(from_inputs, context, var, row_ends)
    target, limit = found.target, context.rows_at_once(found.graph)

    def in_window(place, indices):
        """Bounds the elements at one place, by their indices in ``target``."""
        alphas = context.choices.alphas
        env, regions, alphas = found.values_at(place, context.env, context.regions, alphas)
        choices = context.choices._replace(alphas=alphas)
        lines = relax_all(found.graph.equations, env, choices)
        there = dataclasses.replace(
            context, graph=found.graph, env=env, regions=regions, choices=choices, lines=lines
        )
        lost = there.losses()
        rows = affine_rows(there, target, indices, lost)
        return losses.apart(row_ends(from_inputs, there, target)(*rows), _sum(lost))

    def every():
        # All rows of one place share the lines of its window.
        there = jax.vmap(
            lambda i: in_window(jnp.unravel_index(i, found.counts), jnp.arange(target.size))
        )
        places = math.prod(found.counts)
        ends = map_chunks(there, max(1, limit // target.size), places)
        return tuple(joined(end, found.counts, sizes(found.window)) for end in ends)

    def chosen(indices):
        def element(i):
            # Along an axis that places move on, the window has length 1: the index wraps to 0.
            place = jnp.unravel_index(i, var.shape)
            flat = jnp.ravel_multi_index(place, sizes(found.window), mode="wrap")
            return jax.tree.map(jnp.squeeze, in_window(place, flat[None]))

        return map_chunks(lambda i: jax.vmap(element)(indices[i]), limit, len(indices))

    return Bounder(every, chosen)


def concretized(bounder: Bounder, var: Var) -> Interval:
    """Returns the interval of ``var`` by all of its rows; rounding may cross its ends."""
    return outward(*(end.reshape(var.shape) for end in bounder.every()))


def _settled(below: Below, lost) -> Below:
    """Returns the bounds with all that was lost taken from their offset."""
    if lost is None:
        return below
    return below._replace(offset=lowered(below.offset, below.lost + lost))


def _usable(below: Below) -> tuple[tuple[Any, ...], Any]:
    """Returns coefficients and offset; where one left its type or is NaN, no bound: coefficients 0, offset -inf."""
    flat = [c.reshape(c.shape[0], -1) for c in below.coeffs]
    moves = jnp.stack([(c != 0).any(1) for c in flat]).any(0)
    finite = jnp.stack([jnp.isfinite(c).all(1) for c in flat]).all(0)
    finite &= ~jnp.isnan(below.offset) & (jnp.isfinite(below.offset) | ~moves)
    coeffs = (jnp.where(finite[:, None], c, 0) for c in flat)
    shaped = tuple(c.reshape(old.shape) for c, old in zip(coeffs, below.coeffs, strict=True))
    return shaped, jnp.where(finite, below.offset, -jnp.inf)


def linear_bounds_of(kind: Callable[..., Finish], context: Context, var: Var) -> LinearBounds:
    """Returns the linear bounds of ``var`` with respect to the inputs."""
    inputs = sum(v.size for v in context.regions)
    check_fits(
        f"linear bounds of {var.size} outputs, {inputs} coefficients each, lower and upper,",
        2 * inputs * var.size * context.examples,
        var.dtype,
        "bound fewer outputs, or their intervals alone (jb.crown, jb.crown_ibp), which need no such table",
    )
    finish = kind(context, var)

    def pairs(indices):
        lost = context.losses()
        rows = affine_rows(context, var, indices, lost)
        below, above = (_settled(side, _sum(lost)) for side in _both_signs(finish, *rows))
        (low, offset), (high, other) = _usable(below), _usable(above)
        return low, offset, tuple(-c for c in high), -other

    limit = context.rows_at_once(context.graph)
    arrays = map_chunks(pairs, limit, var.size)
    return LinearBounds(*jax.tree.map(lambda x: x.reshape(*var.shape, *x.shape[1:]), arrays))
