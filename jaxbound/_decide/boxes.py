"""Splits boxes of inputs, and cuts off what linear bounds have proved of them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.regions import is_region
from jaxbound._decide.attack import with_points
from jaxbound._decide.cells import THOROUGH, the_output
from jaxbound._decide.question import Question
from jaxbound._decide.search import Domain
from jaxbound._methods.prepare import Options, prepare
from jaxbound._walks.alphas import best_starts, with_parameters
from jaxbound._walks.rows import affine_rows, from_inputs, least


class Found(NamedTuple):
    """Holds the bounds of boxes.

    Attributes:
      lower: of every clause ``[N, clauses]``.
      empty: clauses that are proved in them by clipping ``[N, clauses]``.
      ends: the boxes that are left of them ``[N, 2, n]``.
      scores: the higher, the sooner an element of the inputs is split ``[N, n]``: slope times width, squared as what
        lines miss grows with it.
      minimisers: where the lowest clause's bound is least, an array ``[N, ...]`` for every region.
      values: of the lowest clause there ``[N]``.
    """

    lower: Any
    empty: Any
    ends: Any
    scores: Any
    minimisers: list[Any]
    values: Any


@functools.partial(jax.jit, static_argnames=("question",))
def bound_boxes(question: Question, leaves, ends, open) -> Found:
    """Bounds boxes ``ends [N, 2, n]`` of all regions' elements; ``open [N, clauses]`` are not proved in them yet."""
    return jax.vmap(functools.partial(_bound_box, question, leaves))(ends, open)


def _bound_box(question: Question, leaves, ends, open) -> Found:
    """Bounds one box."""
    regions = [leaf for leaf in leaves if is_region(leaf)]
    inside = [
        Interval(low, high) for low, high in zip(*(apart(regions, e) for e in ends), strict=True)
    ]
    args = question.args(with_points(leaves, inside))
    context = prepare(THOROUGH, question.clauses, args, Options())
    out = the_output(context.graph)
    rows, offset = affine_rows(context, out, jnp.arange(out.size))

    def by_lines(found):
        below = from_inputs(with_parameters(context, out, found), out)(rows, offset)
        coeffs = jnp.concatenate([c.reshape(out.size, -1) for c in below.coeffs], 1)
        return least(below), coeffs, jnp.broadcast_to(below.offset, out.size)

    starts = best_starts(context, out)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *starts)
    found = jax.vmap(by_lines, axis_size=len(starts))(stacked)
    best = jnp.argmax(found[0], 0)
    lower, coeffs, offset = (part[best, jnp.arange(out.size)] for part in found)
    lower = jnp.where(jnp.isfinite(lower), lower, -jnp.inf)
    # Of each clause: its rows [clauses, M, ...] must all be at most 0 where it is violated.
    lower, coeffs = lower.reshape(out.shape), coeffs.reshape(*out.shape, -1)
    clipped, empty = _clip(lower, coeffs, ends)
    clause = lower.max(1)
    still = open & ~(clause > 0) & ~empty
    # What is left is the hull of what every open clause leaves.
    low = jnp.where(still[:, None], clipped[:, 0], jnp.inf).min(0)
    high = jnp.where(still[:, None], clipped[:, 1], -jnp.inf).max(0)
    width = jnp.maximum(high - low, 0)
    size = jnp.maximum(jnp.where(still[:, None, None], jnp.abs(coeffs), 0).max((0, 1)), 1e-3)
    worst = jnp.argmin(jnp.where(still, clause, jnp.inf))
    row = coeffs[worst, jnp.argmax(lower[worst])]
    lowest = jnp.where(row > 0, ends[0], ends[1])
    points = apart(regions, jnp.clip(lowest, low, high))
    value = question.evaluate(with_points(leaves, points)).max(1).min()
    left = jnp.where(still.any(), jnp.stack([low, high]), ends)
    return Found(clause, empty, left, size * width**2, points, value)


