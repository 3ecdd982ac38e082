"""Attacks the smallest margin by projected gradient descent (PGD)."""

from __future__ import annotations

import functools
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
    x = _start(region, share)
    margins = jax.eval_shape(lambda x: jb.margins(fn(x), label), x)
    return Walk(x, Attack(x, jnp.full(margins.shape, jnp.inf, margins.dtype)))


def move(fn: Logits, region: jb.Region, label, walk: Walk, step_size: jax.typing.ArrayLike) -> Walk:
    """Notes the margins where the walk stands, and steps to lower the smallest."""

    def smallest(x):
        margins = jb.margins(fn(x), label)
        return margins.min(), margins

    slope, margins = jax.grad(smallest, has_aux=True)(walk.x)
    there = _project(region, walk.x - step_size * _steepest(region, slope, walk.x))
    return Walk(there, _worse(Attack(walk.x, margins), walk.worst))


# ---------------------------------------------------------------- what an attack asks of a set


@functools.singledispatch
def _start(region: jb.Region, share) -> jax.Array:
    """Returns the point of the set at a share of its box, 0.5 for the centre."""
    kinds = "jb.Interval, jb.LpBall or jb.Polytope"
    raise TypeError(f"region is a {type(region).__name__}; expected a {kinds}")


@functools.singledispatch
def _steepest(region, slope: jax.Array, x: jax.Array):
    """Returns the step, one radius long, along which the slope ascends most."""
    return (region.upper - region.lower) / 2 * jnp.sign(slope)


@functools.singledispatch
def _project(region, x: jax.Array):
    """Returns a point of the set near ``x``, and ``x`` if it is in the set."""
    return jnp.clip(x, region.lower, region.upper)


@_start.register
def _(region: jb.Interval, share):
    return _project(region, region.lower + share * (region.upper - region.lower))


@_start.register
def _(region: jb.LpBall, share):
    return _project(region, region.center + (2 * share - 1) * region.radius)


@_steepest.register
def _(region: jb.LpBall, slope, x):
    if region.clip is not None:  # the walk descends: what is at the end it would go to stays there
        stuck = jnp.where(slope > 0, x <= region.clip.lower, x >= region.clip.upper)
        slope = jnp.where(stuck, 0, slope)
    size = jnp.abs(slope) / jnp.maximum(jnp.abs(slope).max(), jnp.finfo(slope.dtype).tiny)
    # <slope, d> is greatest on norm(d, p) <= 1 where Hoelder's inequality is an equality: |d|^(p-1) ~ |slope|;
    # for p = 1, at the largest elements.
    size = size >= 1 if region.p == 1 else size ** (1 / (region.p - 1))
    step = jnp.sign(slope) * size
    return region.radius * step / jnp.maximum(jnp.linalg.norm(step.ravel(), region.p), 1)


@_project.register
def _(region: jb.LpBall, x):
    """Clips, then moves towards the centre as far as the ball asks for."""
    if region.clip is not None:
        x = jnp.clip(x, region.clip.lower, region.clip.upper)
    far = jnp.linalg.norm((x - region.center).ravel(), region.p)
    share = jnp.where(far > region.radius, region.radius / jnp.where(far > 0, far, 1), 1)
    return region.center + share * (x - region.center)


def _farthest(region: jb.Polytope, direction):
    """Returns where a polytope reaches farthest, a subgradient of its support: a vertex, or the mean of several."""
    return jax.grad(region.support)(direction.ravel()).reshape(region.shape)


@_start.register
def _(region: jb.Polytope, share):
    return _farthest(region, share - 0.5)


@_steepest.register
def _(region: jb.Polytope, slope, x):
    return x - _farthest(region, -slope)  # a part of this step does not leave the hull


@_project.register
def _(region: jb.Polytope, x):
    return x


def _worse(new: Attack, old: Attack) -> Attack:
    least, best = new.margins.min(), old.margins.min()
    take = jnp.isnan(least) | (least < best)
    return jax.tree.map(lambda a, b: jnp.where(take, a, b), new, old)
