"""Defines `Interval`, a box of values, and how intervals are checked, repaired and intersected."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.numerics import concrete, weigh
from jaxbound._bounds.regions import Region


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interval(Region):
    """Represents all arrays x with ``lower <= x <= upper``, elementwise; both ends have the shape of x.

    It is an input region, an intermediate bound or a result. As a pytree, it goes through
    `jax.jit`, `jax.vmap` and `jax.grad`; its ends are checked where it enters a method.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.Interval(jnp.zeros(2), jnp.ones(2)).shape
      (2,)
    """

    lower: Any
    upper: Any

    independent = True

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.lower)

    @property
    def dtype(self) -> np.dtype:
        return jnp.result_type(self.lower)

    @property
    def box(self) -> Interval:
        return self

    @property
    def point(self):
        # Where an end is infinite, the point nearest to 0 stands for the middle.
        middle = self.center
        return jnp.where(jnp.isfinite(middle), middle, jnp.clip(0, self.lower, self.upper))

    @property
    def sizes(self):
        most = jnp.maximum(jnp.abs(self.lower), jnp.abs(self.upper))
        return most.astype(jnp.promote_types(self.dtype, jnp.float32))

    def support(self, coeffs, axis: int = -1):
        return weigh(coeffs, self.upper, self.lower, axis)

    def start(self, share):
        return self.nearest(self.lower + share * (self.upper - self.lower))

    def steepest(self, slope, x):
        return (self.upper - self.lower) / 2 * jnp.sign(slope)

    def nearest(self, x):
        return jnp.clip(x, self.lower, self.upper)

    def part(self, take) -> Interval:
        return Interval(take(self.lower), take(self.upper))

    def check(self, name: str) -> None:
        check_floating(self.lower, f"{name}.lower")
        check_floating(self.upper, f"{name}.upper")
        check_ends(self, name)

    @property
    def center(self):
        # Not 0.5 lower + 0.5 upper: XLA turns that into 0.5 (lower + upper), which may overflow.
        return 0.5 * self.lower - (-0.5) * self.upper

    @property
    def radius(self):
        """Returns half the width; near the smallest numbers, plus what the centre may have lost to underflow."""
        lost = 2 * smallest(self.dtype)
        size = jnp.maximum(jnp.abs(self.lower), jnp.abs(self.upper))
        vanishing = (size > 0) & (size < lost / jnp.finfo(self.dtype).eps)
        return 0.5 * self.upper - 0.5 * self.lower + jnp.where(vanishing, lost, 0)


def smallest(dtype) -> float:
    """Returns the least positive number that is not flushed to 0: only float16 computes with subnormal numbers."""
    info = jnp.finfo(dtype)
    return float(info.smallest_subnormal if info.dtype == np.float16 else info.tiny)


def exactly(value) -> Interval:
    """Returns the interval of a known value; where it is NaN, of all numbers."""
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return Interval(value, value)
    return Interval(*(jnp.where(jnp.isnan(value), end, value) for end in (-jnp.inf, jnp.inf)))


def outward(lower, upper) -> Interval:
    """Replaces ends that carry no information (NaN, or infinite on the wrong side) by infinite ones."""
    return Interval(
        jnp.where(lower < jnp.inf, lower, -jnp.inf), jnp.where(upper > -jnp.inf, upper, jnp.inf)
    )


def beyond(lower, upper) -> Interval:
    """Replaces ends that are infinite on the wrong side by the largest number: for values picked or rounded once.

    A lower end of inf means that the value is at least the largest number of its type, as a sum only overflows if
    its exact value lies beyond that number; an upper end of -inf likewise. So a mask of -inf stays below
    everything. NaN carries no information and becomes infinite.
    """
    most = jnp.finfo(jnp.result_type(lower)).max
    return Interval(
        jnp.where(jnp.isnan(lower), -jnp.inf, jnp.minimum(lower, most)),
        jnp.where(jnp.isnan(upper), jnp.inf, jnp.maximum(upper, -most)),
    )


def cast(interval: Interval, dtype) -> Interval:
    """Casts both ends to the value's own dtype; the walk may have used a wider one, whose numbers overflow here."""
    found = Interval(jnp.asarray(interval.lower, dtype), jnp.asarray(interval.upper, dtype))
    return found if interval.dtype == dtype else beyond(found.lower, found.upper)


