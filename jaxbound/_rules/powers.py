"""Bounds powers, by intervals, lines and planes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._rules import curves
from jaxbound._rules.arithmetic import ends, image
from jaxbound._rules.elementwise import declare_elementwise
from jaxbound._rules.integers import unless_it_wraps
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.one_variable import Elementwise, bulging, curved, elementwise_relaxation, tame
from jaxbound._rules.relaxations import Relaxation, constant_relaxation, relaxations
from jaxbound._rules.rounding import Units

# ---------------------------------------------------------------- intervals


def power_image(x, y, **_):
    """Bounds ``x^y``: on x >= 0 monotone in x for each y and in y for each x; elsewhere defined for integers y only."""
    (xl, xu), inside, pow_of = ends(x), ends(x)[0] >= 0, tame(lax.pow, 0.5)
    values = [pow_of(base, exponent) for base in (xl, xu) for exponent in ends(y)]
    lower, upper = functools.reduce(lax.min, values), functools.reduce(lax.max, values)
    if not isinstance(y, Interval):
        fixed, whole = lax.stop_gradient(y), y == jnp.round(y)
        found = _whole_power(x, fixed, lambda z: pow_of(z, fixed))
        inside |= whole
        lower, upper = jnp.where(whole, found.lower, lower), jnp.where(whole, found.upper, upper)
    return Interval(jnp.where(inside, lower, -jnp.inf), jnp.where(inside, upper, jnp.inf))


def integer_pow(x, *, y, **_):
    return _whole_power(x, y, lambda z: lax.integer_pow(z, y))


def _whole_power(x: Interval, y, raised: Callable[..., Any]) -> Interval:
    """Bounds ``x^y`` for known integers y: even powers turn at 0, negative ones have a pole there."""
    if jnp.issubdtype(x.dtype, jnp.integer):  # these have no negative powers
        return image(raised, x, 0)
    pole = (y < 0) & (x.lower <= 0) & (x.upper >= 0)
    away = Interval(*(jnp.where(pole, 1, end) for end in (x.lower, x.upper)))
    found, even = image(raised, away, 0.0), y % 2 == 0
    # Over a pole, an even power is least at the end further from 0; one so near that its power is above 2^60 is
    # moved out to where it is 2^60, a lower bound that does not overflow.
    far = jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))
    far = jnp.maximum(far, 2.0 ** (-60 / jnp.maximum(jnp.abs(y), 1)))
    least = jnp.where(even, raised(jnp.where(pole & even, far, 1).astype(x.dtype)), -jnp.inf)
    return Interval(jnp.where(pole, least, found.lower), jnp.where(pole, jnp.inf, found.upper))


# ---------------------------------------------------------------- lines and planes


_convex, _concave, _turned = curved(1), curved(-1), curved(-1, 0.0)


def _integer_pow(fn, l, u, choice, *, y, **_):
    if y > 1 and y % 2 == 1:
        return _turned(fn, l, u, choice)
    lines = _convex(fn, l, u, choice)
    if y > 0 or y % 2 == 0:
        return lines
    return curves.where(u < 0, _concave(fn, l, u, choice), lines)  # odd negative powers


def _pow(fn, l, u, choice, exponent, **_):
    """Returns lines for a power: concave for exponents from 0 to 1 and, left of 0, for odd ones; else convex."""
    odd, negative = jnp.abs(lax.rem(exponent, jnp.full_like(exponent, 2))) == 1, exponent < 0
    bulges = jnp.where(negative, odd & (u < 0), exponent < 1)
    return curves.where(
        odd & ~negative, _turned(fn, l, u, choice), bulging(bulges, fn, l, u, choice)
    )


_OF_BASE, _OF_EXPONENT = (Elementwise(lines, None, inside=0.5) for lines in (_pow, _convex))


def power_lines(x, y, *, image, choice, **params):
    if isinstance(y, Interval) and not jnp.issubdtype(y.dtype, jnp.floating):
        return constant_relaxation([image])
    if isinstance(x, Interval) and isinstance(y, Interval):
        return power_planes(x, y, image)
    record = _OF_EXPONENT if isinstance(y, Interval) else _OF_BASE
    return elementwise_relaxation(record, jp.pow_p, x, y, image=image, choice=choice, **params)


def power_planes(x: Interval, y: Interval, image) -> Relaxation:
    """Returns planes of ``x^y = exp(y log x)`` where ``x > 0``, composed of lines and planes of its parts.

    The lines of exp are applied to the planes of the product of y and log x, and these to the lines of log.
    """
    inside = x.lower > 0
    x, found = (
        Interval(*(jnp.where(inside, end, 1) for end in (z.lower, z.upper))) for z in (x, image)
    )
    logs = curves.concave(jnp.log, x.lower, x.upper)
    log_x, (l, u) = (
        Interval(jnp.log(x.lower), jnp.log(x.upper)),
        map(jnp.log, (found.lower, found.upper)),
    )
    exp = curves.convex(jnp.exp, l, u, jnp.minimum(Interval(l, u).center, l + 0.99))
    center, reach = log_x.center * y.center, log_x.radius * y.radius

    def side(slope, intercept, below, constant):
        rises = (y.center >= 0) == below
        log_slope = jnp.where(rises, logs.lower_slope, logs.upper_slope)
        log_intercept = jnp.where(rises, logs.lower_intercept, logs.upper_intercept)
        of_x, of_y = slope * y.center * log_slope, slope * log_x.center
        rest = y.center * log_intercept - center + (-reach if below else reach)
        rest = slope * rest + intercept
        finite = inside & curves.all_finite(of_x, of_y, rest)
        of_x, of_y = (jnp.where(finite, part, 0) for part in (of_x, of_y))
        rest = jnp.where(finite, rest, constant)
        return lambda a, b: of_x * a + of_y * b + rest

    return Relaxation(
        side(exp.lower_slope, exp.lower_intercept, True, image.lower),
        side(exp.upper_slope, exp.upper_intercept, False, image.upper),
    )


# At most 2 |y| products, a division; the derivative ``y z^(y-1)`` has ``|z f'| = |y| |f|``.
_WHOLE = Units(lambda params: 2 * abs(params["y"]) + 4, slope=8)

interval_rules |= {
    jp.integer_pow_p: IntervalRule(unless_it_wraps(integer_pow), exact=True, error=_WHOLE),
    jp.pow_p: IntervalRule(power_image, exact=True),
}
declare_elementwise(jp.integer_pow_p, Elementwise(_integer_pow, None, inside=0.5, error=_WHOLE))
declare_elementwise(jp.pow_p, _OF_BASE)
relaxations[jp.pow_p] = power_lines
