"""Bounds powers of intervals, and keeps gradients finite where a function is steep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval
from jaxbound._rules.arithmetic import ends, image


def steepest(dtype) -> float:
    """Returns the number that stands for an infinite slope in gradients: unlike infinity, times 0 it is 0."""
    return min(1e18, float(jnp.finfo(dtype).max))


@jax.custom_jvp
def ratio(rise, width):
    """Returns ``rise / width``, with finite derivatives also where the square of the width underflows."""
    return rise / width


@ratio.defjvp
def _(primals, tangents):
    (rise, width), (d_rise, d_width) = primals, tangents
    found, limit = ratio(rise, width), steepest(width.dtype)
    return found, (d_rise - found * d_width) * jnp.minimum(1 / width, limit)


def tame(fn: Callable[..., Any], inside: float) -> Callable[..., Any]:
    """Returns ``fn(z, *known)`` with finite derivatives also where it is infinitely steep.

    That may be at the ends of its domain; ``inside`` is a number in the domain, where it is not.
    """

    @jax.custom_jvp
    def tamed(z, *known):
        return fn(z, *known)

    @tamed.defjvp
    def _(primals, tangents):
        (z, *known), (dz, *others) = primals, tangents
        fixed, ones = lax.stop_gradient((z, known)), jnp.ones_like(z)
        slope_of = lambda z, known: jax.jvp(lambda z: fn(z, *known), (z,), (ones,))[1]
        slope, transposed = jax.vjp(lambda z: slope_of(z, fixed[1]), fixed[0])
        steep = ~(jnp.isfinite(slope) & jnp.isfinite(transposed(ones)[0]))
        most, limit = jnp.where(jnp.isnan(slope), 0, slope), steepest(slope.dtype)
        inner = slope_of(jnp.where(steep, jnp.asarray(inside, z.dtype), z), known)
        moved = jnp.where(steep, jnp.clip(most, -limit, limit), inner) * dz
        if known and all(jnp.issubdtype(k.dtype, jnp.floating) for k in known):
            # A power of a negative number has no derivative with respect to its exponent.
            of_known = lambda *k: fn(fixed[0], *k)
            _, grown = jax.jvp(of_known, fixed[1], list(map(jnp.ones_like, known)))
            base = jnp.where(jnp.isfinite(grown), fixed[0], jnp.asarray(inside, z.dtype))
            part = jax.jvp(lambda *k: fn(base, *k), known, others)[1]
            moved += jnp.where(jnp.isfinite(grown), part, 0)
        return tamed(z, *known), moved

    return tamed


def integer_pow(x, *, y, **_):
    return _whole_power(x, y, lambda z: lax.integer_pow(z, y))


def power(x, y, **_):
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


def rsqrt(root, x: Interval, **_) -> Interval:
    # Below 0 the function is not defined: no finite bound.
    return Interval(root(x.upper), jnp.where(x.lower > 0, root(x.lower), jnp.inf))
