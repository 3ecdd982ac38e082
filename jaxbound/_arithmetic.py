"""Interval arithmetic: operands are `Interval` where uncertain, arrays where known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._interval import Interval


def ends(x) -> tuple[Any, Any]:
    return (x.lower, x.upper) if isinstance(x, Interval) else (x, x)


def neg(x, **_):
    return Interval(-x.upper, -x.lower)


def sub(x, y, **_):
    (xl, xu), (yl, yu) = ends(x), ends(y)
    return Interval(lax.sub(xl, yu), lax.sub(xu, yl))


def logical_not(x, **_):
    return Interval(~x.upper, ~x.lower)


def logical(primitive):
    """Monotone on truth values; bits of integers are not bounded."""

    def bound(x, y, **_):
        (xl, xu), (yl, yu) = ends(x), ends(y)
        if xl.dtype == bool:
            return Interval(primitive.bind(xl, yl), primitive.bind(xu, yu))
        limits, whole = jnp.iinfo(xl.dtype), jnp.zeros_like(primitive.bind(xl, yl))
        return Interval(whole + limits.min, whole + limits.max)

    return bound


def rsqrt(x, **_):
    # Below 0 the function is not defined: no finite bound.
    return Interval(lax.rsqrt(x.upper), jnp.where(x.lower > 0, lax.rsqrt(x.lower), jnp.inf))


def _times(a, b):
    """``a * b`` with ``0 * inf = 0``; a zero keeps its gradient."""
    zero = (jnp.isinf(a) & (b == 0)) | (jnp.isinf(b) & (a == 0))
    return jnp.where(zero, 0, lax.mul(a, b))


def mul(x, y, **_):
    if not isinstance(y, Interval):
        x, y = y, x
    (xl, xu), (yl, yu) = ends(x), ends(y)
    if not isinstance(
        x, Interval
    ):  # also right for the coefficients of linear bounds, where l > u occurs
        low, high, ahead = _times(x, yl), _times(x, yu), x >= 0
        return Interval(jnp.where(ahead, low, high), jnp.where(ahead, high, low))
    products = [_times(a, b) for a in (xl, xu) for b in (yl, yu)]
    return Interval(_fold(lax.min, products), _fold(lax.max, products))


def div(x, y, **_):
    # Only by known values: the trace turns the rest into a product with a reciprocal.
    return mul(x, lax.div(jnp.ones_like(y), y))


def bilinear(primitive, radius):
    """The product of the centres, ``+- radius(x, y)``."""

    def bound(x, y, **params):
        center = primitive.bind(_midpoint(x)[0], _midpoint(y)[0], **params)
        r = radius(x, y, **params)
        return Interval(center - r, center + r)

    return bound


def bilinear_radius(primitive):
    """``|W| r``; with two uncertain operands ``|Wc| r + rW (|c| + r)`` (Rump)."""

    def radius(x, y, **params):
        (xc, xr), (yc, yr) = _midpoint(x), _midpoint(y)
        terms = []
        if xr is not None:
            terms.append(primitive.bind(xr, jnp.abs(yc), **params))
        if yr is not None:
            terms.append(primitive.bind(jnp.abs(xc) + (0 if xr is None else xr), yr, **params))
        return sum(terms)

    return radius


def _midpoint(x):
    if not isinstance(x, Interval):
        return x, None
    bounded = jnp.isfinite(x.lower) & jnp.isfinite(x.upper)
    return jnp.where(bounded, x.center, 0), jnp.where(bounded, x.radius, jnp.inf)


def _fold(op, values):
    result = values[0]
    for value in values[1:]:
        result = op(result, value)
    return result


def image(fn: Callable[..., Any], x: Interval, *turns) -> Interval:
    """Exact image of a function that is monotone between its turning points."""
    points = [
        x.lower,
        x.upper,
        *(jnp.clip(jnp.asarray(t, x.dtype), x.lower, x.upper) for t in turns),
    ]
    values = [fn(point) for point in points]
    return Interval(_fold(lax.min, values), _fold(lax.max, values))


def integer_pow(x, *, y, **_):
    def raised(z):
        return lax.integer_pow(z, y)

    if y > 0:
        return image(raised, x, *((0.0,) if y % 2 == 0 else ()))
    values = image(raised, x)
    pole = (x.lower <= 0) & (x.upper >= 0)
    lower = values.lower if y % 2 == 0 else jnp.where(pole, -jnp.inf, values.lower)
    return Interval(lower, jnp.where(pole, jnp.inf, values.upper))


def power(x, y, **_):
    # Defined on x >= 0 for every exponent; monotone there.
    values = image(lambda z: lax.pow(z, y), x)
    inside = x.lower >= 0
    return Interval(
        jnp.where(inside, values.lower, -jnp.inf), jnp.where(inside, values.upper, jnp.inf)
    )


def compare(definitely, possibly):
    """A truth value: ``lower`` where it surely holds, ``upper`` where it may hold."""

    def bound(x, y, **_):
        (xl, xu), (yl, yu) = ends(x), ends(y)
        return Interval(definitely(xl, xu, yl, yu), possibly(xl, xu, yl, yu))

    return bound


def is_finite(x: Interval) -> Interval:
    """Certain between finite ends, impossible at an infinite point."""
    lower, upper = jnp.isfinite(x.lower), jnp.isfinite(x.upper)
    return Interval(lower & upper, lower | upper | (x.lower < x.upper))


def select_n(which, *cases, **params):
    if not isinstance(which, Interval):
        lower, upper = zip(*map(ends, cases), strict=True)
        return Interval(
            jp.select_n_p.bind(which, *lower, **params), jp.select_n_p.bind(which, *upper, **params)
        )
    # Every case that the predicate may choose contributes its ends.
    first, last = (jnp.asarray(end, jnp.int32) for end in ends(which))
    lower, upper = jnp.inf, -jnp.inf
    for index, case in enumerate(cases):
        possible = (first <= index) & (index <= last)
        lower = jnp.where(possible, jnp.minimum(lower, ends(case)[0]), lower)
        upper = jnp.where(possible, jnp.maximum(upper, ends(case)[1]), upper)
    return Interval(lower, upper)
