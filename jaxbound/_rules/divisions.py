"""Bounds quotients and remainders."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval, smallest
from jaxbound._rules import curves, rounding
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.elementwise import declare_elementwise
from jaxbound._rules.integers import where_defined
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.linear_rules import LinearRule, among, linear_rules
from jaxbound._rules.one_variable import Elementwise, bulging, elementwise_relaxation
from jaxbound._rules.products import bounded_part, largest_size, radius_of
from jaxbound._rules.relaxations import Relaxation, relaxations

# ---------------------------------------------------------------- intervals


def quotient_image(x, y, **_):
    """Bounds a quotient; of integers, which are divided with rounding towards 0, by its corners.

    Where the division of integers may be undefined (by 0, or the least one by -1), by all integers.
    """
    (xl, xu), (yl, yu) = ends(x), ends(y)
    if jnp.issubdtype(jnp.result_type(xl), jnp.floating):
        return div(x, y)
    corners = [lax.div(a, jnp.where(b == 0, 1, b)) for a in (xl, xu) for b in (yl, yu)]
    defined, least = (yl > 0) | (yu < 0), jnp.iinfo(yl.dtype).min
    if least < 0:
        defined &= (xl > least) | (yl > -1) | (yu < -1)
    low, high = (functools.reduce(f, corners) for f in (jnp.minimum, jnp.maximum))
    return where_defined(defined, low, high)


def div(x, y, **_):
    """Bounds ``x / y``, which is extreme at the ends of both operands; unbounded where the divisor may be 0.

    With a known divisor it is also right for the coefficients of linear bounds, where l > u occurs.
    """
    (xl, xu), (yl, yu) = ends(x), ends(y)
    pole = (yl <= 0) & (yu >= 0)
    yl, yu = (jnp.where(pole, jnp.ones_like(end), end) for end in (yl, yu))
    if not isinstance(y, Interval):
        low, high = (lax.div(*jnp.broadcast_arrays(end, yl)) for end in (xl, xu))
        ahead = yl > 0
        low, high = jnp.where(ahead, low, high), jnp.where(ahead, high, low)
    else:
        quotients = [
            _over(*jnp.broadcast_arrays(a, b))
            for a in {id(e): e for e in (xl, xu)}.values()
            for b in (yl, yu)
        ]
        low, high = functools.reduce(lax.min, quotients), functools.reduce(lax.max, quotients)
    return Interval(jnp.where(pole, -jnp.inf, low), jnp.where(pole, jnp.inf, high))


def _over(a, b):
    """Returns ``a / b``; for two infinite ends 0, to which ``a / b`` tends for every finite ``a``."""
    both = jnp.isinf(a) & jnp.isinf(b)
    return jnp.where(both, 0, lax.div(jnp.where(both, 0, a), b))


def remainder_image(x, y, **_):
    """Bounds the remainder by an uncertain ``y``, which has the sign of ``x``, and is no larger than x in size.

    It is below ``|y|``, and x itself where ``|x| < |y|``. Where it may be undefined, there is no bound.
    """
    if not isinstance(y, Interval):
        return rem(x, y)
    (xl, xu), (yl, yu) = ends(x), ends(y)
    sizes = jnp.abs(yl), jnp.abs(yu)
    least, most = jnp.minimum(*sizes), jnp.maximum(*sizes)
    most = most if jnp.issubdtype(y.dtype, jnp.floating) else most - 1
    same = ((xl >= 0) | (-least < xl)) & (xu < least)
    low = jnp.where(xl >= 0, 0, jnp.maximum(xl, -most))
    high = jnp.where(xu <= 0, 0, jnp.minimum(xu, most))
    # The least integer has no absolute value.
    defined = ((yl > 0) | (yu < 0)) & (least > 0)
    return where_defined(defined, jnp.where(same, xl, low), jnp.where(same, xu, high))


def rem(x, y, **_):
    """Bounds the remainder by a known ``y``: of the sign of ``x``, below ``|y|``, and rising between multiples of y.

    In XLA an integer's remainder by 0 is the integer itself, and the least integer has no ``|y|``: for these
    y, the interval spans 0 and ``x``.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        whole = (y == 0) | (jnp.abs(y) < 0)
        found = _remainder(x, jnp.where(whole, 1, y))
        low, high = jnp.minimum(x.lower, 0), jnp.maximum(x.upper, 0)
        return Interval(jnp.where(whole, low, found.lower), jnp.where(whole, high, found.upper))
    return _remainder(x, y)


