"""Computes what balls are bounded by: dual norms, and the support of a ball that a box clips."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.numerics import along


def clipped_support(ball, clip, coeffs, axis: int):
    """Returns the support of a clipped ball: ``max <c, x>`` for ``norm(x - center, p) <= r`` and x in the clip.

    With a = ``|c|`` and room t in [0, r] towards the sign of c, this is ``<c, center>`` plus the
    maximum of ``<a, d>`` for ``0 <= d <= t, norm(d, p) <= r``. By Hoelder's inequality every u in
    [0, a] is proof of an upper bound, ``<a, d> <= r norm(u, q) + <t, a - u>``. The least one is attained at
    some ``u = min(a, mu (t/r)^(p-1))``: there ``d = min(t, r (a/mu)^(q-1))`` has the norm r, or mu = 0.
    Bisection finds mu; the value returned is an upper bound for every mu, so the bound stays sound.
    """
    p, radius = ball.p, ball.radius
    sides = (clip.upper - ball.center, ball.center - clip.lower)
    up, down = (along(_share(jnp.maximum(side, 0), radius), coeffs.ndim, axis) for side in sides)
    share = jnp.where(coeffs > 0, up, down)
    size = jnp.where(share > 0, jnp.abs(coeffs), 0)
    scale = lax.stop_gradient(size.max(axis, initial=0, keepdims=True))
    size = size / jnp.where(scale > 0, scale, 1)
    limit = _limit(share, size, p, axis)
    proof = jnp.minimum(size, limit)
    least = norm(proof, dual(p), axis) + (share * (size - proof)).sum(axis)
    center = (coeffs * along(ball.center, coeffs.ndim, axis)).sum(axis)
    return center + radius * scale.squeeze(axis) * least


def _share(room, radius):
    """Returns ``min(room, radius) / radius``; for radius 0 its limit: 1 where there is room, else 0."""
    some = jnp.where(radius > 0, radius, 1)
    return jnp.where(room < radius, room / some, jnp.where(room > 0, 1, 0).astype(room.dtype))


def _limit(share, size, p: float, axis: int):
    """Returns ``mu share^(p-1)`` at the best mu; for p > 1 a constant for the gradient, as that mu is stationary."""
    room, most = lax.stop_gradient((share, size))

    def narrow(_, ends):
        low, high = ends
        mu = (low + high) / 2
        moved = (
            jnp.where(most > mu, room, 0)
            if p == 1
            else jnp.minimum(room, (most / mu) ** (1 / (p - 1)))
        )
        far = (moved**p).sum(axis, keepdims=True) > 1
        return jnp.where(far, mu, low), jnp.where(far, high, mu)

    high = jnp.expand_dims(norm(most, dual(p), axis), axis)
    steps = jnp.finfo(size.dtype).nmant + 2
    high = lax.fori_loop(0, steps, narrow, (jnp.zeros_like(high), high))[1]
    if p == 1:  # the best mu is one of the sizes, not stationary: it has that size's gradient
        return jnp.where(size <= high, size, 0).max(axis, initial=0, keepdims=True)
    return high * room ** (p - 1)


def dual(p: float) -> float:
    """Returns q with ``1/p + 1/q = 1``."""
    if p == 1:
        return jnp.inf
    return 1.0 if p == jnp.inf else p / (p - 1)


def norm(coeffs, q: float, axis: int):
    """Returns ``norm(coeffs, q)`` along ``axis``, with finite gradients at 0."""
    size = jnp.abs(coeffs)
    if q == 1:
        return size.sum(axis)
    largest = size.max(axis, initial=0, keepdims=True)
    if q == jnp.inf:
        return largest.squeeze(axis)
    scale = lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    total = ((size / scale) ** q).sum(axis)
    some = total > 0
    return jnp.where(some, scale.squeeze(axis) * jnp.where(some, total, 1) ** (1 / q), 0)
