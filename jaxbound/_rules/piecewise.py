"""Bounds functions made of straight and quadratic pieces: images of intervals, and lines.

On its part of [l, u], a piece minus a line is extreme at the part's ends, or where both slopes agree. So lines of
any slope are sound. At a break point the pieces on both sides count.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import ratio
from jaxbound._program.activations import about_vertex, straight_pieces
from jaxbound._rules.curves import Choice, Lines


class Parts(NamedTuple):
    """Holds pieces along a first axis: ``a (z + shift)^2 + b z + c``, whether it meets [l, u], and its part of [l, u].

    The part is ``[low, high]``; that of a piece that does not meet [l, u] is a point, the piece's nearer end.
    """

    a: Any
    shift: Any
    b: Any
    c: Any
    meets: Any
    low: Any
    high: Any

    def value_at(self, z):
        """Returns the values of all pieces; a term with the coefficient 0 is 0 also at infinite points."""
        square = jnp.where(self.a == 0, 0, self.a * lax.integer_pow(z + self.shift, 2))
        return square + jnp.where(self.b == 0, 0, self.b * z) + self.c

    def where_slope_is(self, slope):
        """Returns the point of each part at which its piece has the slope, or comes nearest to it."""
        curved = jnp.where(self.a == 0, 1, self.a)
        z = (slope - self.b) / (2 * curved) - self.shift
        return jnp.clip(jnp.where(self.a == 0, self.low, z), self.low, self.high)

    def slope(self, z):
        return jnp.where(self.a == 0, 0, 2 * self.a * (z + self.shift)) + self.b


def _parts(l, u, breaks, polys) -> Parts:
    """Returns the parts of the pieces ``polys``, between which the ``breaks`` lie, on [l, u]."""
    forms = [about_vertex(*poly) for poly in polys]
    ends = [-np.inf, *breaks, np.inf]
    column = lambda values: jnp.asarray(np.reshape(values, (-1, *[1] * l.ndim)), l.dtype)
    first, last = column(ends[:-1]), column(ends[1:])
    low, high = (jnp.clip(end[None], first, last) for end in (l, u))
    meets = (u[None] >= first) & (l[None] <= last)
    a, shift, b, c = map(column, np.transpose(forms))
    return Parts(a, shift, b, c, meets, low, high)


def _least(parts: Parts, slope=None, sign=1):
    """Returns the least value of ``sign (fn(z) - slope z)`` on [l, u]; without a slope, that of ``sign fn(z)``.

    Where several points have it, the gradient is that of the first.
    """
    turn = parts.where_slope_is(0 if slope is None else slope[None])
    points = jnp.stack([turn, parts.low, parts.high])
    values = jax.vmap(parts.value_at)(points)
    if slope is not None:
        values = values - slope[None, None] * points
    values = jnp.where(parts.meets[None], sign * values, jnp.inf)
    return _first(values.reshape(-1, *values.shape[2:]), values)


def image(fn, x: Interval, *, breaks, polys) -> Interval:
    """Returns the exact image; an end that is NaN, where infinite terms meet, is no bound."""
    parts = _parts(x.lower, x.upper, breaks, polys)
    below, above = (_least(parts, sign=sign) for sign in (1, -1))
    return Interval(below, -above)


def lines(fn, l, u, choice: Choice, *, breaks, polys) -> Lines:
    """Returns the lines nearest to the function at the centre ("adaptive": of least area), or the "tight" ones.

    The lower "tight" line is that whose least value on [l, u] is greatest (nearly: the centre decides between
    equals), the upper one turned around. "parallel" lines have the slope of the chord. The others are the best
    of the lines along a piece (at the centre, or nearest to it), through two of the ends and break points,
    and from an end to where they touch a piece.
    """
    parts = _parts(l, u, breaks, polys)
    slopes, across = _slopes(l, u, breaks, polys, parts)

    def best(sign, side):
        def worth(slope):
            least = _least(parts, slope, sign)
            low, center, high = (least + sign * slope * z for z in (l, 0.5 * l + 0.5 * u, u))
            return center if choice.kind != "tight" else jnp.minimum(low, high) + 1e-3 * center

        slope = across if choice.kind == "parallel" else _first(slopes, -jax.vmap(worth)(slopes))
        slope = choice.between(side, slopes.min(0), slopes.max(0), slope)
        return slope, sign * _least(parts, slope, sign)

    return Lines(*best(1, "lower"), *best(-1, "upper"))


def _first(values, keys):
    """Returns, of the values along the first axis, the first one of least key."""
    keys = keys.reshape(values.shape)
    chosen = jax.nn.one_hot(keys.argmin(0), len(keys), axis=0, dtype=bool)
    return jnp.where(chosen, values, 0).sum(0)


def _slopes(l, u, breaks, polys, parts: Parts):
    """Returns the slopes of lines that may be the best, along a first axis, and that of the chord."""
    points = jnp.stack([l, *(jnp.clip(jnp.asarray(z, l.dtype), l, u) for z in breaks), u])
    values = straight_pieces.bind(points, breaks, polys)
    first, last = np.transpose(list(itertools.combinations(range(len(points)), 2)))
    apart = points[last] > points[first]
    width = jnp.where(apart, points[last] - points[first], 1)
    chords = jnp.where(apart, ratio(values[last] - values[first], width), 0)
    center = jnp.clip((0.5 * l + 0.5 * u)[None], parts.low, parts.high)
    found = [parts.slope(center), chords]
    curved = np.array([i for i, (a, _, _) in enumerate(polys) if a], int)
    if curved.size:
        bent = Parts(*(field[curved] for field in parts))
        for z, value in zip((l[None], u[None]), (values[:1], values[-1:]), strict=True):
            # Lines through an end touch at ``z +- sqrt((piece(z) - fn(z)) / a)``.
            reach = jnp.sqrt(lax.stop_gradient(jnp.maximum((bent.value_at(z) - value) / bent.a, 0)))
            touches = [jnp.clip(end, bent.low, bent.high) for end in (z - reach, z + reach)]
            found += map(bent.slope, touches)
    return jnp.concatenate(found), chords[len(points) - 2]
