"""Defines balls in the lp norms, and what they share with a box."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.interval import Interval, check_ends, check_floating, smallest
from jaxbound._bounds.norms import clipped_support, dual, norm
from jaxbound._bounds.numerics import along, concrete
from jaxbound._bounds.regions import Region
from jaxbound._bounds.rounding import check_rounding, lowered, raised, unit, wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LpBall(Region):
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

    @property
    def box(self) -> Interval:
        lower, upper = self.center - self.radius, self.center + self.radius
        if self.clip is None:
            return Interval(lower, upper)
        low, high = self.clip.lower, self.clip.upper
        return Interval(jnp.clip(lower, low, high), jnp.clip(upper, low, high))

    @property
    def sizes(self):
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return 1.01 * (jnp.abs(self.center).astype(wide) + self.radius.astype(wide))

    def support(self, coeffs, axis: int = -1):
        found = self.supported(self._terms(coeffs, axis))
        if self.clip is None or self.p == jnp.inf:
            return found
        return jnp.fmin(found, clipped_support(self, self.clip, coeffs, axis))

    @property
    def point(self):
        return self.center

    def start(self, share):
        return self.nearest(self.center + (2 * share - 1) * self.radius)

    def steepest(self, slope, x):
        if self.clip is not None:  # what has nowhere to go stays
            stuck = jnp.where(slope > 0, x >= self.clip.upper, x <= self.clip.lower)
            slope = jnp.where(stuck, 0, slope)
        size = jnp.abs(slope) / jnp.maximum(jnp.abs(slope).max(), jnp.finfo(slope.dtype).tiny)
        # <slope, d> is greatest on norm(d, p) <= 1 where Hoelder's inequality is an equality: |d|^(p-1) ~ |slope|;
        # for p = 1, at the largest elements.
        size = size >= 1 if self.p == 1 else size ** (1 / (self.p - 1))
        step = jnp.sign(slope) * size
        return self.radius * step / jnp.maximum(jnp.linalg.norm(step.ravel(), self.p), 1)

    def nearest(self, x):
        """Clips, then moves towards the centre as far as the ball asks for."""
        if self.clip is not None:
            x = jnp.clip(x, self.clip.lower, self.clip.upper)
        far = jnp.linalg.norm((x - self.center).ravel(), self.p)
        share = jnp.where(far > self.radius, self.radius / jnp.where(far > 0, far, 1), 1)
        return self.center + share * (x - self.center)

    def part(self, take) -> LpBall:
        clip = None if self.clip is None else self.clip.part(take)
        return dataclasses.replace(self, center=take(self.center), clip=clip)

    def _terms(self, coeffs, axis: int) -> list[Any]:
        """Returns ``<coeffs, center>`` and the dual norm; of a clipped ball, the support of its box as well."""
        center = (coeffs * along(self.center, coeffs.ndim, axis)).sum(axis)
        box = [] if self.clip is None else [self.box.support(coeffs, axis)]
        return [center, norm(coeffs, dual(self.p), axis), *box]

    def shares(self, coeffs, axis: int = -1):
        return jnp.stack(self._terms(coeffs, axis))

    def merged(self, shares):
        return shares.sum(0).at[1].set(norm(shares[:, 1], dual(self.p), 0))

    def supported(self, shares):
        """Returns the support; of a clipped ball the smaller of the ball's and the box's, an upper bound."""
        center, norm, *box = shares
        return functools.reduce(jnp.fmin, box, center + self.radius * norm)

    def check(self, name: str) -> None:
        check_floating(self.center, f"{name}.center")
        if jnp.shape(self.radius) != ():
            raise ValueError(
                f"{name}.radius has shape {jnp.shape(self.radius)}; expected a scalar (one per example under jax.vmap)"
            )
        _check_p(self.p, f"{name}.p")
        _check_radius(self.radius, f"{name}.radius")
        center = concrete(self.center)
        if center is not None and np.isnan(center).any():
            raise ValueError(f"{name}.center contains NaN")
        if self.clip is not None:
            _check_clip(self, name)


def linf_ball(x, eps, clip: tuple[Any, Any] | None = None, rounding: str | None = None) -> Interval:
    """Returns the box ``{z : |z - x| <= eps, clip[0] <= z <= clip[1]}``, elementwise.

    Args:
      x: floating-point array, the centre.
      eps: non-negative radius in the units of ``x`` (pixels, if ``x`` holds pixels);
        broadcasts against ``x`` as in NumPy.
      clip: optional pair of limits of the input domain, scalars or arrays.
      rounding: None: the ends are the nearest numbers. "real": they lie outside of the box of real numbers around
        ``x``, for the radius ``eps`` in the type of ``x``.

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
    check_rounding(rounding)
    if rounding is not None:
        room = 2 * unit(x.dtype) * (wide(jnp.abs(x)) + wide(eps)) + smallest(x.dtype)
        lower, upper = lowered(lower, room), raised(upper, room)
    if clip is not None:
        low, high = _limits(clip, x.dtype, rounding)
        outside = concrete((lower > high) | (upper < low) | (low > high))
        if outside is not None and outside.any():
            raise ValueError(f"clip=({clip[0]}, {clip[1]}) leaves nothing of the box around x")
        lower, upper = jnp.clip(lower, low, high), jnp.clip(upper, low, high)
    return Interval(lower, upper)


def _limits(clip: tuple[Any, Any], dtype, rounding: str | None):
    """Returns a domain's limits in a type; under ``rounding`` further outside, where they are no numbers of it."""
    if rounding is None:
        return [jnp.asarray(end, dtype) for end in clip]

    def moved(given, move):
        known = concrete(given)
        if known is None:
            end = given.astype(dtype)
            same = wide(end) == wide(given)
        else:
            end = np.asarray(known).astype(dtype)
            same = end.astype(float) == np.asarray(known, float)
        return move(
            jnp.asarray(end),
            jnp.where(same, 0, 2 * unit(dtype) * wide(jnp.abs(end)) + smallest(dtype)),
        )

    return [moved(end, move) for end, move in zip(clip, (lowered, raised), strict=True)]


def lp_ball(x, eps, p, clip: tuple[Any, Any] | None = None, rounding: str | None = None) -> Region:
    """Returns the ball ``{z : norm(z - x, p) <= eps, clip[0] <= z <= clip[1]}``, of one example.

    Args:
      x: floating-point array, the centre.
      eps: non-negative scalar in the units of ``x`` (a batch is `jax.vmap`).
      p: a number >= 1 or ``inf``.
      clip: optional pair of limits of the input domain, scalars or arrays; ``x`` lies between them.
      rounding: as of `linf_ball`; another ball is exactly its centre and its radius.

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
        return linf_ball(x, eps, clip, rounding)
    x, eps = jnp.asarray(x), jnp.asarray(eps)
    check_floating(x, "x")
    _check_radius(eps, "eps")
    if eps.shape != ():
        raise ValueError(f"eps has shape {eps.shape}; expected a scalar (a batch is jax.vmap)")
    limits = None
    if clip is not None:
        check_rounding(rounding)
        low, high = (jnp.broadcast_to(end, x.shape) for end in _limits(clip, x.dtype, rounding))
        outside = concrete(~((low <= x) & (x <= high)))
        if outside is not None and outside.any():
            raise ValueError(f"clip=({clip[0]}, {clip[1]}) does not hold all of x")
        limits = Interval(low, high)
    return LpBall(x, eps.astype(x.dtype), p, limits)


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
