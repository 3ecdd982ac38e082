"""Bounds functions along some axes of an array by planes: softmax, log-sum-exp, variance.

Sound for all ends ``l <= u``; where no plane is finite, the interval of the value takes over, element
by element.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import ratio
from jaxbound._program import activations
from jaxbound._rules import curves
from jaxbound._rules.interval_rules import IntervalRule, interval_rules, monotone
from jaxbound._rules.relaxations import Relaxation, relaxations


class Rows(NamedTuple):
    """Describes how arrays of ``shape`` are rearranged to have some ``axes`` as one last axis."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def _kept(self) -> list[int]:
        return [n for i, n in enumerate(self.shape) if i not in self.axes]

    @property
    def _end(self) -> range:
        return range(len(self._kept), len(self.shape))

    def ends(self, x: Interval, where=None):
        """Returns the ends of x with the axes last; -inf where entries do not count."""
        counted = lambda end: end if where is None else jnp.where(where, end, -jnp.inf)
        return self.last(counted(x.lower)), self.last(counted(x.upper))

    def last(self, z):
        moved = jnp.moveaxis(jnp.broadcast_to(z, self.shape), self.axes, self._end)
        return moved.reshape(*self._kept, math.prod(self.shape[i] for i in self.axes))

    def back(self, rows):
        split = rows.reshape(*self._kept, *(self.shape[i] for i in self.axes))
        return jnp.moveaxis(split, self._end, self.axes)


class Plane(NamedTuple):
    """Represents ``(weights * z).sum(-1) + offset``; where the offset is not finite, there is no plane."""

    weights: Any
    offset: Any

    def value_at(self, z):
        return (self.weights * z).sum(-1) + self.offset

    def scaled(self, factor, shift) -> Plane:
        """Returns ``factor * plane + shift``, with no plane where there is none now.

        There, weights and offset are set to 0 before the product, so that only finite numbers are multiplied.
        """
        exists = jnp.isfinite(self.offset)
        weights, offset = self.otherwise(0)
        factor = jnp.broadcast_to(factor, offset.shape)
        offset = jnp.where(exists, factor * offset + shift, jnp.inf)
        return Plane(factor[..., None] * weights, offset)

    def otherwise(self, constant, where: Any = True) -> Plane:
        """Returns the plane, or ``constant`` where there is no plane, or ``where`` says that none is wanted."""
        found = jnp.isfinite(self.offset) & jnp.isfinite(self.weights).all(-1) & where
        weights = jnp.where(found[..., None], self.weights, 0)
        return Plane(weights, jnp.where(found, self.offset, constant))


def log_sum_exp(l, u) -> tuple[Plane, Plane]:
    """Returns planes below and above ``f = log sum exp z`` over the last axis; entries with ``u = -inf`` do not count.

    Below: f is convex, so it lies above its tangent at the centre. Above: the plane that is lower at the centre,
    of two. First, ``log s <= log t + s / t - 1`` for the sum s of the exponentials' chords, where t is its
    value at the centre. Second, ``f(l) + sum_j (chord of entry j, the others at l)``: f is convex in each entry,
    and an entry adds less the larger the others are (``d2 f / dz_i dz_j = -p_i p_j <= 0``).
    Entries that are unbounded below count as 0 from below and as ``exp u`` from above, those that
    are unbounded above as ``exp l`` from below.
    """
    bounded = curves.all_finite(l, u, u - l)
    center = jnp.where(bounded, Interval(l, u).center, l)
    value = jax.nn.logsumexp(center, -1, keepdims=True)
    # Not exp(center - value): where entries are large, that rounds to weights that add up to more than 1.
    shares = jax.nn.softmax(jnp.where(jnp.isfinite(value), center, 0), -1)
    below = _through(center, jnp.where(bounded, shares, 0), value[..., 0])

    l, center = (jnp.where(bounded, z, u) for z in (l, center))
    level = jax.nn.logsumexp(jnp.concatenate([l, u], -1), -1, keepdims=True) - math.log(2)
    eps = jnp.finfo(l.dtype).eps
    chords, rises = curves.chord(lambda z: jnp.exp(z - level), l, u), jnp.exp(u - level) > eps
    by_sum = _through(center, jnp.where(bounded, chords, 0), level[..., 0])
    by_sum = _unless_flat(by_sum, rises & (u > l))
    # From l to u, an entry adds log(1 + e^(u - f) - e^(l - f)), f = f(l); a large e^(u - f) is factored out.
    least = jax.nn.logsumexp(l, -1, keepdims=True)
    lift, apart = jnp.maximum(u - least, 0), u > l
    added = lift + jnp.log1p(jnp.exp(-jnp.abs(u - least)) - jnp.exp(l - least - lift))
    chords = jnp.where(apart, ratio(added, jnp.where(apart, u - l, 1)), jnp.exp(l - least))
    by_entry = _through(l, jnp.where(bounded, chords, 0), least[..., 0])
    by_entry = _unless_flat(by_entry, apart & (added > eps))
    lower = by_entry.value_at(_finite(center)) < level[..., 0]
    weights = jnp.where(lower[..., None], by_entry.weights, by_sum.weights)
    return below, Plane(weights, jnp.where(lower, by_entry.offset, by_sum.offset))


