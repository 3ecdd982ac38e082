"""Defines interval arithmetic: operands are `Interval` where uncertain, arrays where known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval, intersect


def ends(x) -> tuple[Any, Any]:
    """Returns the lower and the upper end; a known array is both."""
    return (x.lower, x.upper) if isinstance(x, Interval) else (x, x)


def is_nan(x: Interval) -> Interval:
    """Bounds the truth value of "is NaN": impossible between finite ends, possible otherwise."""
    return Interval(jnp.zeros(x.shape, bool), ~(jnp.isfinite(x.lower) & jnp.isfinite(x.upper)))


def times(a, b):
    """Returns ``a * b`` with ``0 * inf = 0``; infinite operands have no gradient."""
    infinite, zero = jnp.isinf(a) | jnp.isinf(b), (a == 0) | (b == 0)
    found = lax.mul(*(jnp.where(infinite, 1, z).astype(jnp.result_type(z)) for z in (a, b)))
    beyond = lax.mul(*lax.stop_gradient((a, b)))
    return jnp.where(infinite, jnp.where(zero, 0, beyond), found)


def mul(x, y, **_):
    """Bounds ``x * y``, which is extreme at the ends of both operands."""
    if not isinstance(y, Interval):
        x, y = y, x
    (xl, xu), (yl, yu) = ends(x), ends(y)
    # With a known factor it is also right for the coefficients of linear bounds, where l > u occurs.
    if not isinstance(x, Interval):
        low, high, ahead = times(x, yl), times(x, yu), x >= 0
        return Interval(jnp.where(ahead, low, high), jnp.where(ahead, high, low))
    products = [times(a, b) for a in (xl, xu) for b in (yl, yu)]
    return Interval(functools.reduce(lax.min, products), functools.reduce(lax.max, products))


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


def next_after(x, y, **_):
    """Bounds the floating-point number next to ``x``: each end moves outward by one number."""
    shape = jnp.broadcast_shapes(*(jnp.shape(ends(z)[0]) for z in (x, y)))
    low, high = (jnp.broadcast_to(end, shape) for end in ends(x))
    below, above = (jnp.full_like(end, sign * jnp.inf) for end, sign in ((low, -1), (high, 1)))
    return Interval(lax.nextafter(low, below), lax.nextafter(high, above))


def bilinear(primitive, radius):
    """Returns the interval rule of a bilinear ``primitive``: the product of the centres, ``+- radius(x, y)``.

    For two uncertain operands it is intersected with the bounds `by_signs`.
    """

    def bilinear_image(x, y, **params):
        center = primitive.bind(_midpoint(x)[0], _midpoint(y)[0], **params)
        r = radius(x, y, **params)
        found = Interval(center - r, center + r)
        if not (isinstance(x, Interval) and isinstance(y, Interval)):
            return found
        return intersect(found, by_signs(functools.partial(primitive.bind, **params), x, y))

    return bilinear_image


def by_signs(product, x, y) -> Interval:
    """Bounds a product by those of both operands' positive and negative parts, which are monotone.

    It is exact unless both operands change sign.
    """
    (xl, xu), (yl, yu) = (
        [(jnp.maximum(end, 0), jnp.minimum(end, 0)) for end in ends(z)] for z in (x, y)
    )
    least = ((xl[0], yl[0]), (xu[0], yl[1]), (xl[1], yu[0]), (xu[1], yu[1]))
    most = ((xu[0], yu[0]), (xl[0], yu[1]), (xu[1], yl[0]), (xl[1], yl[1]))
    return Interval(*(sum(product(a, b) for a, b in pairs) for pairs in (least, most)))


def bilinear_radius(primitive):
    """Returns the function for the radius: ``|W| r``; with two uncertain operands ``|Wc| r + rW (|c| + r)`` (Rump)."""

    def product_radius(x, y, **params):
        (xc, xr), (yc, yr) = _midpoint(x), _midpoint(y)
        terms = []
        if xr is not None:
            terms.append(primitive.bind(xr, jnp.abs(yc), **params))
        if yr is not None:
            terms.append(primitive.bind(jnp.abs(xc) + (0 if xr is None else xr), yr, **params))
        return sum(terms)

    return product_radius


def _midpoint(x):
    """Returns centre and radius: 0 and inf where an end is infinite; the radius of a known array is None."""
    if not isinstance(x, Interval):
        return x, None
    bounded = jnp.isfinite(x.lower) & jnp.isfinite(x.upper)
    return jnp.where(bounded, x.center, 0), jnp.where(bounded, x.radius, jnp.inf)


def image(fn: Callable[..., Any], x: Interval, *turns) -> Interval:
    """Returns the exact image of a function that is monotone between its turning points ``turns``."""
    inner = (jnp.clip(jnp.asarray(t, x.dtype), x.lower, x.upper) for t in turns)
    values = [fn(z) for z in (x.lower, x.upper, *inner)]
    return Interval(functools.reduce(lax.min, values), functools.reduce(lax.max, values))


def absolute(x: Interval) -> Interval:
    """Returns the exact image of the absolute value; of integers, if all have one."""
    return image(jnp.abs, x, 0.0)


def modulus(x, y, **_) -> Interval:
    """Bounds ``sqrt(x^2 + y^2)``, which grows with the sizes of both."""
    x, y = (absolute(Interval(*ends(z))) for z in (x, y))
    size = lambda x, y: lax.abs(lax.complex(x, y))
    return Interval(size(x.lower, y.lower), size(x.upper, y.upper))


def equal(x, y, **_):
    """Bounds the truth value of ``x == y``: certain for two equal points, impossible for intervals that are apart."""
    (xl, xu), (yl, yu) = ends(x), ends(y)
    return Interval((xl == xu) & (yl == yu) & (xl == yl), (xl <= yu) & (yl <= xu))


def unequal(x, y, **_):
    found = equal(x, y)
    return Interval(~found.upper, ~found.lower)


def _in_total_order(x):
    """Returns the ends in the order -NaN < -inf < -0 < 0 < inf < NaN.

    A zero end may be either zero, and an infinite end may stand for NaN: the ends move outward to them.
    """
    if not isinstance(x, Interval) or not jnp.issubdtype(x.dtype, jnp.floating):
        return ends(x)
    lower = jnp.where(x.lower == 0, -0.0, jnp.where(x.lower > -jnp.inf, x.lower, -jnp.nan))
    upper = jnp.where(x.upper == 0, 0.0, jnp.where(x.upper < jnp.inf, x.upper, jnp.nan))
    return lower.astype(x.dtype), upper.astype(x.dtype)


def compare_total(primitive):
    """Returns the interval rule of ``x < y`` or ``x <= y`` in the total order: never truer for greater x, lesser y."""

    def total_order_image(x, y, **params):
        (xl, xu), (yl, yu) = _in_total_order(x), _in_total_order(y)
        return Interval(primitive.bind(xu, yl, **params), primitive.bind(xl, yu, **params))

    return total_order_image


def is_finite(x: Interval) -> Interval:
    """Bounds the truth value of "is finite": certain between finite ends, impossible at an infinite point."""
    lower, upper = jnp.isfinite(x.lower), jnp.isfinite(x.upper)
    return Interval(lower & upper, lower | upper | (x.lower < x.upper))
