"""Bounds sine, cosine, tangent, and the angle of a point: images of intervals, and lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.curves import Lines, bisect, negated, s_shaped

TURN = 2 * math.pi


# ---------------------------------------------------------------- images


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


# ---------------------------------------------------------------- lines


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
