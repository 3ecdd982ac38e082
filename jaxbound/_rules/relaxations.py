"""Defines the table of relaxations: between which two affine functions a primitive lies on given intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program import activations
from jaxbound._program.trace import trace_flat
from jaxbound._rules import axes as along
from jaxbound._rules import choices, curves, planes, tables
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.maxima import greatest
from jaxbound._rules.one_variable import curved, elementwise_relaxation
from jaxbound._rules.planes import Relaxation

KINDS = ("adaptive", "tight", "parallel", "constant")

relaxations: dict[Any, Callable[..., Relaxation]] = {}


def check_kind(kind: str) -> None:
    """Raises a ValueError unless ``kind`` is among `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"relaxation is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")


def register_relaxation(primitive):
    """Registers the decorated function as the relaxation of ``primitive``.

    The rule ``rule(*operands, image, choice, **params) -> Relaxation`` gets the operands (`Interval` where
    uncertain, arrays where known), the interval of the value (of several, of the first), and a `Choice`. Its
    functions take the uncertain operands and must satisfy ``lower(*x) <= primitive(*x) <= upper(*x)``, also where
    a line lies anywhere between two that ``choice.between(side, first, last, usual)`` names: such lines can be
    optimised. A primitive that only has an interval rule is bounded by its interval. Functions that are not affine
    raise a ValueError where a method meets them.

    Example:
      >>> import jax, jaxbound as jb
      >>> import jax.numpy as jnp
      >>> @jb.register_relaxation(jax.lax.bessel_i0e_p)
      ... def _i0e(x, *, image, choice, **params):  # convex on either side of 0: above its tangents
      ...     m = (x.lower + x.upper) / 2
      ...     value, slope = jax.jvp(jax.lax.bessel_i0e, (m,), (jnp.ones_like(m),))
      ...     one_side = (x.lower >= 0) | (x.upper <= 0)
      ...     return jb.Relaxation(
      ...         lambda z: jnp.where(one_side, value + slope * (z - m), image.lower),
      ...         lambda z: image.upper + 0 * z,
      ...     )
    """

    def register(rule):
        @functools.wraps(rule)
        def checked(*operands, **options) -> Relaxation:
            found = rule(*operands, **options)
            _check_affine(primitive, found, operands)
            return found

        relaxations[primitive] = checked
        return rule

    return register


def _check_affine(primitive, relaxation: Relaxation, operands) -> None:
    """Raises a ValueError unless both functions of a relaxation of ``primitive`` are affine."""
    moving = (x for x in operands if isinstance(x, Interval))
    floats = [x for x in moving if jnp.issubdtype(x.dtype, jnp.floating)]
    avals = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in floats]
    for side in ("lower", "upper"):
        graph = trace_flat(getattr(relaxation, side), avals, [True] * len(avals))
        bent = [e for e in graph.equations if e.moving and linear_operands(e) is None]
        if bent:
            raise ValueError(
                f"the relaxation registered for {primitive} is not affine: its {side} function applies "
                f"{', '.join(dict.fromkeys(str(e.primitive) for e in bent))} to the operands"
            )


def constant_relaxation(image: Sequence[Interval]) -> Relaxation:
    """Returns lines of slope 0 at the ends of the interval walk's ``image``, for the list of a primitive's outputs."""
    return Relaxation(
        lambda *_: [out.lower for out in image], lambda *_: [out.upper for out in image]
    )


def _of_one(primitive, *operands, **options) -> Relaxation:
    """Returns the lines of the one uncertain operand of a primitive of several."""
    return elementwise_relaxation(ELEMENTWISE[primitive], primitive, *operands, **options)


# ---------------------------------------------------------------- maximum, minimum


def _maximum(x, y, *, image, choice, **params):
    if isinstance(x, Interval) and isinstance(y, Interval):
        return greatest(
            lambda a, b: jnp.stack(jnp.broadcast_arrays(a, b), -1), (x, y), image, choice
        )
    return _of_one(jp.max_p, x, y, image=image, choice=choice, **params)


def _reduce_max(x, *, image, choice, axes, **_):
    return greatest(along.Rows(x.shape, axes).last, (x,), image, choice)


def _cummax(x, *, image, choice, axis, reverse):
    entries, valid = along.prefixes(x.shape, axis, reverse)
    return greatest(entries, (x,), image, choice, valid)


def _reduce_window_max(x, *, image, choice, **window):
    windows = functools.partial(choices.entries, **window)
    return greatest(windows, (x,), image, choice, windows(jnp.ones_like(x.lower)) > 0)


MOST_SORTED = 64  # entries along an axis: every place has a plane of all of them


def _sort(x, *others, image, choice, dimension, **params):
    """Returns planes of sorted entries; entries that are sorted by others lie between constants.

    The i-th of n is at most the largest of any i entries, and at least the least of any n + 1 - i: of those of the
    least upper, the greatest lower ends, whose planes stay in the interval. An entry that surely comes to a place
    is the only one there that may be the largest, or the least: both planes are the entry itself.
    """
    if others or x.shape[dimension] > MOST_SORTED:
        return constant_relaxation(choices.sort(x, *others, dimension=dimension, **params))
    entries, _ = along.prefixes(x.shape, dimension, False)
    place = jnp.arange(x.shape[dimension])
    place = jnp.expand_dims(place, [i for i in range(len(x.shape) + 1) if i != dimension])
    rank = lambda end: entries(jnp.argsort(jnp.argsort(end, dimension), dimension))

    def largest(side, x, image, among):
        given = {"upper": choice.given[side]} if side in choice.given else {}
        own = curves.Choice(choice.kind, given)
        plane = greatest(entries, (x,), image, own, among).upper
        choice.taken[side] = own.taken["upper"]
        return plane

    above = largest("upper", x, image, rank(x.upper) <= place)
    x, image = (Interval(-z.upper, -z.lower) for z in (x, image))
    below = largest("lower", x, image, rank(-x.upper) >= place)
    return Relaxation(lambda z: -below(-z), above)


# ---------------------------------------------------------------- products


def _bilinear(primitive):
    def bilinear_relaxation(x, y, *, image, choice, **params):
        return planes.bilinear(functools.partial(primitive.bind, **params), x, y, image, choice)

    return bilinear_relaxation


def _quotient(x, y, *, image, choice, **params):
    if isinstance(x, Interval):
        return planes.quotient(x, y, image, choice)
    return _of_one(jp.div_p, x, y, image=image, choice=choice, **params)


def _normalised(x, r, *, image, choice, limit):
    """Returns the product's planes, or the interval where the planes leave the limit half-way to their extremes.

    Half-way, because operands are on average half a radius away from their centres.
    """
    product = planes.bilinear(jnp.multiply, x, r, image, choice)
    lower, upper = (plane(x.center, r.center) for plane in (product.lower, product.upper))
    apart = (x.radius * jnp.abs(r.center) + jnp.abs(x.center) * r.radius) / 2
    lower, upper = lower - apart, upper + apart
    within = lambda keep, plane, end: lambda *z: jnp.where(keep, plane(*z), end)
    return dataclasses.replace(
        product,
        lower=within(lower > -limit, product.lower, image.lower),
        upper=within(upper < limit, product.upper, image.upper),
    )


def _power(x, y, *, image, choice, **params):
    if isinstance(y, Interval) and not jnp.issubdtype(y.dtype, jnp.floating):
        return constant_relaxation([image])
    if isinstance(x, Interval) and isinstance(y, Interval):
        return planes.power(x, y, image)
    record = ELEMENTWISE[jp.pow_p]
    if isinstance(y, Interval):
        record = dataclasses.replace(record, lines=curved(1))
    return elementwise_relaxation(record, jp.pow_p, x, y, image=image, choice=choice, **params)


# ---------------------------------------------------------------- along some axes


def _reduced(planes_of):
    """Returns the relaxation of a reduction along axes, from the planes of its entries along a last axis."""

    def reduced_relaxation(x, where=None, *, image, choice, axes, keepdims):
        rows = along.Rows(x.shape, axes)
        found = zip(planes_of(*rows.ends(x, where)), (image.lower, image.upper), strict=True)

        def at(plane, constant):
            plane = plane.otherwise(constant.reshape(plane.offset.shape))
            return lambda z: plane.value_at(rows.last(z)).reshape(image.shape)

        lower, upper = (at(*pair) for pair in found)
        return Relaxation(lower, upper)

    return reduced_relaxation


def _softmax_with(of_rows):
    """Returns the relaxation of a softmax along axes, from the planes of its entries along a last axis."""

    def softmax_relaxation(x, where=None, *, image, choice, axes):
        rows = along.Rows(x.shape, axes)
        counted = rows.last(True if where is None else where)
        bounded = rows.last(curves.all_finite(x.lower, x.upper))
        found = zip(of_rows(*rows.ends(x, where)), (image.lower, image.upper), strict=True)

        def at(plane, constant):
            weights, offset = plane.otherwise(rows.last(constant), counted)
            # Unbounded entries have weight 0; as 0 * inf is NaN, they must not enter the product.
            entries = lambda z: jnp.where(bounded, rows.last(z), 0)[..., None]
            return lambda z: rows.back((weights @ entries(z))[..., 0] + offset)

        lower, upper = (at(*pair) for pair in found)
        return Relaxation(lower, upper)

    return softmax_relaxation


def _cumlogsumexp(x, *, image, choice, axis, reverse):
    entries, valid = along.prefixes(x.shape, axis, reverse)
    ends = (jnp.where(valid, entries(end), -jnp.inf) for end in (x.lower, x.upper))
    below, above = along.log_sum_exp(*ends)
    below, above = below.otherwise(image.lower), above.otherwise(image.upper)
    return Relaxation(lambda z: below.value_at(entries(z)), lambda z: above.value_at(entries(z)))


# ---------------------------------------------------------------- the table

relaxations |= {p: functools.partial(_of_one, p) for p, r in ELEMENTWISE.items() if r.lines}
relaxations |= {
    jp.max_p: _maximum,
    jp.reduce_max_p: _reduce_max,
    jp.cummax_p: _cummax,
    jp.reduce_window_max_p: _reduce_window_max,
    jp.sort_p: _sort,
    jp.gather_p: tables.gather_lines,
    jp.select_n_p: choices.select_n_lines,
    jp.select_and_gather_add_p: choices.gather_selected_lines,
    jp.select_and_scatter_add_p: choices.scatter_selected_lines,
    jp.mul_p: _bilinear(jp.mul_p),
    jp.dot_general_p: _bilinear(jp.dot_general_p),
    jp.conv_general_dilated_p: _bilinear(jp.conv_general_dilated_p),
    jp.div_p: _quotient,
    jp.pow_p: _power,
    activations.normalised: _normalised,
    jp.atan2_p: lambda y, x, *, image, **_: planes.angle(y, x, image),
    activations.modulus: lambda x, y, *, image, **_: planes.modulus(x, y, image),
    jp.cumlogsumexp_p: _cumlogsumexp,
    activations.logsumexp: _reduced(along.log_sum_exp),
    activations.variance: _reduced(along.variance),
    activations.softmax: _softmax_with(along.softmax),
    activations.log_softmax: _softmax_with(along.log_softmax),
}