def intersect(bounds, *others):
    """Returns the intersection of several bounds of the same value: ``max lower <= value <= min upper``.

    Args:
      bounds: an `Interval`, or a tree of them, as a method gives.
      *others: of the same tree and shapes.

    Returns:
      `Interval`s in that tree; where rounding leaves an empty intersection, the gap between the
      two, which holds an end of each.

    Raises:
      ValueError: trees or shapes differ.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([0.5, 0.0]), 1.0)
      >>> fn = lambda x: jax.nn.relu(x + x[::-1]).sum() - x.sum()
      >>> jb.crown(fn, box).lower.item(), jb.crown(fn, box, relaxation="tight").lower.item()
      (-1.5, -2.5)
      >>> jb.intersect(jb.crown(fn, box, relaxation="tight"), jb.crown(fn, box)).lower.item()
      -1.5
    """

    def of_two(one: Interval, two: Interval) -> Interval:
        if not isinstance(two, Interval) or one.shape != two.shape:
            raise ValueError(
                f"expected an Interval of shape {one.shape}, as the first; got {two!r}"
            )
        return ordered(common(one, two))

    for other in others:
        bounds = jax.tree.map(of_two, bounds, other, is_leaf=lambda x: isinstance(x, Interval))
    return bounds


def common(one: Interval, two: Interval) -> Interval:
    """Returns the higher lower and the lower upper ends, which rounding may have crossed."""
    # The comparisons are strict: where ends are equal, the gradient is that of the first.
    lower = jnp.where(two.lower > one.lower, two.lower, one.lower)
    return Interval(lower, jnp.where(two.upper < one.upper, two.upper, one.upper))


def supersede(interval: Interval, other: Interval) -> Interval:
    """Returns the finite ends of ``other``, and those of ``interval`` in place of its infinite ones."""
    lower = jnp.where(jnp.isfinite(other.lower), other.lower, interval.lower)
    upper = jnp.where(jnp.isfinite(other.upper), other.upper, interval.upper)
    return ordered(Interval(lower, upper))


def ordered(interval: Interval) -> Interval:
    """Exchanges ends that rounding has crossed; equal ends keep their own gradients."""
    lower, upper = interval.lower, interval.upper
    crossed = lower > upper
    return Interval(jnp.where(crossed, upper, lower), jnp.where(crossed, lower, upper))


def around(interval: Interval, value) -> Interval:
    """Returns the interval with ends that rounding has carried past an attained value moved to it; NaN moves none.

    An end that moves keeps its own gradient.
    """

    def at_value(end):
        return jax.lax.stop_gradient(value) + (end - jax.lax.stop_gradient(end))

    lower, upper = interval.lower, interval.upper
    return Interval(
        jnp.where(value < lower, at_value(lower), lower),
        jnp.where(value > upper, at_value(upper), upper),
    )


def check_ends(interval: Interval, name: str) -> None:
    """Raises unless ``lower <= upper`` with equal shapes and dtypes and no NaN."""
    if not isinstance(interval, Interval):
        raise TypeError(f"{name} is {type(interval).__name__}; expected an Interval")
    if jnp.shape(interval.lower) != jnp.shape(interval.upper):
        raise ValueError(
            f"{name}.lower has shape {jnp.shape(interval.lower)} but {name}.upper has shape {jnp.shape(interval.upper)}"
        )
    if jnp.result_type(interval.lower) != jnp.result_type(interval.upper):
        raise TypeError(
            f"{name}.lower is {interval.dtype} but {name}.upper is {jnp.result_type(interval.upper)}"
        )
    lower, upper = concrete(interval.lower), concrete(interval.upper)
    if lower is None or upper is None:
        return
    if np.isnan(lower).any() or np.isnan(upper).any():
        raise ValueError(f"{name} contains NaN")
    if (lower > upper).any():
        where = tuple(int(i[0]) for i in np.nonzero(lower > upper)) if lower.ndim else ()
        raise ValueError(f"{name}.lower > {name}.upper at {where}: {lower[where]} > {upper[where]}")


def check_floating(x, name: str) -> None:
    """Raises unless ``x`` is a floating-point array."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} is {dtype}; expected a floating-point array (cast it first)")
