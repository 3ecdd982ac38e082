"""Optimises lines: finds for every row the alphas that make its bound the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.numerics import concrete
from jaxbound._program.graph import Constant, Var
from jaxbound._walks.exactness import nonlinear_before
from jaxbound._walks.rows import Both, Finish, Rows, Walk, least

# One dict of arrays by side, "lower" and "upper", per non-linear equation before a variable.
Alphas = list[dict[str, Any]]


class Search(NamedTuple):
    """Holds the options of the search for alphas.

    Attributes:
      steps: gradient steps.
      optimizer: an optax gradient transformation.
      inside: whether the intermediate bounds are optimised too.
    """

    steps: int
    optimizer: Any
    inside: bool


def best_start(kind: Callable[..., Finish], walk: Walk, var: Var) -> Both:
    """Returns a function for both ends by one walk: each row takes the best of the starting lines, without a search."""
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
    """Returns a function for both ends by two walks: each row has its own alphas, optimised from its best start.

    The gradient of an end takes its alphas as constants: none flows through their search.
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
    """Returns ``at(walk, alphas, rows, offset)``, which gives lower ends, and the alphas to start from."""
    equations = nonlinear_before(walk.graph, var)

    def at(walk: Walk, alphas: Alphas, rows: Rows, offset):
        sides = {eqn.outputs[0]: a for eqn, a in zip(equations, alphas, strict=True)}
        return least(kind(dataclasses.replace(walk, alphas=sides), var)(rows, offset))

    def alphas_of(start: Walk) -> Alphas:
        kind(start, var)  # makes the relaxations before the alphas are read
        return [start.relax(eqn).alphas for eqn in equations]

    return at, [alphas_of(start) for start in _starts(walk)]


def _ascend(value: Callable[[Alphas], Any], starts: Sequence[Alphas], search: Search) -> Alphas:
    """Returns the best alphas met: at the starts, and by projected gradient steps from the best of them.

    One loop does it all, so that ``value`` and its gradient are compiled once: its first ``len(starts)``
    turns evaluate the starts, the next returns to the best of them, and the others step.
    """
    stacked = _stack(starts)

    def step(carry, i):
        alphas, state, best = carry
        ready, moving = i <= len(starts), i >= len(starts)
        start = jax.tree.map(lambda each: each[jnp.minimum(i, len(starts) - 1)], stacked)
        alphas = _where(ready, _where(moving, best[0], start), alphas)
        now, slope = jax.value_and_grad(value)(alphas)
        best = _where(now > best[1], (alphas, now), best)
        # The optimiser descends, so the slope is negated; where a bound is infinite it is not finite, and 0 here.
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
    """Returns walks by the lines asked for, and by those that suit ordinary and certified networks."""
    others = [kind for kind in ("adaptive", "tight") if walk.alphas or kind != walk.kind]
    return [walk, *(dataclasses.replace(walk, kind=kind, alphas={}) for kind in others)]


def _stopped(walk: Walk) -> Walk:
    """Returns the walk with its constants, values and regions held fixed for `jax.grad`."""

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
