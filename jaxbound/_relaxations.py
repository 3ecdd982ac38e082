"""The table of relaxations: between which two affine functions a primitive lies on given intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound import _curves as curves
from jaxbound import _primitives as program
from jaxbound._arrays import entries
from jaxbound._interval import Interval
from jaxbound._linear import once
from jaxbound._lines import LINES

KINDS = ("adaptive", "tight", "parallel", "constant")


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Two affine JAX functions of a primitive's uncertain operands.

    On the intervals they were made for, ``lower(*x) <= primitive(*x) <= upper(*x)``.
    """

    lower: Callable[..., Any]
    upper: Callable[..., Any]


relaxations: dict[Any, Callable[..., Relaxation]] = {}
# Primitives that act on each element alone, and whose interval rule gives the exact image (ParamRamp: if eta >= 0).
elementwise: set[Any] = set()
# Those among them made of straight pieces (maximum and minimum with a known value): ``kind`` chooses their lines.
kinked: frozenset[Any] = frozenset(
    {jp.abs_p, jp.max_p, jp.min_p, program.leaky_relu, program.ramp, program.clip}
)


def check_kind(kind: str) -> None:
    """Raises unless ``kind`` is among `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"relaxation is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")


def register_relaxation(primitive):
    """Decorator: the relaxation of ``primitive``.

    The rule ``rule(*operands, image, kind, **params) -> Relaxation`` gets the operands (`Interval` where
    uncertain, arrays where known), the interval of the value, and the ``relaxation`` option. Its
    functions take the uncertain operands and must satisfy ``lower(*x) <= primitive(*x) <= upper(*x)``.
    A primitive that only has an interval rule is bounded by its interval.

    Example:
      >>> import jax, jaxbound as jb
      >>> import jax.numpy as jnp
      >>> @jb.register_relaxation(jax.lax.bessel_i0e_p)
      ... def _i0e(x, *, image, kind, **params):  # convex on either side of 0: above its tangents
      ...     m = (x.lower + x.upper) / 2
      ...     value, slope = jax.jvp(jax.lax.bessel_i0e, (m,), (jnp.ones_like(m),))
      ...     one_side = (x.lower >= 0) | (x.upper <= 0)
      ...     return jb.Relaxation(
      ...         lambda z: jnp.where(one_side, value + slope * (z - m), image.lower),
      ...         lambda z: image.upper + 0 * z,
      ...     )
    """

    def register(rule):
        relaxations[primitive] = rule
        return rule

    return register


def constant_relaxation(image: Sequence[Interval]) -> Relaxation:
    """Lines of slope 0: what the interval walk knows. For the list of a primitive's outputs."""
    return Relaxation(
        lambda *_: [out.lower for out in image], lambda *_: [out.upper for out in image]
    )


# ---------------------------------------------------------------- functions of one variable


def def_lines(primitive, lines: Callable[..., curves.Lines], inside: float = 0.5) -> None:
    """``lines(fn, l, u, kind, *known, **params)`` for the one uncertain operand of ``primitive``.

    Where an end, the value or a line is infinite, the interval's constant lines take over; gradients are
    kept finite by a point ``inside`` the domain.
    """

    def relax(*operands, image, kind, **params):
        (x,) = (op for op in operands if isinstance(op, Interval))
        known = [op for op in operands if not isinstance(op, Interval)]
        shape = image.lower.shape

        def fn(z):
            z = jnp.broadcast_to(jnp.asarray(z, x.dtype), shape)
            return primitive.bind(
                *(z if isinstance(op, Interval) else op for op in operands), **params
            )

        ends = [jnp.broadcast_to(end, shape) for end in (x.lower, x.upper)]
        bounded = _all_finite(*ends, image.lower, image.upper)
        l, u = (jnp.where(bounded, end, inside) for end in ends)
        found = lines(fn, l, u, kind, *known, **params)
        bounded &= _all_finite(*found)
        slopes = [jnp.where(bounded, slope, 0) for slope in (found.lower_slope, found.upper_slope)]
        low = jnp.where(bounded, found.lower_intercept, image.lower)
        high = jnp.where(bounded, found.upper_intercept, image.upper)
        slopes, low, high = [once(slope) for slope in slopes], once(low), once(high)
        return Relaxation(lambda z: slopes[0] * z + low, lambda z: slopes[1] * z + high)

    relaxations[primitive] = relax
    elementwise.add(primitive)


def _all_finite(*arrays):
    return functools.reduce(jnp.logical_and, map(jnp.isfinite, arrays))


for _p, _lines in LINES.items():
    def_lines(_p, _lines, inside=2.0 if _p is jp.acosh_p else 0.5)
