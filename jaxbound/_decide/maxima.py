"""Writes maxima of uncertain values as relus, which can be split: ``max(a, b) = a + relu(b - a)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._decide.question import ARRAY, Question, Same
from jaxbound._program.graph import Equation, Graph, read
from jaxbound._rules.maxima import entries


def _greater(a, b):
    return a + jax.nn.relu(b - a)


def _greatest(z):
    """Returns the maximum along the last axis, by rounds of pairs."""
    while (size := z.shape[-1]) > 1:
        half = size // 2
        winners = _greater(z[..., :half], z[..., half : 2 * half])
        z = jnp.concatenate([winners, z[..., 2 * half :]], -1)
    return z[..., 0]


def _over_axes(z, *, axes, **_):
    last = jnp.moveaxis(z, axes, range(-len(axes), 0))
    return _greatest(last.reshape(*last.shape[: z.ndim - len(axes)], -1))


WRITTEN: dict[Any, Callable[..., Any]] = {
    jp.max_p: _greater,
    jp.min_p: lambda a, b: a - jax.nn.relu(a - b),
    jp.reduce_max_p: _over_axes,
    jp.reduce_window_max_p: lambda z, **window: _greatest(entries(z, **window)),
}


def is_maximum(eqn: Equation) -> bool:
    """Tells whether an equation is a maximum of uncertain values that can be written so: windows without padding."""
    padding = eqn.params.get("padding", ())
    return (
        eqn.primitive in WRITTEN
        and len(eqn.moving) == len(eqn.inputs)
        and eqn.outputs[0].is_float
        and not any(any(pair) for pair in padding)
    )


def has_maxima(graph: Graph) -> bool:
    return any(map(is_maximum, graph.equations))


def without_maxima(question: Question, graph: Graph) -> Question:
    """Returns the same question about the leaves of the arguments, its maxima written as relus.

    ``graph`` is that of the question's clauses. Questions that are equal for arrays of equal shapes get the same
    answer, so that they share compiled programs.
    """
    key = tuple((var.shape, jnp.dtype(var.dtype), var.uncertain) for var in graph.inputs)
    kept = _KEPT.get((question, key))
    if kept is None:
        kept = _KEPT[question, key] = _written(graph, len(graph.inputs))
    return kept


_KEPT: dict[Any, Question] = {}


def _written(graph: Graph, count: int) -> Question:
    def fn(*leaves: Sequence[Any]):
        env = dict(zip(graph.inputs, leaves, strict=True))
        for eqn in graph.equations:
            if is_maximum(eqn):
                operands = (read(env, atom) for atom in eqn.inputs)
                env[eqn.outputs[0]] = WRITTEN[eqn.primitive](*operands, **eqn.params)
            else:
                env.update(eqn.evaluate(env))
        return read(env, graph.outputs[0])

    tree = jax.tree.structure((0,) * count)
    return Question(Same(fn), tree, (ARRAY,) * count, any_axis=1)
