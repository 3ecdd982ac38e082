"""Sets of values: boxes (`Interval`) and lp balls (`LpBall`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interval:
    """All arrays x with ``lower <= x <= upper``, elementwise; both ends have the shape of x.

    An input region, an intermediate bound or a result. It is a pytree, so it goes through
    `jax.jit`, `jax.vmap` and `jax.grad`; its ends are checked where it enters a method.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.Interval(jnp.zeros(2), jnp.ones(2)).shape
      (2,)
    """

    lower: Any
    upper: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.lower)

    @property
    def dtype(self) -> np.dtype:
        return jnp.result_type(self.lower)

    @property
    def center(self):
        # XLA turns 0.5 a + 0.5 b into 0.5 (a + b), which overflows.
        return 0.5 * self.lower - (-0.5) * self.upper

    @property
    def radius(self):
        return 0.5 * self.upper - 0.5 * self.lower


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LpBall:
    """All arrays x with ``norm(x - center, p) <= radius``, in the box ``clip`` if there is one.

    One ball around the whole array. Affine functions are bounded by their exact range over it; with
    a ``clip``, by the smaller of the ball's and the clip's where forward bounds (`jb.lbp`) walk up
    in parts, because all coefficients at once would be too many.

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
    """Whether ``x`` is an uncertain leaf (for ``is_leaf=``)."""
    return isinstance(x, Region)


def linf_ball(x, eps, clip: tuple[Any, Any] | None = None) -> Interval:
    """The box ``{z : |z - x| <= eps, clip[0] <= z <= clip[1]}``, elementwise.

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
    _check_floating(x, "x")
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
    """The ball ``{z : norm(z - x, p) <= eps, clip[0] <= z <= clip[1]}``, of one example.

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
    _check_floating(x, "x")
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
    """The smallest interval that contains ``region``."""
    if isinstance(region, Interval):
        return region
    lower, upper = region.center - region.radius, region.center + region.radius
    if region.clip is None:
        return Interval(lower, upper)
    low, high = region.clip.lower, region.clip.upper
    return Interval(jnp.clip(lower, low, high), jnp.clip(upper, low, high))


def part_of(region: Region, indices) -> Region:
    """What a region says of the elements at flat indices; beyond it, of its last or first."""
    inside = jnp.clip(indices, 0, math.prod(region.shape) - 1)
    if isinstance(region, Interval):
        return Interval(region.lower.ravel()[inside], region.upper.ravel()[inside])
    clip = None if region.clip is None else part_of(region.clip, indices)
    return dataclasses.replace(region, center=region.center.ravel()[inside], clip=clip)


def outward(lower, upper) -> Interval:
    """Ends that carry no information (NaN, or infinite on the wrong side) become infinite."""
    return Interval(
        jnp.where(lower < jnp.inf, lower, -jnp.inf), jnp.where(upper > -jnp.inf, upper, jnp.inf)
    )


def cast(interval: Interval, dtype) -> Interval:
    """What passes through several types keeps the widest on its way; a value has one."""
    return Interval(jnp.asarray(interval.lower, dtype), jnp.asarray(interval.upper, dtype))


def intersect(bounds, *others):
    """What all of some bounds of the same value allow: ``max lower <= value <= min upper``.

    Args:
      bounds: an `Interval`, or a tree of them, as a method gives.
      *others: of the same tree and shapes.

    Returns:
      `Interval`s in that tree; where rounding leaves nothing, those of ``bounds``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> fn, box = lambda x: jax.nn.relu(x) - x, jb.linf_ball(jnp.array(0.5), 1.0)
      >>> jb.crown(fn, box).lower.item(), jb.crown(fn, box, relaxation="tight").lower.item()
      (0.0, -1.5)
      >>> jb.intersect(jb.crown(fn, box, relaxation="tight"), jb.crown(fn, box)).lower.item()
      0.0
    """

    def of_two(one: Interval, two: Interval) -> Interval:
        lower, upper = jnp.maximum(one.lower, two.lower), jnp.minimum(one.upper, two.upper)
        ok = lower <= upper
        return Interval(jnp.where(ok, lower, one.lower), jnp.where(ok, upper, one.upper))

    for other in others:
        bounds = jax.tree.map(of_two, bounds, other, is_leaf=lambda x: isinstance(x, Interval))
    return bounds


def supersede(interval: Interval, other: Interval) -> Interval:
    """``other`` where it is bounded, else ``interval``; ordered, should rounding cross the ends."""
    lower = jnp.where(jnp.isfinite(other.lower), other.lower, interval.lower)
    upper = jnp.where(jnp.isfinite(other.upper), other.upper, interval.upper)
    return Interval(jnp.minimum(lower, upper), jnp.maximum(lower, upper))


def concrete(x) -> np.ndarray | None:
    """The value of ``x``, or None while it is traced."""
    return None if isinstance(x, Tracer) else np.asarray(x)


def check_region(region: Region, name: str) -> None:
    """Raises if ``region`` is not a valid input set; values can only be seen outside `jax.jit`."""
    if isinstance(region, Interval):
        _check_floating(region.lower, f"{name}.lower")
        _check_floating(region.upper, f"{name}.upper")
        check_ends(region, name)
        return
    _check_floating(region.center, f"{name}.center")
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
    clip = ball.clip
    if not isinstance(clip, Interval) or (clip.shape, clip.dtype) != (ball.shape, ball.dtype):
        raise ValueError(
            f"{name}.clip is {clip!r}; expected an Interval of shape {ball.shape} and {ball.dtype}"
        )
    check_ends(clip, f"{name}.clip")
    inside = concrete((clip.lower <= ball.center) & (ball.center <= clip.upper))
    if inside is not None and not inside.all():
        raise ValueError(f"{name}.center does not lie in {name}.clip")


def check_ends(interval: Interval, name: str) -> None:
    """Raises unless ``lower <= upper`` with equal shapes and dtypes and no NaN."""
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


def _check_floating(x, name: str) -> None:
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} is {dtype}; expected a floating-point array (cast it first)")


def _check_p(p, name: str) -> None:
    if not (isinstance(p, int | float) and p >= 1):
        raise ValueError(f"{name} is {p!r}; expected a number >= 1 or inf")


def _check_radius(radius, name: str) -> None:
    value = concrete(radius)
    if value is not None and not (value >= 0).all():
        worst = np.min(value) if not np.isnan(value).any() else math.nan
        raise ValueError(f"{name} is {worst}; expected a radius >= 0")
