"""Defines how primitives state their rounding error, and moves bounds outward by it.

An `IntervalRule` has a statement; without one, the primitive is not bounded under ``rounding=``. It says how far the
exact ends of the rule may lie outside of those that are computed, and, if the primitive is affine, what rows lose.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxbound._bounds.interval import Interval, smallest
from jaxbound._bounds.rounding import finite, moved, share, size, unit, wide
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.terms import never

Count = Callable[
    [Sequence[Any], Any, Mapping[str, Any]], int
]  # of the operands, the value and the parameters
Errors = list[tuple[Any, ...]]  # how far outside the lower and the upper end of each output may lie


class Terms(NamedTuple):
    """Describes the error of a primitive that is a sum of operands, or of products of two.

    Attributes:
      forward: how many an element of the value adds up, at most; 0 if it is an element of an operand.
      backward: how many an element of a row that is pulled back adds up, at most; 0 if it is one of the row.
      factors: whether these are products.
    """

    forward: Count = never
    backward: Count = never
    factors: bool = False

    def ends(self, rule, operands, outs, params) -> Errors | None:
        """Returns the errors of the ends: their `share` of what the rule makes of sizes; None if they are exact.

        The lower end of a rule that never decreases is its value at lower ends: a sum of terms, whose sizes add up
        to the lower end for ``[-|l|, |u|]``. Products are computed by centres and radii, in which both ends enter.
        """
        terms = self.forward(operands, outs[0], params)
        if not terms:
            return None
        if self.factors and all(isinstance(x, Interval) for x in operands[:2]):
            terms *= 2  # a product of parts, of one sign each, is the sum of two
        sizes = sizes_of(rule, operands, params, None if self.factors else both_sizes)
        dtype = coarsest(*operands, *outs)
        tiny = terms * self.tiny(operands, dtype)
        alone = not self.factors and len(operands) == 1

        def error(sizes):
            found = share(terms, dtype) * sizes + tiny
            return jnp.where(sizes == 0, 0, found) if alone else found  # a sum of zeros is exact

        return [(error(-found.lower), error(found.upper)) for found in sizes]

    def tiny(self, operands, dtype):
        """Returns what a term may lose where it, or an operand, is flushed to 0."""
        if not self.factors:
            return 4 * smallest(dtype)
        most = sum(jnp.max(finite(size(x)), initial=0) for x in operands[:2])
        return 4 * smallest(dtype) * (1 + most)


class Units(NamedTuple):
    """Describes the error of a function of each element in units of rounding u: a claim that is measured, not proved.

    ``|computed - f(z)| <= (value |f(z)| + operand |z| + constant) u + 8 least (1 + |z|)`` for ``|z| <= within``, and of
    the derivative that JAX computes ``slope (|f'| + steep) u + 8 least (1 + |z|)``, with the least normal number. If f
    has bends, ``|f'| <= steep``, or ``|z f'| <= value |f| / 2``.

    Attributes:
      value, operand, constant, slope, steep, within: as above; ``value`` may depend on the parameters. With none of
        the first three, the function is exact, and so are its straight pieces.
    """

    value: float | Callable[[Mapping[str, Any]], float]
    operand: float = 0
    constant: float = 0
    slope: float = 4
    steep: float = 0
    within: float = math.inf

    def ends(self, rule, operands, outs, params) -> Errors | None:
        """Returns the errors of the ends; a turning point that was rounded moves its value by less than a unit."""
        if not (self.value or self.operand or self.constant):
            return None
        return [self.error(operands, out, params) for out in outs]

    def error(self, operands, out: Interval, params) -> tuple[Any, ...]:
        """Returns the errors of values at the ends."""
        u, value = unit(out.dtype), self.value(params) if callable(self.value) else self.value
        if not (value or self.operand or self.constant):
            return 0, 0
        moving = sum(size(x) for x in operands if isinstance(x, Interval) and is_float(x))
        least = 8 * float(jnp.finfo(out.dtype).tiny)
        rest = least * (1 + moving) + u * (self.operand * moving + self.constant)
        if self.within < math.inf:
            rest = jnp.where(moving <= self.within, rest, jnp.inf)
        return tuple((value + 1) * u * wide(jnp.abs(end)) + rest for end in ends(out))

    def of_lines(self, operands, image: Interval, lines, params) -> tuple[Any, ...]:
        """Returns how far lines have to move to hold for f, and for what rows make of them.

        With e the error of a value, d of a derivative, w the width and m the size of the operand: an intercept is the
        extreme value of ``f(z) - a z`` at points where it is extreme for a slope a that is the derivative at one of
        them, or the chord's. The values are off by e and by roundings of their terms; the derivative, or a comparison
        of two that picks the points, by at most 4 d in all, worth ``4 d w``; the chord's slope by
        ``(2 e + 4 u |a| w) / w``. Rows multiply the slope, and add the intercept, with a rounding each, worth
        ``u (|a| m + |b|)``.
        """
        (x,) = (x for x in operands if isinstance(x, Interval))
        u, least, most = unit(x.dtype), 32 * float(jnp.finfo(x.dtype).tiny), size(x)
        value = functools.reduce(jnp.maximum, self.error(operands, image, params))
        slopes = [wide(jnp.abs(a)) for a in (lines.lower_slope, lines.upper_slope)]
        width = wide(x.upper) - wide(x.lower)
        derivative = 4 * self.slope * u * (self.steep + jnp.maximum(*slopes)) * width
        rest = 4 * value + derivative + 16 * u * size(image) + least * (1 + most) * (1 + width)
        intercepts = lines.lower_intercept, lines.upper_intercept
        return tuple(
            rest + 16 * u * (a * most + wide(jnp.abs(b)))
            for a, b in zip(slopes, intercepts, strict=True)
        )


class Of(NamedTuple):
    """Describes the error of an affine primitive of each element by a function of the operands and the outputs."""

    errors: Callable[..., Errors | None]
    factors: bool = True

    def backward(self, operands, out, params) -> int:
        return 1

    def ends(self, rule, operands, outs, params) -> Errors | None:
        return self.errors(operands, outs)


def is_float(x) -> bool:
    return jnp.issubdtype(jnp.result_type(getattr(x, "lower", x)), jnp.floating)


def coarsest(*values):
    """Returns the number type with the largest unit of rounding among those of the values."""
    dtypes = [jnp.result_type(getattr(x, "lower", x)) for x in values if is_float(x)]
    return max(dtypes, key=unit)


def both_sizes(x) -> Interval:
    """Returns the sizes of both ends, as an interval around 0."""
    low, high = ends(x)
    return Interval(-wide(jnp.abs(low)), wide(jnp.abs(high)))


def symmetric(x) -> Interval:
    """Returns the interval of all numbers that are no larger in size."""
    most = size(x)
    return Interval(-most, most)


def sizes_of(rule, operands, params, of=None) -> list[Interval]:
    """Returns what an interval rule makes of sizes, in the wide type: ``of`` all operands, or of uncertain ones."""
    params = _widened(params)

    def operand(x):
        if not is_float(x):
            return x
        if of is not None:
            return of(x)
        return symmetric(x) if isinstance(x, Interval) else (size(x) if rule.radius else wide(x))

    operands = [operand(x) for x in operands]
    if rule.radius is not None:
        found = rule.radius(*operands, **params)
        return [Interval(-found, found)]
    found = rule.bound(*operands, **params)
    return found if isinstance(found, list) else [found]


def _widened(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters for operands in the wide type."""
    found = dict(params)
    if "preferred_element_type" in found:
        found["preferred_element_type"] = None
    if (update := found.get("update_jaxpr")) is not None:
        zeros = [wide(jnp.zeros(v.aval.shape, v.aval.dtype)) for v in update.invars]
        body = jaxpr_as_fun(ClosedJaxpr(update, found["update_consts"]))
        found["update_jaxpr"] = jax.make_jaxpr(body)(*zeros).jaxpr
    return found


def rounded(rule, operands, outs, params) -> list[Interval]:
    """Returns the intervals of a rule moved outward by the error that it states."""
    if not any(map(is_float, outs)):
        return outs
    errors = rule.error.ends(rule, operands, outs, params)
    if errors is None:
        return outs
    return [
        moved(out, *error) if is_float(out) else out
        for out, error in zip(outs, errors, strict=True)
    ]


EXACT = Terms()


# ---------------------------------------------------------------- of each element


def _of_product(operands, outs):
    """Returns one rounding; an operand that is flushed to 0 loses its size times the other."""
    (out,), (x, y) = outs, map(size, operands)
    least = 4 * smallest(out.dtype) * (1 + x + y)
    return [tuple(2 * unit(out.dtype) * wide(jnp.abs(end)) + least for end in ends(out))]


def _of_quotient(operands, outs):
    """Returns one rounding; a divisor that may be flushed to 0 has no bound, a dividend loses the divisor's share."""
    (out,), (_, y) = outs, operands
    inverse = sum(1 / wide(jnp.abs(end)) for end in ends(y))
    least = 4 * smallest(out.dtype) * (1 + inverse)
    return [tuple(2 * unit(out.dtype) * wide(jnp.abs(end)) + least for end in ends(out))]


def _of_cast(operands, outs):
    """Returns one rounding, unless the type of the value holds all numbers of the operand's."""
    (x,), (out,) = operands, outs
    if not is_float(out) or (is_float(x) and unit(jnp.result_type(x.lower)) >= unit(out.dtype)):
        return None
    least = 4 * smallest(out.dtype)
    return [tuple(2 * unit(out.dtype) * wide(jnp.abs(end)) + least for end in ends(out))]


PRODUCT, QUOTIENT, CAST = Of(_of_product), Of(_of_quotient), Of(_of_cast)
