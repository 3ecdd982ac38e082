"""Holds what bounds are computed with: sums without NaN, values that are computed once or can be seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer


def weigh(coeffs, positive, negative, axis: int = -1):
    """Returns ``sum max(coeffs, 0) positive + min(coeffs, 0) negative`` along ``axis``, with ``0 inf = 0``."""
    ends = [along(values, coeffs.ndim, axis) for values in (positive, negative)]
    finite = [jnp.where(jnp.isfinite(end), end, 0) for end in ends]
    found = jnp.where(coeffs > 0, coeffs * finite[0], coeffs * finite[1]).sum(axis)
    # Infinite ends are added without a gradient: 0 inf = NaN would spoil the gradient of the others.
    size, beyond = lax.stop_gradient((coeffs, [a - b for a, b in zip(ends, finite, strict=True)]))
    beyond = jnp.where(size > 0, beyond[0], jnp.where(size < 0, -beyond[1], 0))
    return found + beyond.sum(axis)


def along(values, ndim: int, axis: int):
    """Reshapes ``values`` to lie, flat, along one axis of an array of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def once(x):
    """Returns ``x``, and makes XLA compute it once, and its cotangent too.

    XLA fuses cheap operations into all that read them, and so repeats them for every element. It does not fuse
    divisions, so ``x`` is divided by 1 (an optimization barrier does not help: XLA removes it before it fuses).
    """
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    return x / jnp.where(jnp.isnan(x), 2, 1).astype(jnp.result_type(x))


def steepest(dtype) -> float:
    """Returns the number that stands for an infinite slope in gradients: unlike infinity, times 0 it is 0."""
    return min(1e18, float(jnp.finfo(dtype).max))


@jax.custom_jvp
def ratio(rise, width):
    """Returns ``rise / width``, with finite derivatives also where the square of the width underflows."""
    return rise / width


@ratio.defjvp
def _ratio_tangent(primals, tangents):
    (rise, width), (d_rise, d_width) = primals, tangents
    found, limit = ratio(rise, width), steepest(width.dtype)
    return found, (d_rise - found * d_width) * jnp.minimum(1 / width, limit)


def in_double(tree):
    """Returns a tree with all floating-point arrays in float64; to be called where that is enabled."""
    floating = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jax.tree.map(lambda x: jnp.asarray(x, float) if floating(x) else x, tree)


def concrete(x) -> np.ndarray | None:
    """Returns the value of ``x``, or None while it is traced."""
    return None if isinstance(x, Tracer) else np.asarray(x)
