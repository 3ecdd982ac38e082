"""Bounds operands over the whole regions once more: by lines that are optimised for each undecided element."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.interval import Interval
from jaxbound._decide.cells import KEPT, OPTIMIZER, the_output
from jaxbound._decide.question import Question
from jaxbound._decide.scores import is_splittable, scores_of
from jaxbound._decide.search import Clock
from jaxbound._methods.prepare import Options, prepare
from jaxbound._program.trace import trace
from jaxbound._rules.relaxing import Choices
from jaxbound._walks.alphas import Search, optimised, sound
from jaxbound._walks.context import Context
from jaxbound._walks.operands import names_of, nonlinear_before
from jaxbound._walks.rows import affine_rows, from_inputs

STEPS = 20
AT_ONCE = 2**18  # elements of all operands, in as many rows as are optimised at once


def inner_operands(question: Question, leaves) -> list[str]:
    """Returns the names of operands that other non-linear functions lead to, in the order they are computed.

    What affine functions alone give of the inputs is bounded exactly as it is.
    """
    graph = trace(question.clauses, *question.args(leaves))
    return [name for name, var in names_of(graph).items() if nonlinear_before(graph, var)]


def sharpened(
    question: Question,
    inner: Sequence[str],
    leaves,
    intermediates: dict[str, Interval],
    clock: Clock,
) -> dict[str, Interval]:
    """Returns tighter intervals of inner operands, each bounded by those before it, until time is over."""
    size = sum(x.lower.size for x in intermediates.values())
    count = 2 ** int(math.log2(min(256, max(8, AT_ONCE // size))))
    for name in inner:
        for indices in _chunks(_gaps(question, name, leaves, intermediates), count):
            if clock.is_over:
                return intermediates
            lower, upper = map(np.asarray, _bound(question, name, leaves, intermediates, indices))
            cut = _cut(intermediates[name], indices, lower, upper)
            intermediates = intermediates | {name: cut}
    return intermediates


def _chunks(gaps, count: int) -> Iterator[np.ndarray]:
    """Yields the elements whose lines miss something, the largest gaps first, ``count`` at once (some twice)."""
    gaps = np.asarray(gaps)
    order = [int(i) for i in np.argsort(-gaps) if gaps[i] > 0]
    for start in range(0, len(order), count):
        part = order[start : start + count]
        yield np.array(part + part[-1:] * (count - len(part)))


def _cut(known: Interval, indices: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Interval:
    """Returns an interval whose elements ``indices`` are cut by what was found of them."""
    low, high = (np.array(end, float) for end in (known.lower, known.upper))
    np.maximum.at(low.reshape(-1), indices, np.nan_to_num(lower, nan=-np.inf, neginf=-np.inf))
    np.minimum.at(high.reshape(-1), indices, np.nan_to_num(upper, nan=np.inf, posinf=np.inf))
    crossed = low > high  # by rounding
    return Interval(np.where(crossed, known.lower, low), np.where(crossed, known.upper, high))


def _kept(question: Question, leaves, intermediates) -> Context:
    return prepare(
        KEPT, question.clauses, question.args(leaves), Options(intermediates=intermediates)
    )


@functools.partial(jax.jit, static_argnames=("question", "name"))
def _bound(question: Question, name: str, leaves, intermediates, indices):
    """Bounds elements of one operand from both sides, each by its own lines."""
    context = _kept(question, leaves, intermediates)
    var = names_of(context.graph)[name]
    rows, offset = affine_rows(context, var, indices)
    return optimised(Search(STEPS, OPTIMIZER, sound), from_inputs, context, var)(rows, offset)


@functools.partial(jax.jit, static_argnames=("question", "name"))
def _gaps(question: Question, name: str, leaves, intermediates):
    """Returns how much the lines of every element of an operand miss; 0 where they miss nothing."""
    context = _kept(question, leaves, intermediates)
    context = context.choosing(Choices("adaptive"), the_output(context.graph))
    var = names_of(context.graph)[name]
    gaps = jnp.zeros(var.size)
    for eqn in context.graph.equations:
        if var not in eqn.inputs:
            continue
        if is_splittable(eqn):
            ones = jnp.ones(var.shape)
            missed, _ = scores_of(context, eqn, var, ones, (_missed,))
            gaps = jnp.maximum(gaps, missed[0])
        elif eqn.outputs[0] in context.lines:
            known = context.env[var]
            gaps = jnp.maximum(gaps, (known.upper - known.lower).ravel())
    return jnp.where(jnp.isfinite(gaps), gaps, 0)


def _missed(rows, below: Sequence[Any], above) -> Any:
    return (jnp.asarray(below) + above).max(0)