_lines_of_ramp = relaxations[program.ramp]
relaxations[program.ramp] = lambda x, r, *eta, **options: _lines_of_ramp(
    x, program.spread(r, x.lower), *eta, **options
)


# ---------------------------------------------------------------- maximum, minimum


def _maximum(x, y, *, image, kind, **params):
    if isinstance(x, Interval) and isinstance(y, Interval):
        return greatest(lambda a, b: jnp.stack(jnp.broadcast_arrays(a, b), -1), (x, y), image)
    return _rectify(x, y, image=image, kind=kind, **params)


def_lines(jp.max_p, lambda fn, l, u, kind, c: curves.one_kink(fn, l, u, c, 0.0, 1.0, kind))
_rectify, relaxations[jp.max_p] = relaxations[jp.max_p], _maximum
def_lines(jp.min_p, lambda fn, l, u, kind, c: curves.one_kink(fn, l, u, c, 1.0, 0.0, kind))


def greatest(
    windows: Callable[..., Any], operands: Sequence[Interval], image, valid: Any = True
) -> Relaxation:
    """Lines of ``max(windows(*x), -1)``, for a linear ``windows``; entries not ``valid`` do not count.

    With any gamma between the largest lower end and the least upper end of those that can win, and
    ``w = (u - gamma) / (u - l)``: ``sum w (z - l) + gamma`` is above every z, ``sum w z + eta`` below
    the largest.

    References: Boopathy et al., arXiv 1811.12395; the offset eta with the largest lower end is tighter.
    """
    l = windows(*(op.lower for op in operands))
    u = windows(*(op.upper for op in operands))
    bounded = _all_finite(l, u, u - l).all(-1)
    l, u = (jnp.where(bounded[..., None], end, 0) for end in (l, u))
    most = jnp.max(jnp.where(valid, l, -jnp.inf), -1, keepdims=True)
    wins = valid & (u >= most)
    apart = wins & (u > l)
    width = jnp.where(apart, u - l, 1)
    inverse = jnp.where(apart, 1 / width, 0)
    total = inverse.sum(-1, keepdims=True)
    gamma = ((u * inverse).sum(-1, keepdims=True) - 1) / jnp.where(total > 0, total, 1)
    gamma = jnp.where(total > 0, gamma, most)
    least = jnp.min(jnp.where(wins, u, jnp.inf), -1, keepdims=True)
    gamma = jnp.clip(gamma, most, least)
    weights = jnp.where(apart, jnp.clip((u - gamma) * inverse, 0, 1), 0)
    # Known entries can carry what is left of the weight.
    known = wins & ~apart
    count = known.sum(-1, keepdims=True)
    rest = jnp.clip(1 - weights.sum(-1, keepdims=True), 0, 1)
    weights = jnp.where(known, rest / jnp.where(count > 0, count, 1), weights)
    surplus = 1 - weights.sum(-1)
    highest = jnp.max(jnp.where(valid, u, -jnp.inf), -1)
    eta = jnp.where(surplus >= 0, most[..., 0], highest) * surplus
    above = jnp.where(bounded, gamma[..., 0] - (weights * l).sum(-1), image.upper)
    below = jnp.where(bounded, eta, image.lower)
    weights = jnp.where(bounded[..., None], weights, 0)
    return Relaxation(
        lambda *xs: (weights * windows(*xs)).sum(-1) + below,
        lambda *xs: (weights * windows(*xs)).sum(-1) + above,
    )


@register_relaxation(jp.reduce_max_p)
def _reduce_max(x, *, image, kind, axes, **_):
    def windows(z):
        moved = jnp.moveaxis(z, axes, range(z.ndim - len(axes), z.ndim))
        return moved.reshape(*moved.shape[: z.ndim - len(axes)], -1)

    return greatest(windows, (x,), image)


@register_relaxation(jp.reduce_window_max_p)
def _reduce_window_max(x, *, image, kind, **window):
    windows = functools.partial(entries, **window)
    return greatest(windows, (x,), image, valid=windows(jnp.ones_like(x.lower)) > 0)


# ---------------------------------------------------------------- products


@register_relaxation(jp.mul_p)
def _mul(x, y, *, image, kind, **_):
    """McCormick's four planes; the mean of the two below, and of the two above."""
    bounded = _all_finite(x.lower, x.upper, y.lower, y.upper, image.lower, image.upper)
    below = jnp.where(bounded, -0.5 * (x.lower * y.lower + x.upper * y.upper), image.lower)
    above = jnp.where(bounded, -0.5 * (x.lower * y.upper + x.upper * y.lower), image.upper)
    a_slope, b_slope = jnp.where(bounded, y.center, 0), jnp.where(bounded, x.center, 0)
    return Relaxation(
        lambda a, b: a_slope * a + b_slope * b + below,
        lambda a, b: a_slope * a + b_slope * b + above,
    )
