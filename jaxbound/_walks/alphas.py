"""Optimises lines and multipliers: finds for every row the alphas and betas that make its bound the best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.numerics import concrete
from jaxbound._program.graph import Constant, Equation, Var
from jaxbound._walks.backward import Step
from jaxbound._walks.context import Context
from jaxbound._walks.operands import nonlinear_before
from jaxbound._walks.rows import Finish, RowEnds, Rows, least


class Parameters(NamedTuple):
    """Holds the free parameters of a row, each a list of dicts of arrays by side, "lower" and "upper".

    Attributes:
      alphas: in [0, 1], where free lines lie, per non-linear equation before a variable.
      betas: >= 0, the multipliers of the ends of every constraint of the context, relative to the row.
    """

    alphas: list[dict[str, Any]]
    betas: list[dict[str, Any]]


class Search(NamedTuple):
    """Holds how free parameters of a bound are optimised.

    Attributes:
      steps: gradient steps.
      optimizer: an optax gradient transformation.
      project: moves parameters to the nearest ones that are sound.
    """

    steps: int
    optimizer: Any
    project: Callable[[Any], Any]


def sound(parameters: Parameters) -> Parameters:
    """Projects alphas to [0, 1], and betas to the numbers >= 0."""
    alphas, betas = parameters
    clipped = jax.tree.map(lambda alpha: jnp.clip(alpha, 0, 1), alphas)
    return Parameters(clipped, jax.tree.map(lambda beta: jnp.maximum(beta, 0), betas))


def best_start(kind: Callable[..., Finish], context: Context, var: Var) -> RowEnds:
    """Returns a function for both ends by one walk: each row takes the best of the starting lines, without a search."""
    starts = best_starts(context, var)
    stacked = lax.stop_gradient(_stack(starts))

    def ends_of_rows(rows: Rows, offset):
        def of_sign(sign):
            turned = {v: sign * row for v, row in rows.items()}
            end = lambda found: lower_ends(kind, context, var, found, turned, sign * offset)
            return jax.vmap(end, axis_size=len(starts))(stacked).max(0)

        lower, upper = jax.vmap(of_sign)(jnp.array([1, -1], offset.dtype))
        return lower, -upper

    return ends_of_rows


def optimised(search: Search, kind: Callable[..., Finish], context: Context, var: Var) -> RowEnds:
    """Returns a function for both ends by two walks: each row has its own parameters, optimised from its best start.

    The gradient of an end takes its parameters as constants: none flows through their search.
    """
    still = _stopped(context)
    starts = lax.stop_gradient(best_starts(still, var))

    def of_row(rows: Rows, offset):
        stopped = {v: lax.stop_gradient(row) for v, row in rows.items()}
        ends = functools.partial(lower_ends, kind, still, var)
        value = lambda found: ends(found, stopped, lax.stop_gradient(offset))[0]
        return lower_ends(kind, context, var, ascend(value, starts, search), rows, offset)[0]

    def lower(rows: Rows, offset):
        alone = lambda parts, offset: of_row(
            {v: row[None] for v, row in zip(rows, parts, strict=True)}, offset[None]
        )
        return jax.vmap(alone)(list(rows.values()), offset)

    return lambda rows, offset: (
        lower(rows, offset),
        -lower({v: -row for v, row in rows.items()}, -offset),
    )


def with_parameters(context: Context, var: Var, found: Parameters) -> Context:
    """Returns the context with the lines before ``var`` at the alphas, and a step that applies the betas."""
    equations = nonlinear_before(context.graph, var)
    sides = {eqn.outputs[0]: a for eqn, a in zip(equations, found.alphas, strict=True)}
    chosen = context.choosing(context.choices._replace(alphas=sides), var)
    return dataclasses.replace(chosen, step=multiplied(context, found.betas))


def lower_ends(
    kind: Callable[..., Finish], context: Context, var: Var, found: Parameters, rows, offset
):
    """Returns lower ends ``[K]`` of rows from ``var`` with these parameters."""
    return least(kind(with_parameters(context, var, found), var)(rows, offset))


def multiplied(context: Context, betas: list[dict[str, Any]]) -> Step:
    """Returns the context's step, and then a step that adds to rows what is at most 0 wherever the constraints hold.

    That is ``-beta (z - p)`` for an end ``z >= p``, and ``beta (z - p)`` for an end ``z <= p``; 0 if p is infinite.
    A beta is relative to the row that it changes, so that its search does not hang on the function's units.
    References: Wang et al., arXiv 2103.06624.
    """
    multipliers = dict(zip(context.constraints, betas, strict=True))

    def step(eqn: Equation, rows: Rows, offset):
        rows, offset = context.step(eqn, rows, offset)
        for out in eqn.outputs:
            if out not in multipliers:
                continue
            held, sides = context.constraints[out], multipliers[out]
            size = _sizes(rows[out]) if out in rows else jnp.ones_like(offset)
            slope = jnp.zeros(out.shape, out.dtype)
            for sign, side, end in ((-1, "lower", held.lower), (1, "upper", held.upper)):
                there = jnp.isfinite(end)
                beta = jnp.where(there, sign * sides[side], 0)
                slope = slope + beta
                offset = offset - size * (beta * jnp.where(there, end, 0)).sum()
            added = jnp.einsum("k,...->k...", size, slope)
            rows = rows | {out: rows[out] + added if out in rows else added}
        return rows, offset

    return step


def _sizes(rows):
    """Returns the root mean square of each row ``[K, ...]``; a constant for gradients."""
    return lax.stop_gradient(jnp.sqrt(jnp.square(rows).mean(range(1, rows.ndim))))


def best_starts(context: Context, var: Var) -> list[Parameters]:
    """Returns the alphas of the lines asked for, and of those that suit ordinary and certified networks; no betas."""
    asked = context.choices
    if asked.kind == "constant":
        raise ValueError("relaxation is 'constant'; its lines have no alphas to optimise")
    kinds = [kind for kind in ("adaptive", "tight") if asked.alphas or kind != asked.kind]
    found = [
        context,
        *(context.choosing(asked._replace(kind=kind, alphas={}), var) for kind in kinds),
    ]
    equations = nonlinear_before(context.graph, var)
    nothing = [
        {side: jnp.zeros(v.shape, v.dtype) for side in ("lower", "upper")}
        for v in context.constraints
    ]
    return [
        Parameters([start.lines[eqn.outputs[0]].alphas for eqn in equations], nothing)
        for start in found
    ]


def ascend(value: Callable[[Any], Any], starts: Sequence[Any], search: Search) -> Any:
    """Returns the best parameters met: at the starts, and by projected gradient steps from the best of them.

    One loop does it all, so that ``value`` and its gradient are compiled once: its first ``len(starts)``
    turns evaluate the starts, the next returns to the best of them, and the others step.
    """
    stacked = _stack(starts)

    def step(carry, i):
        params, state, best = carry
        ready, moving = i <= len(starts), i >= len(starts)
        start = jax.tree.map(lambda each: each[jnp.minimum(i, len(starts) - 1)], stacked)
        params = _where(ready, _where(moving, best[0], start), params)
        now, slope = jax.value_and_grad(value)(params)
        best = _where(now > best[1], (params, now), best)
        # The optimiser descends, so the slope is negated; where a bound is infinite it is not finite, and 0 here.
        down = jax.tree.map(lambda g: -jnp.where(jnp.isfinite(g), g, 0), slope)
        updates, moved = search.optimizer.update(down, state, params)
        found = search.project(jax.tree.map(jnp.add, params, updates))
        params = jax.tree.map(lambda old, new: new.astype(old.dtype), params, found)
        return (params, _where(moving, moved, state), best), None

    first = starts[0]
    lowest = jnp.asarray(-jnp.inf, jax.eval_shape(value, first).dtype)
    carry = first, search.optimizer.init(first), (first, lowest)
    turns = jnp.arange(len(starts) + search.steps + 1)
    return lax.stop_gradient(lax.scan(step, carry, turns)[0][2][0])


def _stack(starts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *each: jnp.stack(each), *starts)


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _stopped(context: Context) -> Context:
    """Returns the context with its constants, values, lines and regions held fixed for `jax.grad`."""

    def constant(atom):
        traced = isinstance(atom, Constant) and concrete(atom.value) is None
        return Constant(lax.stop_gradient(atom.value)) if traced else atom

    def stopped(values):
        return {v: jax.tree.map(lax.stop_gradient, x) for v, x in values.items()}

    equations = tuple(
        dataclasses.replace(eqn, inputs=tuple(map(constant, eqn.inputs)))
        for eqn in context.graph.equations
    )
    graph = dataclasses.replace(context.graph, equations=equations)
    env, regions = stopped(context.env), stopped(context.regions)
    return dataclasses.replace(context, graph=graph, env=env, regions=regions)
