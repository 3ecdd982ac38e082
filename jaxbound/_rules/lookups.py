"""Bounds reads at uncertain indices, by the hull of what may be read, and searches in tables.

On each axis, a read may start anywhere in a range. The least and the greatest entry of every window of
1, 2, 4, ... entries are made once by doubling, and two overlapping ones cover any range.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program import searches
from jaxbound._program.indexing import clamped
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.linear_rules import LinearRule, among, linear_rules
from jaxbound._rules.relaxations import Relaxation, relaxations
from jaxbound._rules.rounding import Terms
from jaxbound._rules.terms import copies


def _starts(x, indices, dimension_numbers, slice_sizes):
    """Returns the ends of the indices as a gather clamps them, and the greatest start of each axis."""
    axes = dimension_numbers.start_index_map
    limits = [jnp.shape(ends(x)[0])[axis] - slice_sizes[axis] for axis in axes]
    return *(clamped(index, limits) for index in ends(indices)), limits


def gather(x, indices, *, dimension_numbers, slice_sizes, **params) -> Interval:
    """Bounds a gather by ``[min, max]`` over all starts between the ends of the indices, each axis by itself."""
    if not isinstance(indices, Interval):
        read = lambda end: jp.gather_p.bind(
            end, indices, dimension_numbers=dimension_numbers, slice_sizes=slice_sizes, **params
        )
        return Interval(*map(read, ends(x)))
    low, high, limits = _starts(x, indices, dimension_numbers, slice_sizes)
    level = 31 - lax.clz(high - low + 1)  # two windows of 2 ** level starts cover the range
    second = high - (1 << level) + 1
    count, axes = len(limits), dimension_numbers.start_index_map
    numbers = lax.GatherDimensionNumbers(
        dimension_numbers.offset_dims,
        (*range(count), *(count + i for i in dimension_numbers.collapsed_slice_dims)),
        (*range(count), *(count + i for i in axes)),
        tuple(count + i for i in dimension_numbers.operand_batching_dims),
        dimension_numbers.start_indices_batching_dims,
    )

    def extreme(end, of):
        levels = _doubled(end, of, axes, limits)
        found = []
        for last in itertools.product((False, True), repeat=count):
            at = jnp.concatenate([level, jnp.where(jnp.array(last), second, low)], -1)
            sizes = (*[1] * count, *slice_sizes)
            found.append(lax.gather(levels, at, numbers, sizes, mode="clip"))
        return functools.reduce(of, found)

    return Interval(extreme(ends(x)[0], lax.min), extreme(ends(x)[1], lax.max))


def _doubled(x, of, axes, limits):
    """Returns ``of`` (the least or greatest of) the ``2 ** level`` entries from every place on, for all levels.

    The levels are one new leading axis for each of ``axes``. Windows that reach around the end of an axis are
    of no use, and not read: no range goes beyond the end.
    """
    for i, (axis, limit) in enumerate(zip(axes, limits, strict=True)):
        levels = [x]
        for level in range((limit + 1).bit_length() - 1):
            levels.append(of(levels[-1], jnp.roll(levels[-1], -(1 << level), axis + i)))
        x = jnp.stack(levels, i)
    return x


def search(table, x, **options) -> Interval:
    """Bounds the place of ``x`` in a table, sorted or not: it never decreases as x grows or entries get smaller.

    For bisection, take the first step at which two searches part: the one that goes left ends at this place or
    before, the other after it. Other methods count the entries before ``x``. An infinite upper end may stand
    for NaN, which comes after infinity.
    """

    def most(z):
        upper = ends(z)[1]
        if not isinstance(z, Interval) or not jnp.issubdtype(upper.dtype, jnp.floating):
            return upper
        return jnp.where(upper < jnp.inf, upper, jnp.nan)

    lower = jnp.searchsorted(most(table), ends(x)[0], **options)
    return Interval(lower, jnp.searchsorted(ends(table)[0], most(x), **options))


def interpolation(x: Interval, places, table) -> Interval:
    """Returns the exact image: as pieces are monotone, the hull of both ends' values and the entries in between.

    A table that is not in order, or not finite, gives no bound.
    """
    ordered = (places[1:] >= places[:-1]).all() & jnp.isfinite(places).all()
    ordered &= jnp.isfinite(table).all()
    along = lambda entries: entries.reshape(*[1] * len(x.shape), -1)
    low, high = (jnp.interp(end, places, table) for end in ends(x))
    between = (x.lower[..., None] <= along(places)) & (along(places) <= x.upper[..., None])
    entries = jnp.broadcast_to(along(table), between.shape)
    least = jnp.min(entries, -1, where=between, initial=jnp.inf)
    most = jnp.max(entries, -1, where=between, initial=-jnp.inf)
    lower, upper = lax.min(lax.min(low, high), least), lax.max(lax.max(low, high), most)
    return Interval(jnp.where(ordered, lower, -jnp.inf), jnp.where(ordered, upper, jnp.inf))


def gather_lines(x, indices: Interval, *, image, choice, **params) -> Relaxation:
    """Returns the entry itself where only one may be read, and constants elsewhere."""
    shape = jnp.shape(ends(x)[0])
    low, high, _ = _starts(x, indices, params["dimension_numbers"], params["slice_sizes"])
    read = lambda z, index: jp.gather_p.bind(z, index, **params)
    sure = jnp.ones(image.shape, bool)
    for axis in params["dimension_numbers"].start_index_map:
        place = lax.broadcasted_iota(jnp.int32, shape, axis)
        sure &= read(place, low) == read(place, high)

    def at(end):
        def line(*z: Any):
            return jnp.where(sure, read(z[0] if z else x, low), end)

        return line

    return Relaxation(at(image.lower), at(image.upper))


interval_rules |= {
    jp.gather_p: IntervalRule(gather, exact=True, error=Terms(backward=copies)),
    searches.search: IntervalRule(search),
    searches.interpolation: IntervalRule(interpolation, (0,)),
}
linear_rules[jp.gather_p] = LinearRule(among((0,)), copies=(0,))
relaxations[jp.gather_p] = gather_lines
