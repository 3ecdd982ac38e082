"""Bounds what picks among values (maxima, choices by a predicate, order) by intervals and affine functions.

Of entries between ``l`` and ``u``, only those with ``u >= max l`` can be the largest.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval, exactly
from jaxbound._program.rewrites import mirrored
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.curves import Choice
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.linear_rules import LinearRule, among, linear_rules
from jaxbound._rules.maxima import candidates, entries, greatest, hull
from jaxbound._rules.reductions import prefixes
from jaxbound._rules.relaxations import Relaxation, constant_relaxation, relaxations
from jaxbound._rules.rounding import EXACT

# ---------------------------------------------------------------- order


def _places(lower, upper):
    """Returns whether, in ascending order along the last axis, place i may hold entry j: ``[..., i, j]``."""
    count = lower.shape[-1]
    before = (upper[..., None, :] < lower[..., :, None]).sum(-1)
    after = (lower[..., None, :] > upper[..., :, None]).sum(-1)
    place = jnp.arange(count).reshape(*[1] * (lower.ndim - 1), -1, 1)
    return (before[..., None, :] <= place) & (place <= count - 1 - after[..., None, :])


def sort(*operands, dimension, num_keys, **params):
    """Bounds sorted arrays: the first by its sorted ends, the others by all entries that may come to each place.

    The ends are sorted because order statistics do not decrease in any entry.
    """
    low, high = ends(operands[0])
    outs = [Interval(lax.sort(low, dimension), lax.sort(high, dimension))]
    if len(operands) > 1:
        may = _places(*(jnp.moveaxis(end, dimension, -1) for end in (low, high)))
    for x in operands[1:]:
        moved = (jnp.moveaxis(end, dimension, -1)[..., None, :] for end in ends(x))
        found = hull(may, Interval(*moved))
        outs.append(Interval(*(jnp.moveaxis(end, -1, dimension) for end in ends(found))))
    return outs


def top_k(x: Interval, *, k, axis, **params):
    lower, upper = (jnp.moveaxis(end, axis, -1) for end in ends(x))
    may = _places(mirrored(upper), mirrored(lower))[..., :k, :]
    found = hull(may, jnp.broadcast_to(jnp.arange(may.shape[-1], dtype=jnp.int32), may.shape))
    indices = Interval(*(jnp.moveaxis(end, -1, axis) for end in ends(found)))
    values = (jp.top_k_p.bind(end, k=k, axis=axis, **params)[0] for end in ends(x))
    return [Interval(*values), indices]


MOST_SORTED = 64  # entries along an axis: every place has a plane of all of them


def sort_lines(x, *others, image, choice, dimension, **params):
    """Returns planes of sorted entries; entries that are sorted by others lie between constants.

    The i-th of n is at most the largest of any i entries, and at least the least of any n + 1 - i: of those of the
    least upper, the greatest lower ends, whose planes stay in the interval. An entry that surely comes to a place
    is the only one there that may be the largest, or the least: both planes are the entry itself.
    """
    if others or x.shape[dimension] > MOST_SORTED:
        return constant_relaxation(sort(x, *others, dimension=dimension, **params))
    entries, _ = prefixes(x.shape, dimension, False)
    place = jnp.arange(x.shape[dimension])
    place = jnp.expand_dims(place, [i for i in range(len(x.shape) + 1) if i != dimension])
    rank = lambda end: entries(jnp.argsort(jnp.argsort(end, dimension), dimension))

    def largest(side, x, image, among):
        given = {"upper": choice.given[side]} if side in choice.given else {}
        own = Choice(choice.kind, given)
        plane = greatest(entries, (x,), image, own, among).upper
        choice.taken[side] = own.taken["upper"]
        return plane

    above = largest("upper", x, image, rank(x.upper) <= place)
    x, image = (Interval(-z.upper, -z.lower) for z in (x, image))
    below = largest("lower", x, image, rank(-x.upper) >= place)
    return Relaxation(lambda z: -below(-z), above)


# ---------------------------------------------------------------- a predicate


def _possible(which, cases):
    """Returns which of the cases, along a last axis, a predicate may choose."""
    shape, count = jnp.shape(ends(cases[0])[0]), len(cases)
    first, last = (jnp.clip(end.astype(jnp.int32), 0, count - 1)[..., None] for end in ends(which))
    index = jnp.arange(count, dtype=jnp.int32).reshape((1,) * (first.ndim - 1) + (count,))
    return jnp.broadcast_to((first <= index) & (index <= last), (*shape, count))


def select_n(which, *cases, **params):
    """Bounds a choice by the least and the greatest end of the cases that the predicate may choose."""
    if isinstance(which, Interval):
        every = (case if isinstance(case, Interval) else exactly(case) for case in cases)
        low, high = (jnp.stack(side, -1) for side in zip(*map(ends, every), strict=True))
        return hull(_possible(which, cases), Interval(low, high))
    sides = zip(*map(ends, cases), strict=True)
    return Interval(*(jp.select_n_p.bind(which, *side, **params) for side in sides))


def select_n_lines(which, *cases, image, choice, **_) -> Relaxation:
    """Returns lines of the largest and the least case that the predicate may choose: the case itself if one only.

    A line that lies outside of the interval gives way to it: at the cases' centres, or if "tight" at the
    cases' lower (upper) ends.
    """
    possible = _possible(which, cases)
    moving = [case for case in cases if isinstance(case, Interval)]
    # A known case may be NaN, as what `jnp.median` returns of NaN: it must not enter a product with a weight of 0.
    nothing = jnp.zeros(image.shape, bool)
    unknown = jnp.stack([nothing if isinstance(c, Interval) else jnp.isnan(c) for c in cases], -1)
    bounded = ~(possible & unknown).any(-1)

    def stacked(*xs):
        found = iter(xs)
        every = jnp.stack([next(found) if isinstance(c, Interval) else c for c in cases], -1)
        return jnp.where(possible & ~unknown, every, 0)

    below = Interval(-image.upper, -image.lower)
    negated = [Interval(-case.upper, -case.lower) for case in moving]
    high = greatest(stacked, moving, image, Choice(), possible).upper
    low = greatest(
        lambda *xs: -stacked(*(-x for x in xs)), negated, below, Choice(), possible
    ).upper
    tight = choice.kind == "tight"
    lowest = [case.lower if tight else case.center for case in moving]
    highest = [case.upper if tight else case.center for case in moving]
    under = bounded & (-low(*(-x for x in lowest)) >= image.lower)
    over = bounded & (high(*highest) <= image.upper)
    return Relaxation(
        lambda *xs: jnp.where(under, -low(*(-x for x in xs)), image.lower),
        lambda *xs: jnp.where(over, high(*xs), image.upper),
    )


# ---------------------------------------------------------------- derivatives of a maximum


def _selected(operand, select_prim, **window):
    """Returns ``pick``, which takes the entries of windows, and masks: which may be selected, which surely are."""
    pick = functools.partial(entries, **window)
    low, high = ends(operand) if select_prim is jp.ge_p else (-end for end in ends(operand)[::-1])
    return pick, *candidates(pick(low), pick(high), pick(jnp.ones_like(low)) > 0)


def gather_selected(tangents, operand, **params):
    """Bounds the tangent of the selected (largest or least) entry of each window, by all that may be selected."""
    pick, may, _ = _selected(operand, **params)
    return hull(may, Interval(*map(pick, ends(tangents))))


def gather_selected_lines(tangents, operand, *, image, choice, **params) -> Relaxation:
    """Returns the tangent itself of an entry that is surely selected; elsewhere, constants."""
    pick, _, surely = _selected(operand, **params)
    decided = surely.any(-1)

    def picked(end):
        def line(*xs):
            of = xs[0] if isinstance(tangents, Interval) else tangents
            return jnp.where(decided, jnp.where(surely, pick(of), 0).sum(-1), end)

        return line

    return Relaxation(picked(image.lower), picked(image.upper))


def _scattering(source, operand, **params):
    """Returns ``scatter`` for entries of windows, which entries surely receive, and the ends of what others may."""
    ones = (1,) * len(params["window_dimensions"])
    pick, may, surely = _selected(operand, base_dilation=ones, window_dilation=ones, **params)
    aval = jax.ShapeDtypeStruct(*(f(ends(operand)[0]) for f in (jnp.shape, jnp.result_type)))
    scatter = lambda values: jax.linear_transpose(pick, aval)(values)[0]
    low, high = (end[..., None] for end in ends(source))
    maybe = [
        jnp.where(may & ~surely, bound(end, 0), 0)
        for bound, end in ((jnp.minimum, low), (jnp.maximum, high))
    ]
    return scatter, surely, maybe


def scatter_selected(source, operand, **params):
    """Bounds sums to which every window adds its source, at its selected (largest or least) entry."""
    scatter, surely, maybe = _scattering(source, operand, **params)
    sure = (jnp.where(surely, end[..., None], 0) for end in ends(source))
    return Interval(*(scatter(a + b) for a, b in zip(sure, maybe, strict=True)))


def scatter_selected_lines(source, operand, *, image, choice, **params) -> Relaxation:
    """Returns sums that are linear in the sources of entries that surely receive, with constants for the others."""
    scatter, surely, maybe = _scattering(source, operand, **params)

    def scattered(values):
        def line(*xs):
            of = xs[0] if isinstance(source, Interval) else source
            return scatter(jnp.where(surely, of[..., None], 0)) + scatter(values)

        return line

    lower, upper = map(scattered, maybe)
    return Relaxation(lower, upper)


def _cases(uncertain):
    """Returns the positions of the cases of a `select_n`, in which it is affine if its predicate is known."""
    return None if uncertain[0] else range(1, len(uncertain))


interval_rules |= {
    jp.sort_p: IntervalRule(sort, error=EXACT),
    jp.top_k_p: IntervalRule(top_k, error=EXACT),
    jp.select_n_p: IntervalRule(select_n, exact=True, error=EXACT),
    jp.select_and_gather_add_p: IntervalRule(gather_selected, exact=True),
    jp.select_and_scatter_add_p: IntervalRule(scatter_selected, exact=True),
}
linear_rules |= {
    jp.select_n_p: LinearRule(_cases, keeps="place"),
    jp.select_and_gather_add_p: LinearRule(among((0,)), sums="elements"),
    jp.select_and_scatter_add_p: LinearRule(among((0,)), sums="elements"),
}
relaxations |= {
    jp.sort_p: sort_lines,
    jp.select_n_p: select_n_lines,
    jp.select_and_gather_add_p: gather_selected_lines,
    jp.select_and_scatter_add_p: scatter_selected_lines,
}