def _remainder(x: Interval, y) -> Interval:
    size, low, high = jnp.abs(y), lax.rem(x.lower, y), lax.rem(x.upper, y)
    most = size if jnp.issubdtype(x.dtype, jnp.floating) else size - 1
    near = jnp.clip(x.lower, -most, 0), jnp.clip(x.upper, 0, most)
    rising = same_multiple(x, y)
    return Interval(jnp.where(rising, low, near[0]), jnp.where(rising, high, near[1]))


def same_multiple(x: Interval, y):
    """Tells whether the remainder by ``y`` rises on all of ``x``: whether x crosses no multiple of y other than 0.

    At 0 the remainder is continuous. On one side of 0 and over less than ``|y|``, it falls only where it crosses
    a multiple: then its value at the upper end is below that at the lower end.
    """
    one_side = (x.lower >= 0) | (x.upper <= 0)
    short = (x.upper - x.lower < jnp.abs(y)) & (lax.rem(x.lower, y) <= lax.rem(x.upper, y))
    inside = (-jnp.abs(y) < x.lower) & (x.upper < jnp.abs(y))
    return inside | (one_side & short)


# ---------------------------------------------------------------- planes


def _reciprocal(fn, l, u, choice, known, **_):
    """Returns lines for a known number divided by an uncertain one that is never 0."""
    return bulging((known < 0) != (u < 0), fn, l, u, choice)


_RECIPROCAL = Elementwise(_reciprocal, None, inside=0.5)  # of the divisor


def quotient_lines(x, y, *, image, choice):
    if isinstance(x, Interval):
        return quotient_planes(x, y, image, choice)
    return elementwise_relaxation(_RECIPROCAL, jp.div_p, x, y, image=image, choice=choice)


def quotient_planes(x: Interval, y: Interval, image, choice: curves.Choice) -> Relaxation:
    """Returns planes of ``x / y`` where y keeps its sign: those of the product ``x r``, with lines for ``r = 1 / y``.

    They are computed in units of the largest ``|y|``, so that r is at least 1 and cannot vanish; where a slope
    does vanish in its number type, the interval takes over.
    """
    sign = jnp.where(y.upper < 0, -1, 1).astype(y.dtype)
    near, unit = jnp.minimum(jnp.abs(y.lower), jnp.abs(y.upper)), largest_size(y)
    one_sign = ((y.lower > 0) | (y.upper < 0)) & jnp.isfinite(unit)
    unit = jnp.where(one_sign, unit, 1)
    near = jnp.where(one_sign, near / unit, 1)
    # x / y = (sign x / unit) / (|y| / unit)
    scale = sign * unit
    (xc, xr), least = bounded_part(x), smallest(x.dtype) / jnp.finfo(x.dtype).eps
    xc, xr = xc / scale, xr / unit
    r = Interval(jnp.ones_like(near), 1 / near)
    rc, rr = r.center, r.radius
    lines = curves.convex(lambda z: 1 / z, near, jnp.ones_like(near))
    found = one_sign & jnp.isfinite(radius_of(x)) & curves.all_finite(rr, *lines)
    found &= (jnp.abs(xc) + xr >= least) | (largest_size(x) == 0)

    def side(name, constant, below):
        tilt = choice.between(name, -jnp.ones_like(constant), 1.0, jnp.zeros_like(constant))
        of_x, of_r = rc + tilt * rr, xc + (tilt if below else -tilt) * xr
        reach = -xr * rr if below else xr * rr
        rest = reach - xc * rc - tilt * (xc * rr + (xr if below else -xr) * rc)
        rises = (of_r >= 0) == below
        of_y = of_r * jnp.where(rises, lines.lower_slope, lines.upper_slope)
        rest += of_r * jnp.where(rises, lines.lower_intercept, lines.upper_intercept)
        slopes = [of_x / scale, of_y / scale]
        kept = found & curves.all_finite(*slopes, rest)
        for whole, slope in zip((of_x, of_y), slopes, strict=True):
            kept &= (whole == 0) | (jnp.abs(slope) >= smallest(x.dtype))
        slopes = [jnp.where(kept, slope, 0) for slope in slopes]
        rest = jnp.where(kept, rest, constant)
        return lambda a, b: slopes[0] * a + slopes[1] * b + rest

    return Relaxation(side("lower", image.lower, True), side("upper", image.upper, False))


interval_rules |= {
    jp.div_p: IntervalRule(quotient_image, exact=True, error=rounding.QUOTIENT),
    jp.rem_p: IntervalRule(remainder_image),
}
linear_rules[jp.div_p] = LinearRule(among((0,)), keeps="place")
declare_elementwise(jp.div_p, _RECIPROCAL)
relaxations[jp.div_p] = quotient_lines
