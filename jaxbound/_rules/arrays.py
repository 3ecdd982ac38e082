"""Bounds array primitives that are not monotone, products and solutions, by intervals."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._rules.integers import any_integer


def scatter_product(operand, indices, updates: Interval, **params) -> Interval:
    """Returns the exact image of a known ``operand`` times all updates of each element, however many.

    One end is the product of the updates' ends of greatest size. The other replaces one factor in it, of those
    that cross 0 the one that loses the least size by it, by its opposite end; where none crosses 0, all factors.
    """
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    options = {name: params[name] for name in names}
    l, u = updates.lower, updates.upper
    if jnp.issubdtype(l.dtype, jnp.integer):  # products may wrap around
        return any_integer(operand)
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
    """Bounds the inverse of a known matrix times b, by the centre and the radius of b."""

    def solve(z):
        return jp.triangular_solve_p.bind(a, z, left_side=left_side, **params)

    size = jnp.abs(solve(jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)))
    center, radius = solve(b.center), size @ b.radius if left_side else b.radius @ size
    return Interval(center - radius, center + radius)
