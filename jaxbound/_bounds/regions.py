"""Defines the input sets: boxes and lp balls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.interval import Interval, check_ends, check_floating, concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LpBall:
    """Represents all arrays x with ``norm(x - center, p) <= radius``, in the box ``clip`` if there is one.

    It is one ball around the whole array. Affine functions are bounded by their exact range over it;
    with a ``clip``, by the smaller of the ball's and the clip's range where forward bounds (`jb.lbp`)
    are computed in parts, because all coefficients at once would be too many.

    Args:
      center: array of any shape, in ``clip``.
      radius: non-negative scalar, in the units of ``center`` (one per example under `jax.vmap`).
      p: static, a number >= 1 or ``inf``.
      clip: optional `Interval` of the shape of ``center``. Elements with equal ends are fixed.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.ibp(jnp.sum, jb.LpBall(jnp.zeros(4), 1.0, p=2)).upper.item()
      2.0
    """

    center: Any
    radius: Any
    p: float = dataclasses.field(metadata={"static": True})
    clip: Interval | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.center)

    @property
    def dtype(self) -> np.dtype:
        return jnp.result_type(self.center)


Region = Interval | LpBall


def is_region(x: Any) -> bool:
    """Tells whether ``x`` is an uncertain leaf (for ``is_leaf=``)."""
    return isinstance(x, Region)


def arrays_of(args) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Returns the leaves that are regions, arrays or numbers, and a function that puts others in their place.

    All other leaves (truth values, strings, callables) are options: they stay as they are.
    """
    leaves, tree = jax.tree.flatten(args, is_leaf=is_region)
    kept = [not _is_option(leaf) for leaf in leaves]

    def restore(arrays: Sequence[Any]):
        found = iter(arrays)
        return jax.tree.unflatten(
            tree, [next(found) if keep else x for x, keep in zip(leaves, kept, strict=True)]
        )

    return [leaf for leaf, keep in zip(leaves, kept, strict=True) if keep], restore


def _is_option(x: Any) -> bool:
    if isinstance(x, bool) or callable(x):
        return True
    array = hasattr(x, "__jax_array__") or (hasattr(x, "shape") and hasattr(x, "dtype"))
    return not (array or isinstance(x, int | float | complex))


def linf_ball(x, eps, clip: tuple[Any, Any] | None = None) -> Interval:
    """Returns the box ``{z : |z - x| <= eps, clip[0] <= z <= clip[1]}``, elementwise.

    Args:
      x: floating-point array, the centre.
      eps: non-negative radius in the units of ``x`` (pixels, if ``x`` holds pixels);
        broadcasts against ``x`` as in NumPy.
      clip: optional pair of limits of the input domain, scalars or arrays.

    Raises:
      ValueError: ``eps`` is negative or NaN, does not broadcast, or the box is empty.
      TypeError: ``x`` is not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.linf_ball(jnp.array([0.0, 0.5]), 0.25, clip=(0.0, 1.0)).lower.tolist()
      [0.0, 0.25]
    """
    x, eps = jnp.asarray(x), jnp.asarray(eps)
    check_floating(x, "x")
    _check_radius(eps, "eps")
    try:
        fits = np.broadcast_shapes(eps.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"eps of shape {eps.shape} does not broadcast to x of shape {x.shape}")
    eps = eps.astype(x.dtype)
    lower, upper = x - eps, x + eps
    if clip is not None:
        low, high = (jnp.asarray(end, x.dtype) for end in clip)
        outside = concrete((lower > high) | (upper < low) | (low > high))
        if outside is not None and outside.any():
            raise ValueError(f"clip=({clip[0]}, {clip[1]}) leaves nothing of the box around x")
        lower, upper = jnp.clip(lower, low, high), jnp.clip(upper, low, high)
    return Interval(lower, upper)


