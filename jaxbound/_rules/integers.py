"""Bounds integers and truth values: exactly, unless a value may leave its type."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._rules.arithmetic import by_signs, ends


def logical(primitive):
    """Returns the interval rule of ``and`` or ``or``: monotone on truth values; bits of integers are not bounded."""

    def logical_image(*xs, **params):
        low, high = (primitive.bind(*side, **params) for side in zip(*map(ends, xs), strict=True))
        return Interval(low, high) if low.dtype == bool else any_integer(low)

    return logical_image


def exclusive_or(x, y, **_):
    (xl, xu), (yl, yu) = ends(x), ends(y)
    found = lax.bitwise_xor(xl, yl)
    if found.dtype != bool:
        return any_integer(found)
    known = (xl == xu) & (yl == yu)
    return Interval(found & known, found | ~known)


def any_integer(like) -> Interval:
    """Returns the interval of all integers of a type."""
    limits = jnp.iinfo(like.dtype)
    return Interval(jnp.full_like(like, limits.min), jnp.full_like(like, limits.max))


def unless_it_wraps(bound):
    """Returns ``bound`` with a guard: where integers may leave their type, the interval is that of all integers.

    The same bound in floating point tells where they stay well within it.
    """

    def unless_it_wraps_image(*operands, **params):
        found = bound(*operands, **params)
        if not jnp.issubdtype(found.dtype, jnp.integer):
            return found
        return _within(found, bound(*_as_floats(operands), **params))

    return unless_it_wraps_image


def scattered_sum(bound):
    """Returns ``bound`` of a scatter-add with the guard of `unless_it_wraps`."""

    def scattered_sum_image(x, indices, updates, *, dimension_numbers, mode, **params):
        options = {"dimension_numbers": dimension_numbers, "mode": mode}
        found = bound(x, indices, updates, **options, **params)
        if not jnp.issubdtype(found.dtype, jnp.integer):
            return found
        pairs = zip(*(ends(_as_floats(z)) for z in (x, updates)), strict=True)
        return _within(
            found, Interval(*(lax.scatter_add(a, indices, b, **options) for a, b in pairs))
        )

    return scattered_sum_image


def _as_floats(operands):
    return jax.tree.map(lambda end: jnp.asarray(end, jnp.float32), operands)


def _within(found: Interval, wide: Interval) -> Interval:
    """Returns ``found`` where ``wide``, the same in floating point, is well within the type; else all integers."""
    limits = jnp.iinfo(found.dtype)
    inside = (wide.lower >= 0.99 * limits.min) & (wide.upper <= 0.99 * limits.max)
    return _where(inside, found.lower, found.upper)


def convert(x: Interval, *, new_dtype, **params):
    """Bounds a cast by the ends' casts, as it never decreases; where integers may wrap, by all integers."""
    ends_of = [
        jp.convert_element_type_p.bind(end, new_dtype=new_dtype, **params) for end in ends(x)
    ]
    found = Interval(*ends_of)
    if not (jnp.issubdtype(x.dtype, jnp.integer) and jnp.issubdtype(new_dtype, jnp.integer)):
        return found
    back = [end.astype(x.dtype) == old for end, old in zip(ends_of, ends(x), strict=True)]
    inside = back[0] & back[1] & (found.lower <= found.upper)
    return _where(inside, found.lower, found.upper)


def product(primitive, bound):
    """Returns the interval rule of a product: ``bound`` for floating-point operands, `_exact_product` for others."""

    def product_image(x, y, **params):
        if jnp.issubdtype(jnp.result_type(ends(x)[0]), jnp.floating):
            return bound(x, y, **params)
        return _exact_product(primitive, x, y, params)

    return product_image


def _exact_product(primitive, x, y, params):
    """Bounds a product of truth values, or of integers by their signs, unless its sums may leave the type."""
    product = functools.partial(primitive.bind, **params)
    (xl, xu), (yl, yu) = ends(x), ends(y)
    if xl.dtype == bool:
        return Interval(product(xl, yl), product(xu, yu))
    found = by_signs(product, x, y)
    sizes = (jnp.maximum(*(abs(jnp.asarray(end, jnp.float32)) for end in ends(z))) for z in (x, y))
    size = primitive.bind(*sizes, **params | {"preferred_element_type": None})
    inside = size <= 0.99 * jnp.iinfo(found.dtype).max
    return _where(inside, found.lower, found.upper)


