"""Bounds what picks among values (maxima, choices by a predicate, order) by intervals and affine functions.

Of entries between ``l`` and ``u``, only those with ``u >= max l`` can be the largest.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program.rewrites import mirrored
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.curves import Choice
from jaxbound._rules.maxima import greatest
from jaxbound._rules.planes import Relaxation

# ---------------------------------------------------------------- maxima


def entries(z, *, window_dimensions, window_strides, padding, base_dilation, window_dilation, **_):
    """Returns the entries of every window along a last axis, 0 in the padding."""
    z = lax.pad(
        z,
        jnp.zeros((), z.dtype),
        [(low, high, d - 1) for (low, high), d in zip(padding, base_dilation, strict=True)],
    )
    reach = [(size - 1) * d for size, d in zip(window_dimensions, window_dilation, strict=True)]
    entries = []
    for offset in itertools.product(*map(range, window_dimensions)):
        start = [o * d for o, d in zip(offset, window_dilation, strict=True)]
        stop = [n - r + s for n, r, s in zip(z.shape, reach, start, strict=True)]
        entries.append(lax.slice(z, start, stop, window_strides))
    return jnp.stack(entries, -1)


def candidates(lower, upper, valid: Any = True):
    """Returns which entries of the last axis may be the largest, and which one surely is, as no other may be."""
    least, _ = _extremes(lower.dtype)
    may = valid & (upper >= jnp.max(lower, -1, keepdims=True, where=valid, initial=least))
    return may, may & (may.sum(-1, keepdims=True) == 1)


def hull(may, x) -> Interval:
    """Returns ``[min lower, max upper]`` of the entries along the last axis that are marked in ``may``."""
    low, high = ends(x)
    least, most = _extremes(low.dtype)
    return Interval(
        jnp.min(low, -1, where=may, initial=most), jnp.max(high, -1, where=may, initial=least)
    )


def _extremes(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        return -jnp.inf, jnp.inf
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return np.array(limits.min, dtype), np.array(limits.max, dtype)
    return False, True


def arg(sign: int):
    """Returns the interval rule of argmax (1) or argmin (-1): from the first to the last index that may win."""

    def arg_image(x: Interval, *, axes, index_dtype, **_):
        lower, upper = (jnp.moveaxis(end, axes[0], -1) for end in (x.lower, x.upper))
        may, _ = (
            candidates(lower, upper) if sign > 0 else candidates(mirrored(upper), mirrored(lower))
        )
        return hull(may, jnp.broadcast_to(lax.iota(index_dtype, may.shape[-1]), may.shape))

    return arg_image


# ---------------------------------------------------------------- order


def _places(lower, upper):
    """Returns whether, in ascending order along the last axis, place i may hold entry j: ``[..., i, j]``."""
    count = lower.shape[-1]
    before = (upper[..., None, :] < lower[..., :, None]).sum(-1)
    after = (lower[..., None, :] > upper[..., :, None]).sum(-1)
    place = jnp.arange(count).reshape(*[1] * (lower.ndim - 1), -1, 1)
    return (before[..., None, :] <= place) & (place <= count - 1 - after[..., None, :])


def sort(*operands, dimension, num_keys, **params):
    """Bounds sorted arrays: the first by its sorted ends, the others by all entries that may come to each place.

    The ends are sorted because order statistics do not decrease in any entry.
    """
    low, high = ends(operands[0])
    outs = [Interval(lax.sort(low, dimension), lax.sort(high, dimension))]
    if len(operands) > 1:
        may = _places(*(jnp.moveaxis(end, dimension, -1) for end in (low, high)))
    for x in operands[1:]:
        moved = (jnp.moveaxis(end, dimension, -1)[..., None, :] for end in ends(x))
        found = hull(may, Interval(*moved))
        outs.append(Interval(*(jnp.moveaxis(end, -1, dimension) for end in ends(found))))
    return outs


def top_k(x: Interval, *, k, axis, **params):
    lower, upper = (jnp.moveaxis(end, axis, -1) for end in ends(x))
    may = _places(mirrored(upper), mirrored(lower))[..., :k, :]
    found = hull(may, jnp.broadcast_to(jnp.arange(may.shape[-1], dtype=jnp.int32), may.shape))
    indices = Interval(*(jnp.moveaxis(end, -1, axis) for end in ends(found)))
    values = (jp.top_k_p.bind(end, k=k, axis=axis, **params)[0] for end in ends(x))
    return [Interval(*values), indices]


# ---------------------------------------------------------------- a predicate


def _possible(which, cases):
    """Returns which of the cases, along a last axis, a predicate may choose."""
    shape, count = jnp.shape(ends(cases[0])[0]), len(cases)
    first, last = (jnp.clip(end.astype(jnp.int32), 0, count - 1)[..., None] for end in ends(which))
    index = jnp.arange(count, dtype=jnp.int32).reshape((1,) * (first.ndim - 1) + (count,))
    return jnp.broadcast_to((first <= index) & (index <= last), (*shape, count))


def select_n(which, *cases, **params):
    """Bounds a choice by the least and the greatest end of the cases that the predicate may choose."""
    if isinstance(which, Interval):
        low, high = (jnp.stack(side, -1) for side in zip(*map(ends, cases), strict=True))
        return hull(_possible(which, cases), Interval(low, high))
    sides = zip(*map(ends, cases), strict=True)
    return Interval(*(jp.select_n_p.bind(which, *side, **params) for side in sides))


def select_n_lines(which, *cases, image, choice, **_) -> Relaxation:
    """Returns lines of the largest and the least case that the predicate may choose: the case itself if one only.

    A line that lies outside of the interval gives way to it: at the cases' centres, or if "tight" at the
    cases' lower (upper) ends.
    """
    possible = _possible(which, cases)
    moving = [case for case in cases if isinstance(case, Interval)]

    def stacked(*xs):
        found = iter(xs)
        every = jnp.stack([next(found) if isinstance(c, Interval) else c for c in cases], -1)
        # A known case may be NaN, as what `jnp.median` returns of NaN: it must not enter a product with a weight of 0.
        return jnp.where(possible, every, 0)

    below = Interval(-image.upper, -image.lower)
    negated = [Interval(-case.upper, -case.lower) for case in moving]
    high = greatest(stacked, moving, image, Choice(), possible).upper
    low = greatest(
        lambda *xs: -stacked(*(-x for x in xs)), negated, below, Choice(), possible
    ).upper
    lowest, highest = (
        [
            case.center if choice.kind != "tight" else end
            for case, end in zip(moving, side, strict=True)
        ]
        for side in ([c.lower for c in moving], [c.upper for c in moving])
    )
    under = -low(*(-x for x in lowest)) >= image.lower
    over = high(*highest) <= image.upper
    return Relaxation(
        lambda *xs: jnp.where(under, -low(*(-x for x in xs)), image.lower),
        lambda *xs: jnp.where(over, high(*xs), image.upper),
    )


# ---------------------------------------------------------------- derivatives of a maximum


def _selected(operand, select_prim, **window):
    """Returns ``pick``, which takes the entries of windows, and masks: which may be selected, which surely are."""
    pick = functools.partial(entries, **window)
    low, high = ends(operand) if select_prim is jp.ge_p else (-end for end in ends(operand)[::-1])
    return pick, *candidates(pick(low), pick(high), pick(jnp.ones_like(low)) > 0)


def gather_selected(tangents, operand, **params):
    """Bounds the tangent of the selected (largest or least) entry of each window, by all that may be selected."""
    pick, may, _ = _selected(operand, **params)
    return hull(may, Interval(*map(pick, ends(tangents))))


def gather_selected_lines(tangents, operand, *, image, choice, **params) -> Relaxation:
    """Returns the tangent itself of an entry that is surely selected; elsewhere, constants."""
    pick, _, surely = _selected(operand, **params)
    decided = surely.any(-1)

    def picked(end):
        def line(*xs):
            of = xs[0] if isinstance(tangents, Interval) else tangents
            return jnp.where(decided, jnp.where(surely, pick(of), 0).sum(-1), end)

        return line

    return Relaxation(picked(image.lower), picked(image.upper))


def _scattering(source, operand, **params):
    """Returns ``scatter`` for entries of windows, which entries surely receive, and the ends of what others may."""
    ones = (1,) * len(params["window_dimensions"])
    pick, may, surely = _selected(operand, base_dilation=ones, window_dilation=ones, **params)
    aval = jax.ShapeDtypeStruct(*(f(ends(operand)[0]) for f in (jnp.shape, jnp.result_type)))
    scatter = lambda values: jax.linear_transpose(pick, aval)(values)[0]
    low, high = (end[..., None] for end in ends(source))
    maybe = [
        jnp.where(may & ~surely, bound(end, 0), 0)
        for bound, end in ((jnp.minimum, low), (jnp.maximum, high))
    ]
    return scatter, surely, maybe


def scatter_selected(source, operand, **params):
    """Bounds sums to which every window adds its source, at its selected (largest or least) entry."""
    scatter, surely, maybe = _scattering(source, operand, **params)
    sure = (jnp.where(surely, end[..., None], 0) for end in ends(source))
    return Interval(*(scatter(a + b) for a, b in zip(sure, maybe, strict=True)))


def scatter_selected_lines(source, operand, *, image, choice, **params) -> Relaxation:
    """Returns sums that are linear in the sources of entries that surely receive, with constants for the others."""
    scatter, surely, maybe = _scattering(source, operand, **params)

    def scattered(values):
        def line(*xs):
            of = xs[0] if isinstance(source, Interval) else source
            return scatter(jnp.where(surely, of[..., None], 0)) + scatter(values)

        return line

    lower, upper = map(scattered, maybe)
    return Relaxation(lower, upper)
