"""Bounds sub-domains in which operands of non-linear functions are split: one compiled program for many at once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxbound._bounds.interval import Interval
from jaxbound._decide.attack import with_points
from jaxbound._decide.question import Question
from jaxbound._decide.scores import Score, is_splittable, scores_of
from jaxbound._methods.prepare import Options, prepare
from jaxbound._methods.recipes import Recipe, backward, interval_output, keep
from jaxbound._program.graph import Equation, Graph, Var
from jaxbound._walks.alphas import (
    Parameters,
    Search,
    ascend,
    best_start,
    best_starts,
    lower_ends,
    sound,
    with_parameters,
)
from jaxbound._walks.chunks import map_chunks
from jaxbound._walks.context import Context
from jaxbound._walks.operands import names_of
from jaxbound._walks.rows import affine_rows, from_inputs, least

# Operands by both kinds of lines; and operands as they are known, cut by constraints and what follows by intervals.
THOROUGH = Recipe("thorough", backward(best_start), interval_output, from_inputs)
KEPT = Recipe("kept", keep, interval_output, from_inputs)

# How a row's parameters are searched for: alphas move within [0, 1], betas are relative to the rows they change.
OPTIMIZER = optax.multi_transform(
    {
        "alphas": optax.adam(optax.exponential_decay(0.1, 1, 0.97)),
        "betas": optax.adam(optax.exponential_decay(0.3, 1, 0.97)),
    },
    Parameters("alphas", "betas"),  # pyright: ignore
)

TRIED = 3  # of the best cells by every score, both children are bounded


class Root(NamedTuple):
    """Holds what is known of the whole regions.

    Attributes:
      intermediates: the intervals of operands, by name.
      lower: of every row of every clause, ``[clauses * rows]``.
      alphas: of its lines ``[clauses * rows, A]``.
    """

    intermediates: dict[str, Interval]
    lower: Any
    alphas: Any


class Lanes(NamedTuple):
    """Holds sub-domains side by side. S is the number of all elements of all operands, their cells.

    Attributes:
      clause: which clause is bounded in it, ``[N]``.
      lower: what cells are at least ``[N, S]``; -inf where they are not split.
      upper: what they are at most; inf where they are not split.
      alphas: where lines lie, of every row of the clause ``[N, M, A]``.
      betas: the multipliers of the lower and the upper splits ``[N, M, 2, S]``.
    """

    clause: Any
    lower: Any
    upper: Any
    alphas: Any
    betas: Any


class Found(NamedTuple):
    """Holds the bounds of sub-domains.

    Attributes:
      lower: of every row ``[N, M]``.
      alphas: the best that were met, as in `Lanes`.
      betas: likewise.
      cells: the ones to split, the best first, -1 where there are none ``[N, scores * TRIED]``.
      points: where they would be split.
      minimisers: where the highest row's linear bound is least, an array ``[N, ...]`` for every region.
      values: of the function there, of the greatest row of the clause ``[N]``.
    """

    lower: Any
    alphas: Any
    betas: Any
    cells: Any
    points: Any
    minimisers: list[Any]
    values: Any


def the_output(graph: Graph) -> Var:
    (out,) = graph.outputs
    assert isinstance(out, Var) and out.uncertain
    return out


@functools.partial(jax.jit, static_argnames=("question",))
def bound_root(question: Question, leaves) -> Root:
    """Bounds the operands and every row over the whole regions, by both kinds of lines."""
    context = prepare(THOROUGH, question.clauses, question.args(leaves), Options())
    out = the_output(context.graph)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *best_starts(context, out))
    kinds = len(jax.tree.leaves(stacked)[0]) if jax.tree.leaves(stacked) else 1

    def of_rows(indices):
        rows, offset = affine_rows(context, out, indices)
        ends = lambda found: lower_ends(from_inputs, context, out, found, rows, offset)
        lower = jax.vmap(ends, axis_size=kinds)(stacked)
        chosen = jax.tree.map(lambda alphas: alphas[lower.argmax(0)], stacked.alphas)
        flat = jax.vmap(lambda alphas: ravel_pytree(alphas)[0], axis_size=len(indices))(chosen)
        return lower.max(0), flat

    lower, alphas = map_chunks(of_rows, context.rows_at_once(context.graph), out.size)
    intermediates = {name: context.env[var] for name, var in names_of(context.graph).items()}
    return Root(intermediates, lower, alphas)


@functools.partial(jax.jit, static_argnames=("question", "steps", "scores"))
def bound_cells(
    question: Question, steps: int, scores: tuple[Score, ...], leaves, intermediates, lanes: Lanes
) -> Found:
    """Bounds sub-domains by optimised lines and multipliers, and says which cells to split next."""
    bound = functools.partial(_bound_lane, question, steps, scores, leaves, intermediates)
    return jax.vmap(bound)(lanes)


def by_name(intermediates: dict[str, Interval], flat) -> dict[str, Any]:
    """Returns the parts ``[..., *shape]`` of an array ``[..., S]`` over all cells, by the names of operands."""
    found, start = {}, 0
    for name in sorted(intermediates):
        shape = intermediates[name].shape
        part = flat[..., start : start + math.prod(shape)]
        found[name] = part.reshape(*flat.shape[:-1], *shape)
        start += math.prod(shape)
    return found


def kept_context(question: Question, leaves, intermediates, lane: Lanes) -> Context:
    """Returns what is known in one sub-domain: the intervals of the whole regions, cut by its splits."""
    lows, highs = (by_name(intermediates, end) for end in (lane.lower, lane.upper))
    held = {name: Interval(lows[name], highs[name]) for name in lows}
    options = Options(intermediates=intermediates, constraints=held)
    return prepare(KEPT, question.clauses, question.args(leaves), options)


def _bound_lane(question, steps, scores, leaves, intermediates, lane: Lanes) -> Found:
    """Bounds one sub-domain."""
    context = kept_context(question, leaves, intermediates, lane)
    of_row = functools.partial(_bound_row, context, intermediates, steps, scores)
    lower, alphas, betas, coeffs, ranked, points = _of_rows(of_row, context, lane)
    highest = jnp.argmax(jnp.where(jnp.isnan(lower), -jnp.inf, lower))
    lowest = [_lowest(r, c[highest]) for r, c in zip(context.regions.values(), coeffs, strict=True)]
    value = question.evaluate(with_points(leaves, lowest))[lane.clause].max()
    lane = lane._replace(alphas=alphas, betas=betas)
    worse = functools.partial(_worse_child, question, leaves, intermediates, lane)
    cells, points = _best_cells(worse, ranked[highest], points[highest])
    return Found(lower, alphas, betas, cells, points, lowest, value)


def _of_rows(bound: Callable[..., Any], context: Context, lane: Lanes) -> Any:
    """Returns ``bound(rows, offset, alphas, betas)`` of each row of a lane's clause, stacked."""
    out, count = the_output(context.graph), lane.alphas.shape[0]
    rows, offset = affine_rows(context, out, lane.clause * count + jnp.arange(count))

    def of_row(parts, offset, alphas, betas):
        alone = {var: part[None] for var, part in zip(rows, parts, strict=True)}
        return bound(alone, offset[None], alphas, betas)

    return jax.vmap(of_row)(list(rows.values()), offset, lane.alphas, lane.betas)


