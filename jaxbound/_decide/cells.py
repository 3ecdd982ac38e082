"""Bounds sub-domains in which operands of non-linear functions are split: one compiled program for many at once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxbound._bounds.interval import Interval
from jaxbound._decide.attack import with_points
from jaxbound._decide.question import Question
from jaxbound._methods.prepare import Options, prepare
from jaxbound._methods.recipes import Recipe, backward, interval_output, keep
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.linear_rules import linear_operands
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
_KEPT = Recipe("kept", keep, interval_output, from_inputs)

# How a row's parameters are searched for: alphas move within [0, 1], betas have the units of slopes.
OPTIMIZER = optax.multi_transform(
    {
        "alphas": optax.adam(optax.exponential_decay(0.1, 1, 0.97)),
        "betas": optax.adam(optax.exponential_decay(0.1, 1, 0.97)),
    },
    Parameters("alphas", "betas"),  # pyright: ignore
)

CANDIDATES = 8  # how many of the best cells are returned, by every score

# Scores cells, the higher the sooner they are split: ``score(rows, below, above)`` of the coefficients that a lower
# bound gives to the values of a non-linear function, and of what its lines below and above miss at the lower end of
# the operand's interval, at the point where it would be split, and at the upper end, stacked along a first axis.
Score = Callable[[Any, Any, Any], Any]


def gap_at_split(rows, below, above):
    """Returns what the bound loses by the lines at the point of the split (the intercept, for a relu)."""
    return jnp.maximum(rows, 0) * below[1] + jnp.maximum(-rows, 0) * above[1]


def largest_gap(rows, below, above):
    """Returns the most that the bound may lose by the lines, at the split or at an end."""
    return jnp.maximum(rows, 0) * below.max(0) + jnp.maximum(-rows, 0) * above.max(0)


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
      cells: the best ones to split by each score, -1 where there are none ``[N, scores, CANDIDATES]``.
      scores: of these.
      points: where they would be split.
      minimisers: where the highest row's linear bound is least, an array ``[N, ...]`` for every region.
      values: of the function there, of the greatest row of the clause ``[N]``.
    """

    lower: Any
    alphas: Any
    betas: Any
    cells: Any
    scores: Any
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
    return prepare(_KEPT, question.clauses, question.args(leaves), options)


def _bound_lane(question, steps, scores, leaves, intermediates, lane: Lanes) -> Found:
    """Bounds one sub-domain."""
    context = kept_context(question, leaves, intermediates, lane)
    out, count = the_output(context.graph), lane.alphas.shape[0]
    rows, offset = affine_rows(context, out, lane.clause * count + jnp.arange(count))
    like, held = best_starts(context, out)[0], sorted(intermediates)
    _, unravel = ravel_pytree(like.alphas)
    search = Search(steps, OPTIMIZER, sound)

    def of_row(parts: Sequence[Any], offset, alphas, betas):
        row, offset = {v: part[None] for v, part in zip(rows, parts, strict=True)}, offset[None]
        sides = [by_name(intermediates, betas[side]) for side in (0, 1)]
        multipliers = [{"lower": sides[0][name], "upper": sides[1][name]} for name in held]
        found = Parameters(unravel(alphas), multipliers)
        if steps:
            value = lambda found: lower_ends(from_inputs, context, out, found, row, offset)[0]
            found = ascend(value, [found], search)
        below, ranked, points = _look(context, out, found, row, offset, scores)
        flat = [
            jnp.concatenate([jnp.ravel(side[end]) for side in found.betas])
            for end in ("lower", "upper")
        ]
        coeffs = [c[0] for c in below.coeffs]
        return (
            least(below)[0],
            ravel_pytree(found.alphas)[0],
            jnp.stack(flat),
            coeffs,
            ranked,
            points,
        )

    lower, alphas, betas, coeffs, ranked, points = jax.vmap(of_row)(
        list(rows.values()), offset, lane.alphas, lane.betas
    )
    highest = jnp.argmax(jnp.where(jnp.isnan(lower), -jnp.inf, lower))
    regions = list(context.regions.values())
    lowest = [_lowest(r, c[highest]) for r, c in zip(regions, coeffs, strict=True)]
    value = question.evaluate(with_points(leaves, lowest))[lane.clause].max()
    best, cells = jax.lax.top_k(ranked[highest], min(CANDIDATES, ranked.shape[-1]))
    cells = jnp.where(best > -jnp.inf, cells, -1)
    return Found(lower, alphas, betas, cells, best, points[highest][cells], lowest, value)


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
            score, points[var] = _scores(chosen, eqn, var, seen[eqn.outputs[0]], scores)
            ranked[var] = jnp.maximum(ranked[var], score)
    if not names:
        return below, jnp.full((len(scores), 1), -jnp.inf), jnp.zeros(1)
    return below, jnp.concatenate(list(ranked.values()), 1), jnp.concatenate(list(points.values()))


def is_splittable(eqn: Equation) -> bool:
    """Tells whether an equation is a non-linear function of each element of one operand."""
    moving = list(eqn.moving.values())
    return (
        eqn.primitive in ELEMENTWISE
        and len(moving) == 1
        and moving[0].is_float
        and moving[0].shape == eqn.outputs[0].shape
        and linear_operands(eqn) is None
    )


def _scores(context: Context, eqn: Equation, var: Var, rows, scores: tuple[Score, ...]):
    """Returns the scores ``[scores, size]`` of an operand's cells, and the points where they would be split.

    That is the kink nearest to the middle of its interval, or the middle itself where there are none; -inf where
    no point lies inside.
    """
    x, record = context.env[var], ELEMENTWISE[eqn.primitive]
    operands = [None if a is var else read(context.env, a) for a in eqn.inputs]
    known = [op for op in operands if op is not None]
    middle = 0.5 * x.lower + 0.5 * x.upper
    point = middle
    if record.kinks is not None:
        kinks = [jnp.broadcast_to(k, x.shape) for k in record.kinks(*known, **eqn.params)]
        far = [jnp.where((x.lower < k) & (k < x.upper), abs(k - middle), jnp.inf) for k in kinks]
        nearest = jnp.argmin(jnp.stack(far), 0)
        point = jnp.take_along_axis(jnp.stack(kinks), nearest[None], 0)[0]
    room = 1e-9 * (1 + abs(x.lower) + abs(x.upper)) if record.kinks is None else 0
    inside = (x.lower + room < point) & (point < x.upper - room)
    point = jnp.where(inside, point, middle)
    fn = lambda z: eqn.bind(*(z if op is None else op for op in operands))[0]
    lines, ends = context.lines[eqn.outputs[0]], (x.lower, point, x.upper)
    below, above = (
        jnp.stack([sign * (fn(z) - jax.tree.leaves(line(z))[0]) for z in ends])
        for sign, line in ((1, lines.lower), (-1, lines.upper))
    )
    ranked = jnp.stack([score(rows, below, above) for score in scores])
    ranked = jnp.where(inside[None] & jnp.isfinite(ranked), ranked, -jnp.inf)
    return ranked.reshape(len(scores), -1), point.ravel()