def _unless_flat(plane: Plane, rises) -> Plane:
    """Returns the plane, but none where the weight of an entry that ``rises`` is 0: too small for the number type."""
    lost = (rises & (plane.weights == 0)).any(-1)
    return plane._replace(offset=jnp.where(lost, jnp.inf, plane.offset))


def _through(z, weights, value) -> Plane:
    return Plane(weights, value - (weights * _finite(z)).sum(-1))


def _finite(z):
    return jnp.where(jnp.isfinite(z), z, 0)


def variance(l, u) -> tuple[Plane, Plane]:
    """Returns planes of ``mean (z - mean z)^2`` over the last axis.

    With centre c, ``z = c + d`` and ``g = 2 (c - mean c) / n``: it is ``variance(c) + sum g d +
    variance(d)``, and ``0 <= variance(d) <= mean d^2 <= mean r^2``.
    """
    center, radius = Interval(l, u).center, Interval(l, u).radius
    deviation = center - center.mean(-1, keepdims=True)
    below = _through(center, 2 * deviation / l.shape[-1], (deviation**2).mean(-1))
    return below, Plane(below.weights, below.offset + (radius**2).mean(-1))


def prefixes(shape: tuple[int, ...], axis: int, reverse: bool):
    """Returns ``entries`` and a mask for functions of all entries up to each (``reverse``: from each on).

    ``entries(x)[..., i, ..., :]`` is the whole axis, for each i along it; the mask tells which of it are up to i
    (or from i on).
    """
    n = shape[axis]
    places = jnp.arange(n)
    found = (places[None] >= places[:, None]) if reverse else (places[None] <= places[:, None])
    valid = found.reshape([n if i == axis else 1 for i in range(len(shape))] + [n])

    def entries(x):
        rows = jnp.expand_dims(jnp.moveaxis(x, axis, -1), axis)
        return jnp.broadcast_to(rows, (*shape, n))

    return entries, jnp.broadcast_to(valid, (*shape, n))


def differences(l, u):
    """Returns the ends of ``z_j - z_i`` as ``[..., i, j]``: exactly 0 if ``i = j``, -inf for j that do not count.

    Only -inf does not count: the least number of a type is a value like any other.
    """
    same, most = jnp.eye(l.shape[-1], dtype=bool), jnp.finfo(l.dtype).max
    lower, upper = l[..., None, :] - u[..., :, None], u[..., None, :] - l[..., :, None]
    unbounded, absent = ((end == -jnp.inf)[..., None, :] for end in (l, u))
    found = (jnp.minimum(end, most) for end in (jnp.where(unbounded, -jnp.inf, lower), upper))
    return tuple(jnp.where(absent, -jnp.inf, jnp.where(same, 0, end)) for end in found)


def log_softmax(l, u) -> tuple[Plane, Plane]:
    """Returns planes of ``z_i - log sum_j exp z_j = -log sum_j exp(z_j - z_i)``; weights ``[..., i, j]``."""
    l, u = differences(l, u)
    # An upper end that left its type is unbounded here: the logarithm goes on where probabilities are 0.
    below, above = log_sum_exp(l, jnp.where(u < jnp.finfo(u.dtype).max, u, jnp.inf))
    return _of_entries(above.scaled(-1, 0)), _of_entries(below.scaled(-1, 0))


def softmax(l, u) -> tuple[Plane, Plane]:
    """Returns planes of ``exp(-f_i)``, ``f_i = log sum_j exp(z_j - z_i)``; weights ``[..., i, j]``.

    Below: the tangent of ``exp(-t)``, where t is the value in the centre of the plane above f, applied to that
    plane. Above: the chord of ``exp(-t)`` between the ends of f, applied to the plane below f.
    """
    l, u = differences(l, u)
    below, above = log_sum_exp(l, u)
    t = above.otherwise(0).value_at(_finite(Interval(l, u).center))
    ends = (-jax.nn.logsumexp(end, -1) for end in (u, l))
    chord = curves.convex(jnp.exp, *ends)
    lower = above.scaled(-jnp.exp(-t), jnp.exp(-t) * (1 + t))
    return _of_entries(lower), _of_entries(below.scaled(-chord.upper_slope, chord.upper_intercept))


def _of_entries(plane: Plane) -> Plane:
    """Turns a plane in ``z_j - z_i`` into one in ``z_j``: entry i has minus the sum of the other weights."""
    same = jnp.eye(plane.weights.shape[-1], dtype=bool)
    weights = jnp.where(same, 0, plane.weights)
    return Plane(jnp.where(same, -weights.sum(-1, keepdims=True), weights), plane.offset)