def _parameters(context: Context, intermediates, alphas, betas) -> Parameters:
    """Returns the parameters of a row, written out flat in a lane."""
    _, unravel = ravel_pytree(best_starts(context, the_output(context.graph))[0].alphas)
    sides = [by_name(intermediates, beta) for beta in betas]
    multipliers = [{"lower": sides[0][name], "upper": sides[1][name]} for name in sides[0]]
    return sound(Parameters(unravel(alphas), multipliers))


def _bound_row(context: Context, intermediates, steps, scores, rows, offset, alphas, betas):
    """Bounds one row of a sub-domain's clause, by its own parameters."""
    out, found = the_output(context.graph), _parameters(context, intermediates, alphas, betas)
    if steps:
        value = lambda found: lower_ends(from_inputs, context, out, found, rows, offset)[0]
        found = ascend(value, [found], Search(steps, OPTIMIZER, sound))
    below, ranked, points = _look(context, out, found, rows, offset, scores)
    flat = [
        jnp.concatenate([jnp.ravel(side[end]) for side in found.betas])
        for end in ("lower", "upper")
    ]
    coeffs = [c[0] for c in below.coeffs]
    return least(below)[0], ravel_pytree(found.alphas)[0], jnp.stack(flat), coeffs, ranked, points


def _best_cells(worse: Callable[..., Any], ranked, points):
    """Returns the cells to split and the points, the best first: the one whose worse child is best.

    References: De Palma et al., arXiv 2104.06718.

    Args:
      worse: bounds the worse child of a split, ``worse(cell, point)``.
      ranked: the scores ``[scores, S]``; of each, the best `TRIED` are tried.
      points: ``[S]``.
    """
    best, cells = (x.ravel() for x in jax.lax.top_k(ranked, min(TRIED, ranked.shape[-1])))
    again = jnp.tril(cells[:, None] == cells[None], -1).any(1)
    valid = (best > -jnp.inf) & ~again
    lower = jnp.nan_to_num(jax.vmap(worse)(cells, points[cells]), nan=-jnp.inf)
    order = jnp.lexsort((-lower, ~valid))
    return jnp.where(valid, cells, -1)[order], points[cells][order]


