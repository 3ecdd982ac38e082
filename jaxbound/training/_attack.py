"""Attacks the smallest margin by projected gradient descent (PGD)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxbound as jb

Logits = Callable[[jax.Array], jax.Array]  # one example -> [classes]


class Attack(NamedTuple):
    """Holds the worst point found in the region, and its margins `[K-1]`; one <= 0 is a success."""

    x: jax.Array
    margins: jax.Array


def pgd(
    fn: Logits,
    region: jb.Region,
    label: jax.Array,
    key: jax.Array,
    *,
    steps: int = 20,
    restarts: int = 1,
    step_size: float = 0.25,
) -> Attack:
    """Searches `region` for a point that `fn` classifies wrongly; never leaves the region.

    Steps descend the smallest margin, steepest in the region's norm: signed gradients in a box. The step
    shrinks tenfold after half and after three quarters of the steps. The first start is the centre, the
    others are uniform in a box (and projected into a ball). In a polytope, the starts are vertices but the
    first, their mean, and steps go towards vertices (Frank-Wolfe). A bound and the attack enclose the truth:
    `lower <= min over the region <= margins`.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      region: the points allowed, a `jb.Interval`, a `jb.LpBall` or a `jb.Polytope`.
      label: the true class, an integer scalar.
      key: randomness of the starts.
      steps: gradient steps of each start.
      restarts: number of starts, one after another: memory does not grow with them.
      step_size: first step, in radii of the region.

    Returns:
      The worst `Attack` of all starts and steps.

    Raises:
      ValueError: `restarts` is less than 1.
      TypeError: `region` is another set.

    References:
      Madry et al., arXiv:1706.06083.

    >>> import jax, jax.numpy as jnp, jaxbound as jb
    >>> box = jb.linf_ball(jnp.array([0.5, 0.0]), 1.0)
    >>> pgd(lambda x: x, box, jnp.array(0), jax.random.key(0)).x.tolist()
    [-0.5, 1.0]
    """
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, not {restarts}")
    sizes = jnp.array(step_sizes(steps, step_size), region.dtype)

    def attack(restart) -> Attack:
        walk = start_walk(fn, region, label, key, restart)
        advance = lambda i, walk: move(fn, region, label, walk, sizes[i])
        # XLA:CPU is slow in loops: short ones are written out.
        return jax.lax.fori_loop(0, steps + 1, advance, walk, unroll=steps < 10).worst

    if restarts == 1:
        return attack(0)
    found = jax.lax.map(attack, jnp.arange(restarts))
    # A NaN counts as the least: argmin returns it.
    return jax.tree.map(lambda leaf: leaf[jnp.argmin(found.margins.min(-1))], found)


class Walk(NamedTuple):
    """Holds the next point, and the worst that was met before it."""

    x: jax.Array
    worst: Attack


def step_sizes(steps: int, first: float) -> list[float]:
    """Returns step sizes in radii of the region; the last, 0, only evaluates where the walk ended."""
    tenths = [(2 * i >= steps) + (4 * i >= 3 * steps) for i in range(steps)]
    return [first * 0.1**tenth for tenth in tenths] + [0.0]


def start_walk(fn: Logits, region: jb.Region, label, key: jax.Array, restart) -> Walk:
    """Starts at the centre of the region for restart 0, at random for the others."""
    uniform = jax.random.uniform(jax.random.fold_in(key, restart), region.shape, region.dtype)
    share = jnp.where(restart == 0, 0.5, uniform)
    x = region.start(share)
    margins = jax.eval_shape(lambda x: jb.margins(fn(x), label), x)
    return Walk(x, Attack(x, jnp.full(margins.shape, jnp.inf, margins.dtype)))


def move(fn: Logits, region: jb.Region, label, walk: Walk, step_size: jax.typing.ArrayLike) -> Walk:
    """Notes the margins where the walk stands, and steps to lower the smallest."""

    def smallest(x):
        margins = jb.margins(fn(x), label)
        return margins.min(), margins

    slope, margins = jax.grad(smallest, has_aux=True)(walk.x)
    there = region.nearest(walk.x + step_size * region.steepest(-slope, walk.x))
    return Walk(there, _worse(Attack(walk.x, margins), walk.worst))


def _worse(new: Attack, old: Attack) -> Attack:
    least, best = new.margins.min(), old.margins.min()
    take = jnp.isnan(least) | (least < best)
    return jax.tree.map(lambda a, b: jnp.where(take, a, b), new, old)