def _clip(lower, coeffs, ends):
    """Returns the parts ``[clauses, 2, n]`` of a box outside of which clauses are proved, and which parts are empty.

    Where ``<a, x> + c <= 0`` and lb is the least value of the left side on the box, of which x_d has the share
    ``min a_d x_d``, it is ``a_d x_d <= -(lb - min a_d x_d)``. The ends are moved outward by more than rounding.
    """
    low, high = ends[:, None, None]
    least = jnp.where(coeffs > 0, coeffs * low, coeffs * high)
    limit = (least - lower[..., None]) / jnp.where(coeffs == 0, 1, coeffs)
    room = 1e-12 * (jnp.abs(limit) + jnp.abs(low) + jnp.abs(high))
    usable = jnp.isfinite(limit)
    new_high = jnp.where(usable & (coeffs > 0), jnp.minimum(high, limit + room), high).min(1)
    new_low = jnp.where(usable & (coeffs < 0), jnp.maximum(low, limit - room), low).max(1)
    return jnp.stack([new_low, new_high], 1), (new_low > new_high).any(-1)


def apart(regions: Sequence[Any], flat) -> list[Any]:
    """Returns the parts of ``flat [n]`` in the shapes of regions."""
    sizes = [math.prod(region.shape) for region in regions]
    parts = jnp.split(flat, list(itertools.accumulate(sizes))[:-1])
    return [part.reshape(region.shape) for part, region in zip(parts, regions, strict=True)]


class BoxSpace:
    """Represents splits of the inputs' boxes; see `Space`. All clauses are bounded in the same boxes."""

    floor = 0.0  # what clipping cuts off is positive, and nothing more is known of it

    def __init__(self, question: Question, leaves: Sequence[Any], lanes: int):
        self.question, self.leaves, self.lanes = question, leaves, lanes

    def whole(self, lower: np.ndarray, open: np.ndarray):
        """Returns the regions themselves, with what is known of them."""
        regions = [leaf for leaf in self.leaves if is_region(leaf)]
        sides = ("lower", "upper")
        ends = [np.concatenate([np.ravel(getattr(r, side)) for r in regions]) for side in sides]
        return np.stack(ends), lower, open

    def bound(self, children: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Domain]:
        part = list(children) + [children[-1]] * (self.lanes - len(children))
        ends, before, open = (np.stack(each) for each in zip(*part, strict=True))
        found = jax.tree.map(np.asarray, bound_boxes(self.question, self.leaves, ends, open))
        return [self._domain(found, before[i], open[i], i) for i in range(len(children))]

    def _domain(self, found: Found, before: np.ndarray, open: np.ndarray, i: int) -> Domain:
        lower = np.maximum(found.lower[i], before)
        empty = found.empty[i] & open
        lower = np.where(empty, np.maximum(lower, 0), lower)
        worst = [point[i] for point in found.minimisers]
        still = open & ~empty & ~(lower > 0)
        return Domain(lower, still, worst, float(found.values[i]), (found.ends[i], found.scores[i]))

    def can_split(self, domain: Domain) -> bool:
        low, high = domain.data[0]
        return bool((high - low > 1e-12 * (1 + np.abs(low) + np.abs(high))).any())

    def decide(self, domain: Domain) -> Domain:
        return domain

    def children(self, domains: Sequence[Domain], count: int) -> list[Any]:
        """Halves every box along its best element; few boxes along several elements at once."""
        depth = max(1, int(np.log2(max(2, count / len(domains)))))
        found = []
        for domain in domains:
            ends, scores = domain.data
            chosen = [d for d in np.argsort(-scores)[:depth] if scores[d] > 0]
            for sides in itertools.product((0, 1), repeat=len(chosen)):
                child = ends.copy()
                for d, side in zip(chosen, sides, strict=True):
                    child[1 - side, d] = 0.5 * ends[0, d] + 0.5 * ends[1, d]
                found.append((child, domain.lower, domain.open))
        return found
