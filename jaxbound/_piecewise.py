"""Images and lines of functions made of straight and quadratic pieces.

On its part of [l, u], a piece less a line is extreme at the part's ends, or where their slopes agree. So lines of
any slope are sound. At a break point the pieces on both sides count.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._activations import polynomial
from jaxbound._curves import Choice, Lines, first_least
from jaxbound._interval import Interval


def _parts(l, u, breaks, polys):
    """Per piece its polynomial, whether it meets [l, u], and the ends of its part (else a point nearby)."""
    ends = [-jnp.inf, *breaks, jnp.inf]
    for (low, high), poly in zip(itertools.pairwise(ends), polys, strict=True):
        low, high = (jnp.asarray(end, l.dtype) for end in (low, high))
        yield poly, (u >= low) & (l <= high), jnp.clip(l, low, high), jnp.clip(u, low, high)


def _least(l, u, breaks, polys, slope=None, sign=1):
    """The least value of ``sign (fn(z) - slope z)`` on [l, u], without a slope that of ``sign fn(z)``."""
    least = None
    for poly, meets, low, high in _parts(l, u, breaks, polys):
        a, b, _ = poly
        points = [low, high]
        if a * sign > 0:
            level = -b if slope is None else slope - b
            points.insert(0, jnp.clip(level / (2 * a), low, high))
        for z in points:
            value = polynomial(poly, z) if slope is None else polynomial(poly, z) - slope * z
            value = jnp.where(meets, sign * value, jnp.inf)
            least = value if least is None else first_least(least, value)
    return least


def image(x: Interval, *, breaks, polys) -> Interval:
    """Exact; what is not a number, where infinite terms meet, is no bound."""
    below, above = (_least(x.lower, x.upper, breaks, polys, sign=sign) for sign in (1, -1))
    return Interval(below, -above)


def lines(fn, l, u, choice: Choice, *, breaks, polys) -> Lines:
    """The lines nearest to the function at the centre ("adaptive": of least area), or at their farther end ("tight").

    Among those along a piece (at the centre, or nearest to it), through two of the ends and break points, and
    from an end to where they touch a piece.
    """
    slopes = [
        2 * a * jnp.clip(0.5 * l + 0.5 * u, low, high) + b
        for (a, b, _), _, low, high in _parts(l, u, breaks, polys)
    ]
    points = [l, *(jnp.clip(jnp.asarray(z, l.dtype), l, u) for z in breaks), u]
    across = _slope(fn, l, u)
    slopes += [_slope(fn, p, q) for p, q in itertools.combinations(points, 2)]
    curved = [part for part in _parts(l, u, breaks, polys) if part[0][0]]
    slopes += [slope for part in curved for p in (l, u) for slope in _tangents(fn, p, part)]
    slopes = jnp.stack(slopes)

    def best(sign, side):
        def worth(slope):
            reach = _least(l, u, breaks, polys, slope, sign)
            low, center, high = (reach + sign * slope * z for z in (l, 0.5 * l + 0.5 * u, u))
            return center if choice.kind != "tight" else jnp.minimum(low, high) + 1e-3 * center

        chosen = jax.vmap(worth)(slopes).argmax(0)
        chosen = jax.nn.one_hot(chosen, len(slopes), axis=0, dtype=bool)
        slope = across if choice.kind == "parallel" else jnp.where(chosen, slopes, 0).sum(0)
        slope = choice.between(side, slopes.min(0), slopes.max(0), slope)
        return slope, sign * _least(l, u, breaks, polys, slope, sign)

    return Lines(*best(1, "lower"), *best(-1, "upper"))


def _slope(fn, p, q):
    """From p to q; 0 where they are one."""
    apart = q > p
    return jnp.where(apart, (fn(q) - fn(p)) / jnp.where(apart, q - p, 1), 0)


def _tangents(fn, p, part):
    """Slopes of lines through (p, fn(p)) that touch a quadratic piece: at ``p +- sqrt((piece(p) - fn(p)) / a)``."""
    poly, _, low, high = part
    apart = jnp.maximum((polynomial(poly, p) - fn(p)) / poly[0], 0)
    reach = jnp.sqrt(lax.stop_gradient(apart))
    for touch in (p - reach, p + reach):
        yield 2 * poly[0] * jnp.clip(touch, low, high) + poly[1]
