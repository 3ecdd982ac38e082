"""Bounds functions of angles, cosines and tangents, and the angle and the size of a point in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program import activations
from jaxbound._rules import curves
from jaxbound._rules.arithmetic import absolute, ends
from jaxbound._rules.curves import Lines, bisect, negated, s_shaped
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.products import bounded_part, largest_size, radius_of
from jaxbound._rules.relaxations import Relaxation, relaxations

TURN = 2 * math.pi


# ---------------------------------------------------------------- intervals


def meets(x: Interval, point: float, period: float):
    """Tells whether ``point + k period`` may lie in an interval for an integer k; none that does is missed.

    The quotient and the product below are off by less than ``room``, so that the first k found is never
    past the first one in the interval; an infinite end makes a NaN, which counts as met.
    """
    size = jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))
    room = 16 * jnp.finfo(x.dtype).eps * (1 + size)
    first = point + period * jnp.ceil((x.lower - room - point) / period)
    return ~(first > x.upper + room)


def _values(fn, x: Interval):
    """Returns the values at both ends, or at 0 where an end is infinite, so that gradients are finite."""
    return [fn(jnp.where(jnp.isfinite(end), end, 0)) for end in (x.lower, x.upper)]


def wave_image(fn: Callable[..., Any], x: Interval, peak: float) -> Interval:
    """Bounds ``fn(z) = cos(z - peak)``: exactly, but rounding may take a near peak for one inside."""
    a, b = _values(fn, x)
    lower = jnp.where(meets(x, peak + math.pi, TURN), -1, jnp.minimum(a, b))
    return Interval(lower, jnp.where(meets(x, peak, TURN), 1, jnp.maximum(a, b)))


def tan_image(fn: Callable[..., Any], x: Interval, **params) -> Interval:
    """Bounds the tangent function: it increases between its poles and is unbounded across one."""
    a, b = _values(fn, x)
    pole = meets(x, math.pi / 2, math.pi)
    return Interval(jnp.where(pole, -jnp.inf, a), jnp.where(pole, jnp.inf, b))


def atan2_image(y, x, **_) -> Interval:
    """Bounds the angle: by the corners of a box off the negative x-axis, else by all angles from -pi to pi."""
    (yl, yu), (xl, xu) = ends(y), ends(x)
    one_branch = (xl > 0) | (yl > 0) | (yu < 0)
    xl, xu = (jnp.where(one_branch, end, 1) for end in (xl, xu))
    corners = jnp.stack(
        jnp.broadcast_arrays(
            *(lax.atan2(*jnp.broadcast_arrays(a, b)) for a in (yl, yu) for b in (xl, xu))
        )
    )
    return Interval(
        jnp.where(one_branch, corners.min(0), -math.pi),
        jnp.where(one_branch, corners.max(0), math.pi),
    )


def modulus_image(x, y, **_) -> Interval:
    """Bounds ``sqrt(x^2 + y^2)``, which grows with the sizes of both."""
    x, y = (absolute(Interval(*ends(z))) for z in (x, y))
    size = lambda x, y: lax.abs(lax.complex(x, y))
    return Interval(size(x.lower, y.lower), size(x.upper, y.upper))


# ---------------------------------------------------------------- lines and planes


def wave(fn: Callable[..., Any], peak: float, l, u) -> Lines:
    """Returns the lines of least area for ``fn(z) = cos(z - peak)``, on intervals of any width."""
    above = _above(fn, peak, l, u)
    below = _above(lambda z: -fn(z), peak + math.pi, l, u)
    return Lines(-below[0], -below[1], *above)


def _above(fn, peak: float, l, u):
    """Returns slope and intercept of the line above ``fn(z) = cos(z - peak)`` that is lowest at the centre.

    ``h(s) = max_z fn(z) - s z`` makes ``s z + h(s)`` a line above, for any slope s; its value at the
    centre c is convex in s, with derivative ``c - z(s)`` where ``z(s)`` is a maximiser. The optimal slope
    has no effect of first order on that value, so it needs no gradient. Maxima inside have
    ``z = peak - arcsin(s) + 2 pi k``; from one to the next, ``fn(z) - s z`` falls by ``2 pi s``, so that
    the first or the last is the highest.
    """

    def highest(slope):
        z = peak - jnp.arcsin(slope)
        first = z + TURN * jnp.ceil((l - z) / TURN)
        last = z + TURN * jnp.floor((u - z) / TURN)
        best, most = l, fn(l) - slope * l
        for point in (u, jnp.clip(first, l, u), jnp.clip(last, l, u)):
            value = fn(point) - slope * point
            best, most = jnp.where(value > most, point, best), jnp.maximum(value, most)
        return best, most

    center, one = 0.5 * l + 0.5 * u, jnp.ones_like(l)
    low, high = bisect(lambda slope: highest(slope)[0] <= center, -one, one)
    slope = 0.5 * low + 0.5 * high
    # Rounding moves the place of a maximum, and its error enters squared: from eps^-1/2 on, that is too much.
    known = jnp.maximum(jnp.abs(l), jnp.abs(u)) < jnp.finfo(l.dtype).eps ** -0.5
    return slope, jnp.where(known, highest(slope)[1], jnp.inf)


def tangent(fn: Callable[..., Any], l, u) -> Lines:
    """Returns lines of the tangent function on a branch: concave left of a multiple of pi, convex right of it."""
    middle = lax.stop_gradient(math.pi * jnp.round((0.5 * l + 0.5 * u) / math.pi))
    return negated(s_shaped(lambda z: -fn(z), l, u, middle))


def angle_planes(y, x, *, image, **_) -> Relaxation:
    """Returns planes of ``atan2(y, x)`` off the negative x-axis: the tangent at the centre, -+ Taylor's remainder.

    The second derivative along any direction is at most ``1 / (x^2 + y^2)`` in size: the angle is the imaginary
    part of the logarithm, whose second derivative is ``-1 / z^2``.
    """
    uncertain = [isinstance(z, Interval) for z in (y, x)]
    y, x = (z if isinstance(z, Interval) else Interval(z, z) for z in (y, x))
    one_branch = (x.lower > 0) | (y.lower > 0) | (y.upper < 0)
    # The angle does not depend on the scale: in units of the largest end, squares neither overflow nor vanish.
    largest = jnp.maximum(largest_size(y), largest_size(x))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    y, x = (Interval(z.lower / scale, z.upper / scale) for z in (y, x))
    (yc, yr), (xc, xr) = bounded_part(y), bounded_part(x)
    near = [jnp.maximum(jnp.maximum(z.lower, -z.upper), 0) for z in (y, x)]
    distance, square = near[0] ** 2 + near[1] ** 2, yc**2 + xc**2
    away, info = distance > 0, jnp.finfo(square.dtype)
    error = (xr**2 + yr**2) / (2 * jnp.where(away, distance, 1))
    square, xc = jnp.where(away, square, 1), jnp.where(away, xc, 1)
    found = one_branch & jnp.isfinite(radius_of(y) + radius_of(x))
    # Slopes, which are divided by ``scale``, must neither overflow nor vanish.
    found &= (distance > jnp.sqrt(info.tiny)) & (scale < info.eps / info.tiny)
    found &= curves.all_finite(error, 1 / scale / square) & (2 * error < image.upper - image.lower)
    slopes = [jnp.where(found, slope, 0) for slope in (xc / square, -yc / square)]
    parts = list(zip(slopes, (yc, xc), uncertain, strict=True))
    rest = jnp.arctan2(yc, xc) - sum(slope * center for slope, center, moves in parts if moves)
    slopes = [slope / scale for slope, _, moves in parts if moves]

    def plane(error, constant):
        offset = jnp.where(found, rest + error, constant)
        return lambda *z: sum(slope * a for slope, a in zip(slopes, z, strict=True)) + offset

    return Relaxation(plane(-error, image.lower), plane(error, image.upper))


def modulus_planes(x, y, *, image, **_) -> Relaxation:
    """Returns planes of ``|z| = sqrt(x^2 + y^2)`` on a box of centre c and radii r.

    Below, ``<c, z> / |c|``, by Cauchy and Schwarz. Above, for ``m = sqrt(|c|^2 + |r|^2)``: the root lies below its
    tangent ``|z|^2 / 2m + m / 2``, squares below their chords ``2 c z + r^2 - c^2``; together ``(<c, z> + |r|^2) / m``.
    """
    uncertain = [isinstance(z, Interval) for z in (x, y)]
    box = [z if isinstance(z, Interval) else Interval(z, z) for z in (x, y)]
    # Planes scale with the box: in units of its largest end, squares neither overflow nor vanish.
    largest = jnp.maximum(*(jnp.maximum(-z.lower, z.upper) for z in box))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    parts = [bounded_part(Interval(z.lower / scale, z.upper / scale)) for z in box]
    (centers, radii), tiny = zip(*parts, strict=True), jnp.finfo(scale.dtype).tiny
    size = _norm(centers)
    bounded = jnp.isfinite(radius_of(box[0]) + radius_of(box[1])) & (largest > 0)

    def plane(found, length, rest, constant):
        length = jnp.where(found, length, 1)
        slopes = [jnp.where(found, c / length, 0) for c in centers]
        pairs = list(zip(slopes, centers, uncertain, strict=True))
        offset = scale * (rest / length + sum(s * c for s, c, moves in pairs if not moves))
        slopes = [slope for slope, moves in zip(slopes, uncertain, strict=True) if moves]
        offset = jnp.where(found, offset, constant)
        return lambda *z: sum(slope * a for slope, a in zip(slopes, z, strict=True)) + offset

    length = _norm([*centers, *radii])
    return Relaxation(
        plane(bounded & (size > tiny), size, 0, image.lower),
        plane(bounded, length, sum(r**2 for r in radii), image.upper),
    )


def _norm(parts):
    """Returns the root of the sum of squares, with a finite gradient at 0."""
    square = sum(part**2 for part in parts)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


interval_rules |= {
    jp.atan2_p: IntervalRule(atan2_image),
    activations.modulus: IntervalRule(modulus_image),
}
relaxations |= {jp.atan2_p: angle_planes, activations.modulus: modulus_planes}
