"""Bounds integers and truth values: exactly, unless a value may leave its type."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program import activations
from jaxbound._rules.arithmetic import absolute, ends
from jaxbound._rules.interval_rules import IntervalRule, interval_rules, monotone
from jaxbound._rules.rounding import CAST, EXACT


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
    return where_defined(inside, found.lower, found.upper)


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
    return where_defined(inside, found.lower, found.upper)


def where_defined(defined, low, high) -> Interval:
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
    return where_defined(
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


def next_after(x, y, **_):
    """Bounds the floating-point number next to ``x``: each end moves outward by one number."""
    shape = jnp.broadcast_shapes(*(jnp.shape(ends(z)[0]) for z in (x, y)))
    low, high = (jnp.broadcast_to(end, shape) for end in ends(x))
    below, above = (jnp.full_like(end, sign * jnp.inf) for end, sign in ((low, -1), (high, 1)))
    return Interval(lax.nextafter(low, below), lax.nextafter(high, above))


# ---------------------------------------------------------------- comparisons


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


def is_nan(x: Interval) -> Interval:
    """Bounds the truth value of "is NaN": impossible between finite ends, possible otherwise."""
    return Interval(jnp.zeros(x.shape, bool), ~(jnp.isfinite(x.lower) & jnp.isfinite(x.upper)))


# ---------------------------------------------------------------- the table


interval_rules |= {
    **{
        p: IntervalRule(logical(p), error=EXACT)
        for p in (jp.and_p, jp.or_p, jp.reduce_and_p, jp.reduce_or_p)
    },
    jp.xor_p: IntervalRule(exclusive_or, error=EXACT),
    jp.abs_p: IntervalRule(unless_it_wraps(absolute), (0,), exact=True, error=EXACT),
    jp.not_p: monotone(jp.not_p, falls=(0,), error=EXACT),
    jp.convert_element_type_p: IntervalRule(convert, exact=True, error=CAST),
    jp.nextafter_p: IntervalRule(next_after),
    jp.bitcast_convert_type_p: IntervalRule(bits),
    jp.shift_right_arithmetic_p: IntervalRule(shift_right, (0,), error=EXACT),
    **{p: IntervalRule(count_of_bits(p)) for p in (jp.population_count_p, jp.clz_p)},
    **{p: monotone(p, falls=(0,), error=EXACT) for p in (jp.lt_p, jp.le_p)},
    **{p: monotone(p, falls=(1,), error=EXACT) for p in (jp.gt_p, jp.ge_p)},
    **{p: IntervalRule(compare_total(p)) for p in (jp.lt_to_p, jp.le_to_p)},
    jp.eq_p: IntervalRule(equal, exact=True, error=EXACT),
    jp.ne_p: IntervalRule(unequal, exact=True, error=EXACT),
    jp.is_finite_p: IntervalRule(is_finite),
    activations.is_nan: IntervalRule(is_nan),
}