# ---------------------------------------------------------------- division by uncertain values


def quotient(otherwise):
    """Returns the interval rule of division: of integers from corners, of other numbers ``otherwise``.

    Integers are divided with rounding towards 0, which is extreme at corners. Where the division may be
    undefined (by 0, or the least integer by -1), the interval is that of all integers.
    """

    def quotient_image(x, y, **params):
        (xl, xu), (yl, yu) = ends(x), ends(y)
        if jnp.issubdtype(jnp.result_type(xl), jnp.floating):
            return otherwise(x, y, **params)
        corners = [lax.div(a, jnp.where(b == 0, 1, b)) for a in (xl, xu) for b in (yl, yu)]
        defined, least = (yl > 0) | (yu < 0), jnp.iinfo(yl.dtype).min
        if least < 0:
            defined &= (xl > least) | (yl > -1) | (yu < -1)
        low, high = (functools.reduce(f, corners) for f in (jnp.minimum, jnp.maximum))
        return _where(defined, low, high)

    return quotient_image


def remainder(by_known):
    """Returns the interval rule of the remainder by an uncertain ``y``; ``by_known`` is the rule for a known one.

    The remainder has the sign of ``x``, is no larger than x in size, and is below ``|y|``; it is x itself where
    ``|x| < |y|``. Where it may be undefined, there is no bound.
    """

    def remainder_image(x, y, **params):
        if not isinstance(y, Interval):
            return by_known(x, y, **params)
        (xl, xu), (yl, yu) = ends(x), ends(y)
        sizes = jnp.abs(yl), jnp.abs(yu)
        least, most = jnp.minimum(*sizes), jnp.maximum(*sizes)
        most = most if jnp.issubdtype(y.dtype, jnp.floating) else most - 1
        same = ((xl >= 0) | (-least < xl)) & (xu < least)
        low = jnp.where(xl >= 0, 0, jnp.maximum(xl, -most))
        high = jnp.where(xu <= 0, 0, jnp.minimum(xu, most))
        # The least integer has no absolute value.
        defined = ((yl > 0) | (yu < 0)) & (least > 0)
        return _where(defined, jnp.where(same, xl, low), jnp.where(same, xu, high))

    return remainder_image


def _where(defined, low, high) -> Interval:
    whole = _anything(low)
    return Interval(jnp.where(defined, low, whole.lower), jnp.where(defined, high, whole.upper))


def _anything(like) -> Interval:
    if jnp.issubdtype(like.dtype, jnp.floating):
        return Interval(jnp.full_like(like, -jnp.inf), jnp.full_like(like, jnp.inf))
    return any_integer(like)


# ---------------------------------------------------------------- bits


def bits(x: Interval, *, new_dtype, **params):
    """Bounds the bits of floating-point numbers read as signed integers of the same size; else returns no bound.

    These integers rise with the number above 0 and fall with it below 0.
    """
    low, high = (jp.bitcast_convert_type_p.bind(z, new_dtype=new_dtype, **params) for z in ends(x))
    signed = jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(new_dtype, jnp.signedinteger)
    if not signed or low.shape != x.shape:
        return _anything(low)
    positive, negative = x.lower > 0, x.upper < 0
    return _where(
        positive | negative, jnp.where(negative, high, low), jnp.where(negative, low, high)
    )


def shift_right(x: Interval, by, **_):
    """Bounds a shift to the right of signed integers, a division rounded down, by that of the ends."""
    low, high = (lax.shift_right_arithmetic(end, by) for end in ends(x))
    signed = jnp.issubdtype(x.dtype, jnp.signedinteger)
    return Interval(low, high) if signed else any_integer(low)


def count_of_bits(primitive):
    """Returns the interval rule of a count of bits: at most those of the type; exact for a known integer."""

    def count_of_bits_image(x: Interval, **params):
        low, high = (primitive.bind(end, **params) for end in ends(x))
        known, count = x.lower == x.upper, jnp.iinfo(x.dtype).bits
        return Interval(jnp.where(known, low, 0), jnp.where(known, high, count).astype(low.dtype))

    return count_of_bits_image
