"""Defines linear bounds of a function over its uncertain inputs, and concretizes them on regions."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval, ordered, outward
from jaxbound._bounds.regions import LpBall, Region, check_region, enclosing_box


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearBounds:
    """Holds two affine maps: ``<lower_coeffs, x> + lower_offset <= f(x) <= <upper_coeffs, x> + upper_offset``.

    Coefficients are tuples with one array ``[*output_shape, *input_shape]`` per uncertain input, in
    the order of the arguments (the layout of `jax.jacobian`); offsets are ``[*output_shape]``.
    """

    lower_coeffs: tuple[Any, ...]
    lower_offset: Any
    upper_coeffs: tuple[Any, ...]
    upper_offset: Any

    def __call__(self, *inputs) -> Interval:
        """Evaluates both affine maps at a point: ``bounds(x).lower <= f(x) <= bounds(x).upper`` in the region."""
        lower, upper = self.lower_offset, self.upper_offset
        for x, low, high in zip(inputs, self.lower_coeffs, self.upper_coeffs, strict=True):
            lower = lower + jnp.tensordot(low, x, jnp.ndim(x))
            upper = upper + jnp.tensordot(high, x, jnp.ndim(x))
        return Interval(lower, upper)


def concretize(linear: LinearBounds, *regions: Region) -> Interval:
    """Returns the interval of two affine maps: ``lower <= <coeffs, x> + offset <= upper`` for x in the regions.

    Args:
      linear: bounds with respect to as many uncertain inputs as there are regions.
      *regions: the `Interval` or `LpBall` of each input, in the same order.

    Returns:
      `Interval` of shape ``[*output_shape]``, the exact range: for an lp ball ``offset +- radius *
      norm(coeffs, q)`` around the value at its centre, ``1/p + 1/q = 1``.

    Raises:
      ValueError: the number or the shapes of the regions do not fit the coefficients.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.zeros(2), 1.0)
      >>> linear = jb.linear_bounds(lambda x: 2.0 * x[0] - x[1], box, method=jb.crown)
      >>> jb.concretize(linear, box).upper.item()
      3.0
    """
    if len(regions) != len(linear.lower_coeffs):
        raise ValueError(f"{len(linear.lower_coeffs)} uncertain inputs, but {len(regions)} regions")
    lower, upper = linear.lower_offset, linear.upper_offset
    for index, region in enumerate(regions):
        check_region(region, f"regions[{index}]")
        shape = jnp.shape(linear.lower_coeffs[index])
        if shape != jnp.shape(linear.lower_offset) + region.shape:
            raise ValueError(
                f"regions[{index}] of shape {region.shape} does not fit coefficients of shape {shape}"
            )
        low, high = (
            c.reshape(*lower.shape, -1)
            for c in (linear.lower_coeffs[index], linear.upper_coeffs[index])
        )
        lower, upper = lower - support(region, -low), upper + support(region, high)
    return ordered(outward(lower, upper))


def support(region: Region, coeffs, axis: int = -1):
    """Returns ``max <coeffs, x>`` over x in ``region``; coeffs hold the elements of x along ``axis``."""
    found = supported(region, shares(region, coeffs, axis))
    if isinstance(region, Interval) or region.clip is None or region.p == jnp.inf:
        return found
    return jnp.fmin(found, _clipped(region, region.clip, coeffs, axis))


def shares(region: Region, coeffs, axis: int = -1) -> list[Any]:
    """Returns the shares of some elements in a region's support: ``[sum]`` of a box, ``[sum, norm]`` of a ball.

    A clipped ball has the sum for its enclosing box as a third share. `merged` combines the shares of several parts.
    """
    box, ball = enclosing_box(region), []
    if isinstance(region, LpBall):
        center = (coeffs * _along(region.center, coeffs.ndim, axis)).sum(axis)
        ball = [center, _norm(coeffs, _dual(region.p), axis)]
        if region.clip is None:
            return ball
    return [*ball, weigh(coeffs, box.upper, box.lower, axis)]


def merged(region: Region, found: list[Any]) -> list[Any]:
    """Returns the shares of the whole region from those of its parts, which lie along a leading axis."""
    if isinstance(region, Interval):
        return [found[0].sum(0)]
    norm = _norm(found[1], _dual(region.p), 0)
    return [found[0].sum(0), norm, *(box.sum(0) for box in found[2:])]


def supported(region: Region, found: list[Any]):
    """Returns a region's support from the shares of all of its elements; of a clipped ball, an upper bound of it.

    For a clipped ball this is the smaller of the supports of the unclipped ball and of the enclosing box.
    """
    if isinstance(region, Interval):
        return found[0]
    return functools.reduce(jnp.fmin, found[2:], found[0] + region.radius * found[1])


def _clipped(ball: LpBall, clip: Interval, coeffs, axis: int):
    """Returns the support of a clipped ball: ``max <c, x>`` for ``norm(x - center, p) <= r`` and x in the clip.

    With a = ``|c|`` and room t in [0, r] towards the sign of c, this is ``<c, center>`` plus the
    maximum of ``<a, d>`` for ``0 <= d <= t, norm(d, p) <= r``. By Hoelder's inequality every u in
    [0, a] is proof of an upper bound, ``<a, d> <= r norm(u, q) + <t, a - u>``. The least one is attained at
    some ``u = min(a, mu (t/r)^(p-1))``: there ``d = min(t, r (a/mu)^(q-1))`` has the norm r, or mu = 0.
    Bisection finds mu; the value returned is an upper bound for every mu, so the bound stays sound.
    """
    p, radius = ball.p, ball.radius
    sides = (clip.upper - ball.center, ball.center - clip.lower)
    up, down = (_along(_share(jnp.maximum(side, 0), radius), coeffs.ndim, axis) for side in sides)
    share = jnp.where(coeffs > 0, up, down)
    size = jnp.where(share > 0, jnp.abs(coeffs), 0)
    scale = lax.stop_gradient(size.max(axis, initial=0, keepdims=True))
    size = size / jnp.where(scale > 0, scale, 1)
    limit = _limit(share, size, p, axis)
    proof = jnp.minimum(size, limit)
    least = _norm(proof, _dual(p), axis) + (share * (size - proof)).sum(axis)
    center = (coeffs * _along(ball.center, coeffs.ndim, axis)).sum(axis)
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

    high = jnp.expand_dims(_norm(most, _dual(p), axis), axis)
    steps = jnp.finfo(size.dtype).nmant + 2
    high = lax.fori_loop(0, steps, narrow, (jnp.zeros_like(high), high))[1]
    if p == 1:  # the best mu is one of the sizes, not stationary: it has that size's gradient
        return jnp.where(size <= high, size, 0).max(axis, initial=0, keepdims=True)
    return high * room ** (p - 1)


def weigh(coeffs, positive, negative, axis: int = -1):
    """Returns ``sum max(coeffs, 0) positive + min(coeffs, 0) negative`` along ``axis``, with ``0 inf = 0``."""
    ends = [_along(values, coeffs.ndim, axis) for values in (positive, negative)]
    finite = [jnp.where(jnp.isfinite(end), end, 0) for end in ends]
    found = jnp.where(coeffs > 0, coeffs * finite[0], coeffs * finite[1]).sum(axis)
    # Infinite ends are added without a gradient: 0 inf = NaN would spoil the gradient of the others.
    size, beyond = lax.stop_gradient((coeffs, [a - b for a, b in zip(ends, finite, strict=True)]))
    beyond = jnp.where(size > 0, beyond[0], jnp.where(size < 0, -beyond[1], 0))
    return found + beyond.sum(axis)


def _along(values, ndim: int, axis: int):
    """Reshapes ``values`` to lie, flat, along one axis of an array of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def once(x):
    """Returns ``x``, and makes XLA compute it once, and its cotangent too.

    XLA fuses cheap operations into all that read them, and so repeats them for every element. It does not fuse
    divisions, so ``x`` is divided by 1 (an optimization barrier does not help: XLA removes it before it fuses).
    """
    return x / jnp.where(jnp.isnan(x), 0, 1).astype(jnp.result_type(x))


def _dual(p: float) -> float:
    """Returns q with ``1/p + 1/q = 1``."""
    if p == 1:
        return jnp.inf
    return 1.0 if p == jnp.inf else p / (p - 1)


def _norm(coeffs, q: float, axis: int):
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
