"""Defines the record of a function of one variable, and the interval rule and the relaxation that follow from it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import once, steepest
from jaxbound._rules import arithmetic, curves
from jaxbound._rules.relaxations import Relaxation
from jaxbound._rules.rounding import Units

# ---------------------------------------------------------------- images


def rising(fn, x: Interval, *known, **params) -> Interval:
    return Interval(fn(x.lower), fn(x.upper))


def falling(fn, x: Interval, *known, **params) -> Interval:
    return Interval(fn(x.upper), fn(x.lower))


def turning(*turns: float, low: float = -math.inf, high: float = math.inf):
    """Returns the image of a function that is monotone between its turning points, with no bound off [low, high]."""

    def turning_image(fn, x: Interval, *known, **params) -> Interval:
        if (low, high) == (-math.inf, math.inf):
            return arithmetic.image(fn, x, *turns)
        inside, some = (x.lower >= low) & (x.upper <= high), point_between(low, high)
        x = Interval(*(jnp.where(inside, end, some) for end in (x.lower, x.upper)))
        found = arithmetic.image(fn, x, *turns)
        lower = jnp.where(inside, found.lower, -jnp.inf)
        return Interval(lower, jnp.where(inside, found.upper, jnp.inf))

    return turning_image


def point_between(low: float, high: float) -> float:
    """Returns a number between two, either of which may be infinite."""
    first = low if math.isfinite(low) else min(high, 1.0) - 2
    last = high if math.isfinite(high) else max(low, -1.0) + 2
    return (first + last) / 2


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


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """Describes a function of each element of one operand; its other operands are known.

    Attributes:
      lines: ``lines(fn, l, u, choice, *known, **params)`` returns lines of ``fn`` on [l, u]; None: there are none.
      image: ``image(fn, x, *known, **params)`` returns the exact image of an interval; None: the primitive takes
        several uncertain operands, and has an interval rule of its own.
      kinks: ``kinks(*known, **params)`` returns the points where its straight pieces meet, if it consists of
        such pieces: then the kind chooses the lines.
      error: what it states of its rounding; None: nothing.
      inside: a point in its domain, if it may be undefined or infinitely steep elsewhere. Linear bounds of an
        operand may leave the domain, its interval seldom does; gradients stay finite as at this point.
    """

    lines: Callable[..., curves.Lines] | None = None
    image: Callable[..., Interval] | None = rising
    kinks: Callable[..., Sequence[Any]] | None = None
    inside: float | None = None
    error: Units | None = None


def elementwise_image(record: Elementwise, primitive, x: Interval, *known, **params) -> Interval:
    """Returns the image of the first operand, the interval rule of most records."""
    assert record.image is not None
    fn = lambda z: primitive.bind(z, *known, **params)
    tamed = fn if record.inside is None else tame(fn, record.inside)
    return record.image(tamed, x, *known, **params)


def elementwise_relaxation(
    record: Elementwise, primitive, *operands, image, choice, **params
) -> Relaxation:
    """Returns the record's lines for the one uncertain operand, where_defined it stands.

    Where an end, the value or a line is infinite, or a line is too steep, the interval's constant lines take over.
    There, the point inside the domain stands for ends that are not usable, which keeps gradients finite.
    """
    assert record.lines is not None
    (x,) = (op for op in operands if isinstance(op, Interval))
    known = [op for op in operands if not isinstance(op, Interval)]
    shape, inside = image.lower.shape, 0.5 if record.inside is None else record.inside

    def value(z, *known):
        rest = iter(known)
        every = (z if isinstance(op, Interval) else next(rest) for op in operands)
        return primitive.bind(*every, **params)

    tamed = value if record.inside is None else tame(value, inside)
    fn = lambda z: tamed(jnp.broadcast_to(jnp.asarray(z, x.dtype), shape), *known)

    ends = [jnp.broadcast_to(end, shape) for end in (x.lower, x.upper)]
    bounded = curves.all_finite(*ends, image.lower, image.upper)
    l, u = (jnp.where(bounded, end, inside) for end in ends)
    found = record.lines(fn, l, u, choice, *known, **params)
    found = curves.Lines(*map(once, found))
    bounded &= curves.all_finite(*found)
    for slope in (found.lower_slope, found.upper_slope):
        bounded &= jnp.abs(slope) < steepest(x.dtype)
    bounded = once(bounded.astype(x.dtype)) > 0
    slopes = [jnp.where(bounded, slope, 0) for slope in (found.lower_slope, found.upper_slope)]
    low = jnp.where(bounded, found.lower_intercept, image.lower)
    high = jnp.where(bounded, found.upper_intercept, image.upper)

    lines, error = curves.Lines(slopes[0], low, slopes[1], high), None
    if record.error is not None and x.shape == shape:  # rows of what is repeated would be sums
        error = functools.partial(_moved_by, record.error, operands, image, lines, bounded, params)
    return Relaxation(lambda z: slopes[0] * z + low, lambda z: slopes[1] * z + high, error=error)


def _moved_by(stated: Units, operands, image: Interval, lines, bounded, params):
    """Returns how far to move lines below and above; the interval's own ends, off ``bounded``, are moved already."""
    found = stated.of_lines(operands, image, lines, params)
    # 2 % more are for the sum with a line, and for the cast.
    moved = (lax.stop_gradient(1.02 * jnp.where(bounded, error, 0)) for error in found)
    return tuple(error.astype(image.dtype) for error in moved)


# ---------------------------------------------------------------- lines


def curved(first: int, *bends: float) -> Callable[..., curves.Lines]:
    """Returns lines for a function that is convex (``first`` 1) or concave (-1) up to the first of its ``bends``.

    At each of them the sign of the curvature changes, and nowhere else.
    """

    def curved_lines(fn, l, u, choice, *known, **params):
        if len(bends) > 1:
            return curves.wavy(fn, l, u, bends, first, choice)
        if first < 0:
            return curves.negated(straightened(lambda z: -fn(z), l, u, choice, ("upper", "lower")))
        return straightened(fn, l, u, choice, ("lower", "upper"))

    def straightened(fn, l, u, choice, sides):
        if bends:
            return curves.s_shaped(fn, l, u, bends[0], choice, sides)
        return curves.convex(fn, l, u, choice.between(sides[0], l, u, 0.5 * l + 0.5 * u))

    return curved_lines


def bulging(where, fn, l, u, choice) -> curves.Lines:
    """Returns lines for a function that is concave at the elements marked in ``where`` and convex at the others."""
    return curves.where(where, curved(-1)(fn, l, u, choice), curved(1)(fn, l, u, choice))


def within(limit: float, l, u, lines: curves.Lines) -> curves.Lines:
    """Returns the lines where both ends are less than ``limit`` away from 0, else NaN."""
    near = jnp.maximum(jnp.abs(l), jnp.abs(u)) < limit
    return curves.Lines(*(jnp.where(near, x, jnp.nan) for x in lines))
