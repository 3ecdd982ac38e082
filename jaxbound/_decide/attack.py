"""Searches for a point at which a function is not positive, by projected gradient descent from many starts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.regions import is_region
from jaxbound._decide.question import Question


def with_points(leaves: Sequence[Any], points: Sequence[Any]) -> list[Any]:
    """Returns the leaves with points in place of the regions among them."""
    rest = iter(points)
    return [next(rest) if is_region(leaf) else leaf for leaf in leaves]


@functools.partial(jax.jit, static_argnames=("question", "steps"))
def descend(question: Question, steps: int, leaves, points, targets):
    """Walks down from points ``[N, ...]``, each towards refuting its own clause; returns where each was lowest.

    Signed gradients (steepest in the region's norm), from a quarter of the region's radius on, falling by 3 % a step.

    Returns:
      ``points, values [N]``: a value <= 0 refutes the clause in float64.
    """
    regions = [leaf for leaf in leaves if is_region(leaf)]

    def greatest(point, target):
        return question.evaluate(with_points(leaves, point))[target].max()

    def of_start(start, target):
        def step(carry, i):
            point, best, lowest = carry
            value, slope = jax.value_and_grad(greatest)(point, target)
            lower = value < lowest
            best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), point, best)
            size = 0.25 * 0.97**i
            moved = [
                region.nearest(x + size * region.steepest(-g, x))
                for region, x, g in zip(regions, point, slope, strict=True)
            ]
            return (moved, best, jnp.minimum(value, lowest)), None

        start = [r.nearest(x) for r, x in zip(regions, start, strict=True)]
        carry = start, start, jnp.asarray(jnp.inf, float)
        (point, best, lowest), _ = lax.scan(step, carry, jnp.arange(steps))
        value = greatest(point, target)
        lower = value < lowest
        best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), point, best)
        return best, jnp.minimum(value, lowest)

    return jax.vmap(of_start)(points, targets)


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