def lp_ball(x, eps, p, clip: tuple[Any, Any] | None = None) -> Region:
    """Returns the ball ``{z : norm(z - x, p) <= eps, clip[0] <= z <= clip[1]}``, of one example.

    Args:
      x: floating-point array, the centre.
      eps: non-negative scalar in the units of ``x`` (a batch is `jax.vmap`).
      p: a number >= 1 or ``inf``.
      clip: optional pair of limits of the input domain, scalars or arrays; ``x`` lies between them.

    Returns:
      An `LpBall`; for p = inf the box of `linf_ball`.

    Raises:
      ValueError: ``eps`` is negative, NaN or no scalar, ``p`` is below 1, or ``x`` is not in ``clip``.
      TypeError: ``x`` is not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> image = jnp.array([0.9, 0.5])
      >>> jb.crown(jnp.sum, jb.lp_ball(image, 0.5, p=1)).upper.item()
      1.899...
      >>> jb.crown(lambda z: z[0], jb.lp_ball(image, 0.5, p=1, clip=(0.0, 1.0))).upper.item()
      1.0
    """
    _check_p(p, "p")
    if p == math.inf:
        return linf_ball(x, eps, clip)
    x, eps = jnp.asarray(x), jnp.asarray(eps)
    check_floating(x, "x")
    _check_radius(eps, "eps")
    if eps.shape != ():
        raise ValueError(f"eps has shape {eps.shape}; expected a scalar (a batch is jax.vmap)")
    limits = None
    if clip is not None:
        low, high = (jnp.broadcast_to(jnp.asarray(end, x.dtype), x.shape) for end in clip)
        outside = concrete(~((low <= x) & (x <= high)))
        if outside is not None and outside.any():
            raise ValueError(f"clip=({clip[0]}, {clip[1]}) does not hold all of x")
        limits = Interval(low, high)
    return LpBall(x, eps.astype(x.dtype), p, limits)


def enclosing_box(region: Region) -> Interval:
    """Returns the smallest interval that contains ``region``."""
    if isinstance(region, Interval):
        return region
    lower, upper = region.center - region.radius, region.center + region.radius
    if region.clip is None:
        return Interval(lower, upper)
    low, high = region.clip.lower, region.clip.upper
    return Interval(jnp.clip(lower, low, high), jnp.clip(upper, low, high))


def part_of(region: Region, indices) -> Region:
    """Returns the region of the elements at flat ``indices``; an index outside stands for the first or last element."""
    inside = jnp.clip(indices, 0, math.prod(region.shape) - 1)
    if isinstance(region, Interval):
        return Interval(region.lower.ravel()[inside], region.upper.ravel()[inside])
    clip = None if region.clip is None else part_of(region.clip, indices)
    return dataclasses.replace(region, center=region.center.ravel()[inside], clip=clip)


def check_region(region: Region, name: str) -> None:
    """Raises if ``region`` is not a valid input set; values can only be seen outside `jax.jit`."""
    if isinstance(region, Interval):
        check_floating(region.lower, f"{name}.lower")
        check_floating(region.upper, f"{name}.upper")
        check_ends(region, name)
        return
    check_floating(region.center, f"{name}.center")
    if jnp.shape(region.radius) != ():
        raise ValueError(
            f"{name}.radius has shape {jnp.shape(region.radius)}; expected a scalar (one per example under jax.vmap)"
        )
    _check_p(region.p, f"{name}.p")
    _check_radius(region.radius, f"{name}.radius")
    center = concrete(region.center)
    if center is not None and np.isnan(center).any():
        raise ValueError(f"{name}.center contains NaN")
    if region.clip is not None:
        _check_clip(region, name)


def _check_clip(ball: LpBall, name: str) -> None:
    """Raises unless the clip of a ball is an `Interval` of its shape and dtype that contains its centre."""
    clip = ball.clip
    if not isinstance(clip, Interval) or (clip.shape, clip.dtype) != (ball.shape, ball.dtype):
        raise ValueError(
            f"{name}.clip is {clip!r}; expected an Interval of shape {ball.shape} and {ball.dtype}"
        )
    check_ends(clip, f"{name}.clip")
    inside = concrete((clip.lower <= ball.center) & (ball.center <= clip.upper))
    if inside is not None and not inside.all():
        raise ValueError(f"{name}.center does not lie in {name}.clip")


def _check_p(p, name: str) -> None:
    if not (isinstance(p, int | float) and p >= 1):
        raise ValueError(f"{name} is {p!r}; expected a number >= 1 or inf")


def _check_radius(radius, name: str) -> None:
    value = concrete(radius)
    if value is not None and not (value >= 0).all():
        worst = np.min(value) if not np.isnan(value).any() else math.nan
        raise ValueError(f"{name} is {worst}; expected a radius >= 0")
