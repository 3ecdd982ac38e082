"""Defines the table of relaxations: between which two affine functions a primitive lies on given intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import once
from jaxbound._program import activations
from jaxbound._rules import axes as along
from jaxbound._rules import choices, curves, planes, tables
from jaxbound._rules.lines import LINES
from jaxbound._rules.maxima import greatest
from jaxbound._rules.planes import Relaxation
from jaxbound._rules.powers import steepest, tame

KINDS = ("adaptive", "tight", "parallel", "constant")


relaxations: dict[Any, Callable[..., Relaxation]] = {}
# Primitives that act on each element alone, and whose interval rule gives the exact image (ParamRamp: if eta >= 0).
elementwise: set[Any] = set()
# Those among them that consist of straight pieces (max and min: with a known value); the kind chooses their lines.
kinked: frozenset[Any] = frozenset(
    {jp.abs_p, jp.max_p, jp.min_p, activations.leaky_relu, activations.ramp, activations.clip}
    | {activations.straight_pieces}
)

# Those that may be undefined or infinitely steep somewhere: linear bounds of an operand may leave the domain, its
# interval seldom does.
partial: frozenset[Any] = frozenset(
    {jp.log_p, jp.log1p_p, jp.sqrt_p, jp.rsqrt_p, jp.integer_pow_p, jp.pow_p, jp.div_p, jp.tan_p}
    | {jp.cbrt_p, jp.asin_p, jp.acosh_p, jp.atanh_p, jp.erf_inv_p, jp.lgamma_p, jp.digamma_p}
    | {activations.entr, activations.xlogx}
)


def check_kind(kind: str) -> None:
    """Raises a ValueError unless ``kind`` is among `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"relaxation is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")


def register_relaxation(primitive):
    """Registers the decorated function as the relaxation of ``primitive``.

    The rule ``rule(*operands, image, choice, **params) -> Relaxation`` gets the operands (`Interval` where
    uncertain, arrays where known), the interval of the value, and a `Choice`. Its functions take the
    uncertain operands and must satisfy ``lower(*x) <= primitive(*x) <= upper(*x)``, also where a line lies
    anywhere between two that ``choice.between(side, first, last, usual)`` names: such lines can be optimised.
    A primitive that only has an interval rule is bounded by its interval. Functions that are not affine raise
    a ValueError where a method meets them.

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
        relaxations[primitive] = rule
        return rule

    return register


def constant_relaxation(image: Sequence[Interval]) -> Relaxation:
    """Returns lines of slope 0 at the ends of the interval walk's ``image``, for the list of a primitive's outputs."""
    return Relaxation(
        lambda *_: [out.lower for out in image], lambda *_: [out.upper for out in image]
    )


# ---------------------------------------------------------------- functions of one variable


def def_lines(primitive, lines: Callable[..., curves.Lines], inside: float = 0.5) -> None:
    """Registers ``lines(fn, l, u, choice, *known, **params)`` for the one uncertain operand of ``primitive``.

    Where an end, the value or a line is infinite, or a line is too steep, the interval's constant lines take over.
    There, the point ``inside`` the domain stands for ends that are not usable, which keeps gradients finite.
    """

    def relax(*operands, image, choice, **params):
        (x,) = (op for op in operands if isinstance(op, Interval))
        known = [op for op in operands if not isinstance(op, Interval)]
        shape = image.lower.shape

        def value(z, *known):
            rest = iter(known)
            every = (z if isinstance(op, Interval) else next(rest) for op in operands)
            return primitive.bind(*every, **params)

        tamed = tame(value, inside) if primitive in partial else value
        fn = lambda z: tamed(jnp.broadcast_to(jnp.asarray(z, x.dtype), shape), *known)

        ends = [jnp.broadcast_to(end, shape) for end in (x.lower, x.upper)]
        bounded = curves.all_finite(*ends, image.lower, image.upper)
        l, u = (jnp.where(bounded, end, inside) for end in ends)
        found = lines(fn, l, u, choice, *known, **params)
        bounded &= curves.all_finite(*found)
        for slope in (found.lower_slope, found.upper_slope):
            bounded &= jnp.abs(slope) < steepest(x.dtype)
        slopes = [jnp.where(bounded, slope, 0) for slope in (found.lower_slope, found.upper_slope)]
        low = jnp.where(bounded, found.lower_intercept, image.lower)
        high = jnp.where(bounded, found.upper_intercept, image.upper)
        slopes, low, high = [once(slope) for slope in slopes], once(low), once(high)
        return Relaxation(lambda z: slopes[0] * z + low, lambda z: slopes[1] * z + high)

    relaxations[primitive] = relax
    elementwise.add(primitive)


for _p, _lines in LINES.items():
    def_lines(_p, _lines, inside=2.0 if _p is jp.acosh_p else 0.5)
_lines_of_ramp = relaxations[activations.ramp]
relaxations[activations.ramp] = lambda x, r, *eta, **options: _lines_of_ramp(
    x, activations.spread(r, x.lower), *eta, **options
)


# ---------------------------------------------------------------- maximum, minimum


def _maximum(x, y, *, image, choice, **params):
    if isinstance(x, Interval) and isinstance(y, Interval):
        return greatest(
            lambda a, b: jnp.stack(jnp.broadcast_arrays(a, b), -1), (x, y), image, choice
        )
    return _rectify(x, y, image=image, choice=choice, **params)


def_lines(jp.max_p, lambda fn, l, u, choice, c: curves.one_kink(fn, l, u, c, 0.0, 1.0, choice))
_rectify, relaxations[jp.max_p] = relaxations[jp.max_p], _maximum
def_lines(
    jp.min_p,
    lambda fn, l, u, choice, c: curves.one_kink(fn, l, u, c, 1.0, 0.0, choice, side="upper"),
)


@register_relaxation(jp.reduce_max_p)
def _reduce_max(x, *, image, choice, axes, **_):
    return greatest(along.Rows(x.shape, axes).last, (x,), image, choice)


@register_relaxation(jp.cummax_p)
def _cummax(x, *, image, choice, axis, reverse):
    entries, valid = along.prefixes(x.shape, axis, reverse)
    return greatest(entries, (x,), image, choice, valid)


@register_relaxation(jp.reduce_window_max_p)
def _reduce_window_max(x, *, image, choice, **window):
    windows = functools.partial(choices.entries, **window)
    return greatest(windows, (x,), image, choice, windows(jnp.ones_like(x.lower)) > 0)


relaxations |= {
    jp.gather_p: tables.gather_lines,
    jp.select_n_p: choices.select_n_lines,
    jp.select_and_gather_add_p: choices.gather_selected_lines,
    jp.select_and_scatter_add_p: choices.scatter_selected_lines,
}


# ---------------------------------------------------------------- products


def _bilinear(primitive):
    def relax(x, y, *, image, choice, **params):
        return planes.bilinear(functools.partial(primitive.bind, **params), x, y, image, choice)

    return relax


for _p in (jp.mul_p, jp.dot_general_p, jp.conv_general_dilated_p):
    relaxations[_p] = _bilinear(_p)


_of_divisor = relaxations[jp.div_p]


@register_relaxation(jp.div_p)
def _quotient(x, y, *, image, choice, **params):
    if isinstance(x, Interval):
        return planes.quotient(x, y, image, choice)
    return _of_divisor(x, y, image=image, choice=choice, **params)


@register_relaxation(activations.normalised)
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
    of_one = _of_base if isinstance(x, Interval) else _of_exponent
    return of_one(x, y, image=image, choice=choice, **params)


_of_base = relaxations[jp.pow_p]
def_lines(jp.pow_p, lambda fn, l, u, choice, *_, **__: curves.convex(fn, l, u))
_of_exponent, relaxations[jp.pow_p] = relaxations[jp.pow_p], _power
relaxations[jp.atan2_p] = lambda y, x, *, image, **_: planes.angle(y, x, image)
relaxations[activations.modulus] = lambda x, y, *, image, **_: planes.modulus(x, y, image)


# ---------------------------------------------------------------- along some axes


def _reduced(planes_of):
    """Returns the relaxation of a reduction along axes, from the planes of its entries along a last axis."""

    def relax(x, where=None, *, image, choice, axes, keepdims):
        rows = along.Rows(x.shape, axes)
        found = zip(planes_of(*rows.ends(x, where)), (image.lower, image.upper), strict=True)

        def at(plane, constant):
            plane = plane.otherwise(constant.reshape(plane.offset.shape))
            return lambda z: plane.at(rows.last(z)).reshape(image.shape)

        lower, upper = (at(*pair) for pair in found)
        return Relaxation(lower, upper)

    return relax


def _softmax_with(of_rows):
    """Returns the relaxation of a softmax along axes, from the planes of its entries along a last axis."""

    def relax(x, where=None, *, image, choice, axes):
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

    return relax


@register_relaxation(jp.cumlogsumexp_p)
def _cumlogsumexp(x, *, image, choice, axis, reverse):
    entries, valid = along.prefixes(x.shape, axis, reverse)
    ends = (jnp.where(valid, entries(end), -jnp.inf) for end in (x.lower, x.upper))
    below, above = along.log_sum_exp(*ends)
    below, above = below.otherwise(image.lower), above.otherwise(image.upper)
    return Relaxation(lambda z: below.at(entries(z)), lambda z: above.at(entries(z)))


relaxations[activations.logsumexp] = _reduced(along.log_sum_exp)
relaxations[activations.variance] = _reduced(along.variance)
relaxations[activations.softmax] = _softmax_with(along.softmax)
relaxations[activations.log_softmax] = _softmax_with(along.log_softmax)

# The library's own rules, which are known to be affine.
_OWN = frozenset(relaxations.values())


def is_registered(rule: Callable[..., Relaxation]) -> bool:
    """Tells whether ``rule`` comes from outside of the library."""
    return rule not in _OWN
