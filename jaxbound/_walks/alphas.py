"""Optimised lines: for every row, the alphas that make its bound the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import concrete
from jaxbound._program.graph import Constant, Var
from jaxbound._walks.exactness import nonlinear_before
from jaxbound._walks.rows import Both, Finish, Rows, Walk, least

Alphas = list[dict[str, Any]]  # of the non-linear equations before a variable


class Search(NamedTuple):
    """How alphas are optimised.

    Attributes:
      steps: gradient steps.
      optimizer: an optax gradient transformation.
      inside: whether the operands' bounds are optimised too.
    """

    steps: int
    optimizer: Any
    inside: bool


def best_start(kind: Callable[..., Finish], walk: Walk, var: Var) -> Both:
    """Lower and upper ends by one walk, each row by the best of some lines, without a search."""
    at, starts = _room(kind, walk, var)
    stacked = lax.stop_gradient(_stack(starts))

    def both(rows: Rows, offset):
        def one(sign):
            turned = {v: sign * row for v, row in rows.items()}
            end = lambda alphas: at(walk, alphas, turned, sign * offset)
            return jax.vmap(end, axis_size=len(starts))(stacked).max(0)

        lower, upper = jax.vmap(one)(jnp.array([1, -1], offset.dtype))
        return lower, -upper

    return both


def optimised(kind: Callable[..., Finish], walk: Walk, var: Var) -> Both:
    """Lower and upper ends by two walks, each row by its own alphas, from the best of some starts.

    The gradient of an end is the one at its alphas; none flows through their search.
    """
    still = _stopped(walk)
    at, starts = _room(kind, still, var)

    def of_row(rows: Rows, offset):
        stopped = {v: lax.stop_gradient(row) for v, row in rows.items()}
        value = lambda alphas: at(still, alphas, stopped, lax.stop_gradient(offset[None]))[0]
        return at(walk, _ascend(value, starts, walk.search), rows, offset[None])[0]

    def lower(rows: Rows, offset):
        one = lambda parts, offset: of_row(
            {v: row[None] for v, row in zip(rows, parts, strict=True)}, offset
        )
        return jax.vmap(one)(list(rows.values()), offset)

    return lambda rows, offset: (
        lower(rows, offset),
        -lower({v: -row for v, row in rows.items()}, -offset),
    )


def _room(kind: Callable[..., Finish], walk: Walk, var: Var):
    """Lower ends ``at(walk, alphas, rows, offset)``, and the alphas to start from."""
    equations = nonlinear_before(walk.graph, var)

    def at(walk: Walk, alphas: Alphas, rows: Rows, offset):
        sides = {eqn.outputs[0]: a for eqn, a in zip(equations, alphas, strict=True)}
        return least(kind(dataclasses.replace(walk, alphas=sides), var)(rows, offset))

    def alphas_of(start: Walk) -> Alphas:
        kind(start, var)  # makes the lines
        return [start.relax(eqn).alphas for eqn in equations]

    return at, [alphas_of(start) for start in _starts(walk)]


def _ascend(value: Callable[[Alphas], Any], starts: Sequence[Alphas], search: Search) -> Alphas:
    """The best alphas met: the starts, then projected gradient steps from the best of them.

    All in one loop, so that ``value`` and its gradient are compiled once.
    """
    stacked = _stack(starts)

    def step(carry, i):
        alphas, state, best = carry
        ready, moving = i <= len(starts), i >= len(starts)
        start = jax.tree.map(lambda each: each[jnp.minimum(i, len(starts) - 1)], stacked)
        alphas = _where(ready, _where(moving, best[0], start), alphas)
        now, slope = jax.value_and_grad(value)(alphas)
        best = _where(now > best[1], (alphas, now), best)
        # The optimiser descends; where a bound is infinite there is no slope.
        down = jax.tree.map(lambda g: -jnp.where(jnp.isfinite(g), g, 0), slope)
        updates, moved = search.optimizer.update(down, state, alphas)
        alphas = jax.tree.map(lambda a, d: jnp.clip(a + d, 0, 1).astype(a.dtype), alphas, updates)
        return (alphas, _where(moving, moved, state), best), None

    first = starts[0]
    lowest = jnp.asarray(-jnp.inf, jax.eval_shape(value, first).dtype)
    carry = first, search.optimizer.init(first), (first, lowest)
    turns = jnp.arange(len(starts) + search.steps + 1)
    return lax.stop_gradient(lax.scan(step, carry, turns)[0][2][0])


def _stack(starts: Sequence[Alphas]) -> Alphas:
    return jax.tree.map(lambda *each: jnp.stack(each), *starts)


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _starts(walk: Walk) -> list[Walk]:
    """The lines that were asked for, and those that suit ordinary and certified networks."""
    others = [kind for kind in ("adaptive", "tight") if walk.alphas or kind != walk.kind]
    return [walk, *(dataclasses.replace(walk, kind=kind, alphas={}) for kind in others)]


def _stopped(walk: Walk) -> Walk:
    """The walk as a constant for `jax.grad`."""

    def constant(atom):
        traced = isinstance(atom, Constant) and concrete(atom.value) is None
        return Constant(lax.stop_gradient(atom.value)) if traced else atom

    def stopped(values):
        return {v: jax.tree.map(lax.stop_gradient, x) for v, x in values.items()}

    equations = tuple(
        dataclasses.replace(eqn, inputs=tuple(map(constant, eqn.inputs)))
        for eqn in walk.graph.equations
    )
    graph = dataclasses.replace(walk.graph, equations=equations)
    env, regions = stopped(walk.env), stopped(walk.regions)
    return dataclasses.replace(walk, graph=graph, env=env, regions=regions)