def _worse_child(question: Question, leaves, intermediates, lane: Lanes, cell, point):
    """Returns the lower bound of the worse child of a split, by the parameters of its parent."""

    def of_side(above):
        low, high = jnp.where(above, point, -jnp.inf), jnp.where(above, jnp.inf, point)
        child = lane._replace(
            lower=lane.lower.at[cell].max(low), upper=lane.upper.at[cell].min(high)
        )
        context = kept_context(question, leaves, intermediates, child)

        def of_row(rows, offset, alphas, betas):
            found = _parameters(context, intermediates, alphas, betas)
            out = the_output(context.graph)
            return lower_ends(from_inputs, context, out, found, rows, offset)[0]

        return _of_rows(of_row, context, child).max()

    return jax.vmap(of_side)(jnp.array([True, False])).min()


def _lowest(region, coeffs):
    """Returns the point of a region where ``<coeffs, x>`` is least: a gradient of its support."""
    return jax.grad(region.support)(-coeffs.ravel()).reshape(region.shape)


def _look(context: Context, out: Var, found: Parameters, rows, offset, scores: tuple[Score, ...]):
    """Walks back once more; returns the lower bounds, the scores ``[scores, S]`` and the split points ``[S]``."""
    chosen, seen = with_parameters(context, out, found), {}

    def note(eqn: Equation, rows, offset):
        rows, offset = chosen.step(eqn, rows, offset)
        if eqn.outputs[0] in rows:
            seen[eqn.outputs[0]] = rows[eqn.outputs[0]][0]
        return rows, offset

    below = from_inputs(dataclasses.replace(chosen, step=note), out)(rows, offset)
    names = sorted(names_of(context.graph).items())
    ranked = {var: jnp.full((len(scores), var.size), -jnp.inf) for _, var in names}
    points = {var: jnp.zeros(var.size) for _, var in names}
    for eqn in context.graph.equations:
        if is_splittable(eqn) and eqn.outputs[0] in seen:
            (var,) = eqn.moving.values()
            score, points[var] = scores_of(chosen, eqn, var, seen[eqn.outputs[0]], scores)
            ranked[var] = jnp.maximum(ranked[var], score)
    if not names:
        return below, jnp.full((len(scores), 1), -jnp.inf), jnp.zeros(1)
    return below, jnp.concatenate(list(ranked.values()), 1), jnp.concatenate(list(points.values()))
