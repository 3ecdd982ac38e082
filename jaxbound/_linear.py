"""Linear bounds of a function over its uncertain inputs, and what they are worth on a region."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._interval import Interval, LpBall, Region, check_region, outward


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearBounds:
    """Two affine maps: ``<lower_coeffs, x> + lower_offset <= f(x) <= <upper_coeffs, x> + upper_offset``.

    Coefficients are tuples with one array ``[*output_shape, *input_shape]`` per uncertain input, in
    the order of the arguments (the layout of `jax.jacobian`); offsets are ``[*output_shape]``.
    """

    lower_coeffs: tuple[Any, ...]
    lower_offset: Any
    upper_coeffs: tuple[Any, ...]
    upper_offset: Any

    def __call__(self, *inputs) -> Interval:
        """The values of both affine maps at one point: ``bounds(x).lower <= f(x)`` in the region."""
        lower, upper = self.lower_offset, self.upper_offset
        for x, low, high in zip(inputs, self.lower_coeffs, self.upper_coeffs, strict=True):
            lower = lower + jnp.tensordot(low, x, jnp.ndim(x))
            upper = upper + jnp.tensordot(high, x, jnp.ndim(x))
        return Interval(lower, upper)


def concretize(linear: LinearBounds, *regions: Region) -> Interval:
    """The interval of two affine maps: ``lower <= <coeffs, x> + offset <= upper`` for x in the regions.

    Args:
      linear: bounds with respect to as many uncertain inputs as there are regions.
      *regions: the `Interval` or `LpBall` of each input, in the same order.

    Returns:
      `Interval` of shape ``[*output_shape]``: for a box the exact range, for an lp ball
      ``offset +- radius * norm(coeffs, q)`` around the value at its centre, ``1/p + 1/q = 1``.

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
    return outward(lower, upper)


def support(region: Region, coeffs, axis: int = -1):
    """``max <coeffs, x>`` over x in ``region``; coeffs hold the elements of x along ``axis``."""
    return supported(region, shares(region, coeffs, axis))


def shares(region: Region, coeffs, axis: int = -1) -> list[Any]:
    """What some elements of a region add to its support: a sum, and for an lp ball a norm."""
    if isinstance(region, LpBall):
        center = (coeffs * _along(region.center, coeffs.ndim, axis)).sum(axis)
        return [center, _norm(coeffs, _dual(region.p), axis)]
    return [weigh(coeffs, region.upper, region.lower, axis)]


def merged(region: Region, found: list[Any]) -> list[Any]:
    """The shares of all along a leading axis."""
    total = [found[0].sum(0)]
    if isinstance(region, LpBall):
        total.append(_norm(found[1], _dual(region.p), 0))
    return total


def supported(region: Region, found: list[Any]):
    """The support of a region by the shares of all of its elements."""
    return found[0] + region.radius * found[1] if isinstance(region, LpBall) else found[0]


def weigh(coeffs, positive, negative, axis: int = -1):
    """``sum max(coeffs, 0) positive + min(coeffs, 0) negative`` along ``axis``, with ``0 inf = 0``."""
    above, below = (coeffs * _along(values, coeffs.ndim, axis) for values in (positive, negative))
    return jnp.where(coeffs > 0, above, jnp.where(coeffs == 0, 0, below)).sum(axis)


def _along(values, ndim: int, axis: int):
    """``values``, flat, along one axis of an array of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def once(x):
    """``x``, computed once, and its cotangent too.

    XLA fuses cheap operations into every element that reads them, but no division (and it removes
    optimization barriers before it fuses).
    """
    return x / jnp.where(jnp.isnan(x), 0, 1).astype(jnp.result_type(x))


def _dual(p: float) -> float:
    if p == 1:
        return jnp.inf
    return 1.0 if p == jnp.inf else p / (p - 1)


def _norm(coeffs, q: float, axis: int):
    """``norm(coeffs, q)`` along ``axis``, with finite gradients at 0."""
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