# ---------------------------------------------------------------- intervals


def softmax_image(finish, absent):
    """Returns the interval rule of ``finish(log softmax)``, ``absent`` for entries that do not count.

    For an increasing ``finish``, value i increases in z_i and falls in every other entry.
    """

    def softmax_bound(x, where=None, *, axes):
        rows = Rows(x.shape, axes)
        least, most = differences(*rows.ends(x, where))
        ends = (-jax.nn.logsumexp(end, -1) for end in (most, least))
        # A difference that left its type makes the least number of the type: no bound.
        ends = (jnp.where(end == -jnp.finfo(end.dtype).max, -jnp.inf, end) for end in ends)
        # Where no entry counts, or differences are NaN, all values from log 0 to log 1 are possible.
        pairs = zip(ends, (-jnp.inf, 0), strict=True)
        ends = (rows.back(finish(jnp.where(end <= 0, end, any_))) for end, any_ in pairs)
        return Interval(*(end if where is None else jnp.where(where, end, absent) for end in ends))

    return softmax_bound


def variance_image(x, *, axes, keepdims):
    """Bounds the variance by its planes, and from below by ``(sd(c) - max r)^2``, for centre c and radii r.

    The standard deviation, as the distance from equal entries, obeys ``sd(c + d) >= sd(c) - sd(d)``, and
    ``sd(d) <= max |d| <= max r``.
    """
    l, u = Rows(x.shape, axes).ends(x)
    below, above = variance(l, u)
    lower = below.value_at(jnp.where(below.weights > 0, l, u))
    upper = above.value_at(jnp.where(above.weights > 0, u, l))
    value, far = jnp.var(Interval(l, u).center, -1), Interval(l, u).radius.max(-1)
    apart = value > far**2
    nearest = jnp.where(apart, (jnp.sqrt(jnp.where(apart, value, 1)) - far) ** 2, 0)
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
    return Interval(jnp.fmax(lower, nearest).reshape(shape), upper.reshape(shape))


# ---------------------------------------------------------------- relaxations


def _reduced(planes_of):
    """Returns the relaxation of a reduction along axes, from the planes of its entries along a last axis."""

    def reduced_relaxation(x, where=None, *, image, choice, axes, keepdims):
        rows = Rows(x.shape, axes)
        found = planes_of(*rows.ends(x, where))

        def at(plane, constant):
            plane = plane.otherwise(constant.reshape(plane.offset.shape))
            return lambda z: plane.value_at(rows.last(z)).reshape(image.shape)

        return Relaxation(at(found[0], image.lower), at(found[1], image.upper))

    return reduced_relaxation


def _softmax_with(of_rows):
    """Returns the relaxation of a softmax along axes, from the planes of its entries along a last axis."""

    def softmax_relaxation(x, where=None, *, image, choice, axes):
        rows = Rows(x.shape, axes)
        counted = rows.last(True if where is None else where)
        bounded = rows.last(curves.all_finite(x.lower, x.upper))
        found = of_rows(*rows.ends(x, where))

        def at(plane, constant):
            weights, offset = plane.otherwise(rows.last(constant), counted)
            # Unbounded entries have weight 0; as 0 * inf is NaN, they must not enter the product.
            entries = lambda z: jnp.where(bounded, rows.last(z), 0)[..., None]
            return lambda z: rows.back((weights @ entries(z))[..., 0] + offset)

        return Relaxation(at(found[0], image.lower), at(found[1], image.upper))

    return softmax_relaxation


def _cumlogsumexp(x, *, image, choice, axis, reverse):
    entries, valid = prefixes(x.shape, axis, reverse)
    ends = (jnp.where(valid, entries(end), -jnp.inf) for end in (x.lower, x.upper))
    below, above = log_sum_exp(*ends)
    below, above = below.otherwise(image.lower), above.otherwise(image.upper)
    return Relaxation(lambda z: below.value_at(entries(z)), lambda z: above.value_at(entries(z)))


interval_rules |= {
    jp.cumlogsumexp_p: monotone(jp.cumlogsumexp_p),
    activations.logsumexp: monotone(activations.logsumexp, (0,)),
    activations.variance: IntervalRule(variance_image, (0,)),
    activations.softmax: IntervalRule(softmax_image(jnp.exp, 0), (0,)),
    activations.log_softmax: IntervalRule(softmax_image(lambda z: z, -jnp.inf), (0,)),
}
relaxations |= {
    jp.cumlogsumexp_p: _cumlogsumexp,
    activations.logsumexp: _reduced(log_sum_exp),
    activations.variance: _reduced(variance),
    activations.softmax: _softmax_with(softmax),
    activations.log_softmax: _softmax_with(log_softmax),
}
