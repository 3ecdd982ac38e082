"""Searches for a point at which a function is not positive, by projected gradient descent from many starts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.regions import is_region
from jaxbound._decide.question import Question


def with_points(leaves: Sequence[Any], points: Sequence[Any]) -> list[Any]:
    """Returns the leaves with points in place of the regions among them."""
    rest = iter(points)
    return [next(rest) if is_region(leaf) else leaf for leaf in leaves]


class Descent(NamedTuple):
    """Holds how a walk descends: its steps, and the first one in radii of the region, which fall by a factor."""

    steps: int
    size: float
    fall: float


@functools.partial(jax.jit, static_argnames=("question", "descent"))
def descend(question: Question, descent: Descent, leaves, points, targets):
    """Walks down from points ``[N, ...]``, each towards refuting its own clause; returns where each was lowest.

    All rows of a clause have to be at most 0: what is lowered is the sum of those above, by steps that are steepest
    in the region's norm.

    Returns:
      ``points, values [N]`` of the greatest row: a value <= 0 refutes the clause in float64.
    """
    regions = [leaf for leaf in leaves if is_region(leaf)]

    def heights(point, target):
        rows = question.evaluate(with_points(leaves, point))[target]
        return jnp.maximum(rows, 0).sum(), rows.max()

    def of_start(start, target):
        def step(carry, i):
            point, best, lowest = carry
            slope, value = jax.grad(heights, has_aux=True)(point, target)
            best, lowest = keep_lower(point, value, best, lowest)
            size = descent.size * descent.fall**i
            moved = [
                region.nearest(x + size * region.steepest(-g, x))
                for region, x, g in zip(regions, point, slope, strict=True)
            ]
            return (moved, best, lowest), None

        start = [r.nearest(x) for r, x in zip(regions, start, strict=True)]
        carry = start, start, jnp.asarray(jnp.inf, float)
        if descent.steps:
            carry, _ = lax.scan(step, carry, jnp.arange(descent.steps))
        point, best, lowest = carry
        return keep_lower(point, heights(point, target)[1], best, lowest)

    return jax.vmap(of_start)(points, targets)


def keep_lower(point, value, best, lowest):
    """Returns the lower of two points, and its value."""
    kept = jax.tree.map(lambda new, old: jnp.where(value < lowest, new, old), point, best)
    return kept, jnp.minimum(value, lowest)


@functools.partial(jax.jit, static_argnames=("count",))
def starts(count: int, leaves, seed: int):
    """Returns ``count`` starts in each region: the middle, two opposite corners of its box, and random points."""
    found = []
    for i, region in enumerate(leaf for leaf in leaves if is_region(leaf)):
        key = jax.random.fold_in(jax.random.key(seed), i)
        shares = jax.random.uniform(key, (count, *region.shape), float)
        shares = shares.at[1::4].set(jnp.round(shares[1::4]))  # a quarter at corners
        fixed = jnp.array([0.5, 0.0, 1.0][:count])
        fixed = fixed.reshape(-1, *[1] * len(region.shape))
        shares = shares.at[: len(fixed)].set(jnp.broadcast_to(fixed, (len(fixed), *region.shape)))
        found.append(jax.vmap(region.start)(shares))
    return found
