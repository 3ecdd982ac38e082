"""Defines linear bounds of a function over its uncertain inputs, and concretizes them on regions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, ordered, outward
from jaxbound._bounds.regions import Region


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
      *regions: the input set of each input, in the same order.

    Returns:
      `Interval` of shape ``[*output_shape]``, the exact range wherever a set's support is: for an lp ball
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
        region.check(f"regions[{index}]")
        shape = jnp.shape(linear.lower_coeffs[index])
        if shape != jnp.shape(linear.lower_offset) + region.shape:
            raise ValueError(
                f"regions[{index}] of shape {region.shape} does not fit coefficients of shape {shape}"
            )
        low, high = (
            c.reshape(*lower.shape, -1)
            for c in (linear.lower_coeffs[index], linear.upper_coeffs[index])
        )
        lower, upper = lower - region.support(-low), upper + region.support(high)
    return ordered(outward(lower, upper))
