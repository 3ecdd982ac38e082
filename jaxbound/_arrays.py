"""Interval rules of array primitives that are not monotone: chosen elements of windows, products, solutions."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._arithmetic import ends
from jaxbound._interval import Interval


def entries(
    z,
    *,
    window_dimensions,
    window_strides,
    padding,
    base_dilation=None,
    window_dilation=None,
    **_,
):
    """The entries of every window along a last axis, 0 in the padding."""
    ones = (1,) * z.ndim
    base_dilation, window_dilation = base_dilation or ones, window_dilation or ones
    z = lax.pad(
        z,
        jnp.zeros((), z.dtype),
        [(low, high, d - 1) for (low, high), d in zip(padding, base_dilation, strict=True)],
    )
    reach = [(size - 1) * d for size, d in zip(window_dimensions, window_dilation, strict=True)]
    found = []
    for offset in itertools.product(*map(range, window_dimensions)):
        start = [o * d for o, d in zip(offset, window_dilation, strict=True)]
        stop = [n - r + s for n, r, s in zip(z.shape, reach, start, strict=True)]
        found.append(lax.slice(z, start, stop, window_strides))
    return jnp.stack(found, -1)


# ---------------------------------------------------------------- the chosen element of a window


def gathered(tangents, operand, *, select_prim, **window) -> Interval:
    """The tangent of each window's chosen element: between those of all that may be."""
    if not isinstance(operand, Interval):
        return _at_ends(jp.select_and_gather_add_p, tangents, operand, select_prim, window)
    possible = _possible(operand, select_prim, window)
    low, high = (entries(end, **window) for end in ends(tangents))
    some = possible.any(-1)
    return Interval(
        jnp.where(some, jnp.where(possible, low, jnp.inf).min(-1), 0),
        jnp.where(some, jnp.where(possible, high, -jnp.inf).max(-1), 0),
    )


def scattered(source, operand, *, select_prim, **window) -> Interval:
    """Per element, the sum of the sources of the windows that choose it: of each all, nothing, or either."""
    if not isinstance(operand, Interval):
        return _at_ends(jp.select_and_scatter_add_p, source, operand, select_prim, window)
    possible = _possible(operand, select_prim, window)
    sure = possible.sum(-1, keepdims=True) == 1
    low, high = (end[..., None] for end in ends(source))
    low = jnp.where(possible, jnp.where(sure, low, jnp.minimum(low, 0)), 0)
    high = jnp.where(possible, jnp.where(sure, high, jnp.maximum(high, 0)), 0)
    back = jax.linear_transpose(lambda z: entries(z, **window), operand.lower)
    return Interval(*(back(end)[0] for end in (low, high)))


def _at_ends(primitive, x: Interval, operand, select_prim, window):
    lower, upper = (
        primitive.bind(end, operand, select_prim=select_prim, **window)
        for end in (x.lower, x.upper)
    )
    return Interval(lower, upper)


def _possible(operand: Interval, select_prim, window: dict[str, Any]):
    """Which entries of every window may be its chosen one."""
    l, u = operand.lower, operand.upper
    if select_prim is jp.le_p:  # the least, not the greatest
        l, u = -u, -l
    valid = entries(jnp.ones_like(l), **window) > 0
    least = jnp.where(valid, entries(l, **window), -jnp.inf).max(-1, keepdims=True)
    return valid & (entries(u, **window) >= least)


# ---------------------------------------------------------------- products, solutions


def scatter_product(operand, indices, updates: Interval, **params) -> Interval:
    """A known ``operand`` times all updates of each element, however many: the exact image.

    One end is the product of the updates' ends of greatest size. The other takes the opposite end of the
    factor that crosses 0 and loses the least by it; where none crosses, of all factors.
    """
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    options = {name: params[name] for name in names}
    l, u = updates.lower, updates.upper
    larger = jnp.abs(u) >= jnp.abs(l)
    far, near = jnp.where(larger, u, l), jnp.where(larger, l, u)
    crosses = (l < 0) & (u > 0)
    bounded = crosses & jnp.isfinite(far)
    loss = jnp.abs(jnp.where(bounded, near, 0) / jnp.where(bounded, far, 1))
    kept = jnp.where(bounded, jnp.maximum(loss, jnp.finfo(l.dtype).tiny), crosses)
    best = lax.scatter_max(jnp.zeros_like(operand), indices, kept.astype(l.dtype), **options)
    one, other = (lax.scatter_mul(operand, indices, end, **options) for end in (far, near))
    other = jnp.where(best > 0, -one * best, other)
    return Interval(jnp.minimum(one, other), jnp.maximum(one, other))


def triangular_solve(a, b: Interval, *, left_side, **params) -> Interval:
    """Of a known matrix: its inverse times b, by the centre and the radius of b."""

    def solve(z):
        return jp.triangular_solve_p.bind(a, z, left_side=left_side, **params)

    size = jnp.abs(solve(jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)))
    center, radius = solve(b.center), size @ b.radius if left_side else b.radius @ size
    return Interval(center - radius, center + radius)
