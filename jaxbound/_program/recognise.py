"""Recognises activations by structure: a pattern is what the running JAX traces of a reference function."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.extend.core import primitives as jp

from jaxbound._program.activations import (
    ACTIVATIONS,
    Activation,
    deviations,
    is_nan,
    square,
    variance,
)
from jaxbound._program.graph import Equation, Graph, Var
from jaxbound._program.inline import flatten, live
from jaxbound._program.joined import joined
from jaxbound._program.match import Producer, match, same
from jaxbound._program.normalisation import limit_normalised
from jaxbound._program.rearranged import rearranged
from jaxbound._program.spellings import spelled, spliced

REACH = 6  # equations from the last one of a pattern back to the sum or maximum over its axes


def recognise(graph: Graph, joining: bool = True) -> Graph:
    """Replaces the last equation of every activation by the activation itself.

    Without ``joining``, functions made of pieces stay apart: their numbers are rounded as they are composed.
    """
    graph = _activations(graph, joining)
    again = rearranged(spelled(graph))
    if again is not graph:
        graph = _activations(again, joining)
    graph = limit_normalised(graph)
    return dataclasses.replace(graph, equations=live(graph.equations, graph.outputs))


def _activations(graph: Graph, joining: bool) -> Graph:
    """Replaces comparisons, activations and functions made of pieces, each at its last equation; drops dead code."""
    producer = graph.producer
    order = {out: i for i, eqn in enumerate(graph.equations) for out in eqn.outputs}

    def simpler(eqn: Equation) -> Equation:
        found = _comparison(eqn, producer) or _activation(eqn, producer)
        if joining and (found is None or found.primitive is square):
            found = joined(eqn, producer, order) or found
        return found or eqn

    equations = []
    for eqn in graph.equations:
        found = simpler(eqn) if eqn.moving else eqn
        equations += _by_variance(found) if found.primitive is deviations else [found]
    return dataclasses.replace(graph, equations=live(equations, graph.outputs))


def _by_variance(eqn: Equation) -> list[Equation]:
    """Returns the equations of a sum of squared deviations from the mean, as a multiple of the variance."""
    (x,), (out,), axes = eqn.inputs, eqn.outputs, eqn.params["axes"]
    count = math.prod(x.shape[axis] for axis in axes)  # pyright: ignore
    mean = Var(out.shape, out.dtype, True)
    params = {"axes": axes, "keepdims": False}
    first = dataclasses.replace(eqn, primitive=variance, params=params, outputs=(mean,))
    times = flatten(lambda z: z * count, [jax.ShapeDtypeStruct(out.shape, out.dtype)], [True])
    return [first, *spliced(times, (mean,), eqn, {})]


def _comparison(eqn: Equation, producer: Producer) -> Equation | None:
    """Returns a simpler comparison: ``x != x`` as a test for NaN, ``x == max(x, y)`` (in derivatives) as ``x >= y``."""
    if eqn.primitive is jp.ne_p and eqn.inputs[0] is eqn.inputs[1]:
        return dataclasses.replace(eqn, primitive=is_nan, inputs=eqn.inputs[:1])
    if eqn.primitive is not jp.eq_p:
        return None
    for x, z in (eqn.inputs, eqn.inputs[::-1]):
        made = producer.get(z) if isinstance(z, Var) else None
        if made is None or made.primitive not in (jp.max_p, jp.min_p):
            continue
        compare = jp.ge_p if made.primitive is jp.max_p else jp.le_p
        for other, y in (made.inputs, made.inputs[::-1]):
            if same(x, other):
                return dataclasses.replace(eqn, primitive=compare, inputs=(x, y))
    return None


def _activation(eqn: Equation, producer: Producer) -> Equation | None:
    """Returns the activation that ``eqn`` is the last equation of, with its operands; None if there is none."""
    (out, *rest) = eqn.outputs
    if rest or not out.is_float:
        return None
    for activation in ACTIVATIONS:
        if eqn.primitive not in _last(activation, out.dtype):
            continue
        for shape, params in _places(activation, eqn, producer):
            for pattern in _patterns(activation, shape, out.dtype, tuple(params.items())):
                atoms = match(pattern, out, producer)
                if atoms is not None:
                    return dataclasses.replace(
                        eqn, primitive=activation, inputs=atoms, params=params
                    )
    return None


def _places(activation: Activation, eqn: Equation, producer: Producer):
    """Returns the shapes that x may have, each with params: the axes of a sum or maximum nearby, and options."""
    if not activation.reduces:
        return [(eqn.outputs[0].shape, {})]
    found = {}
    near = [eqn]
    for _ in range(REACH):
        behind = [v for e in near for v in e.moving.values() if v in producer]
        near = [producer[v] for v in behind]
        for e in near:
            if e.primitive in (jp.reduce_sum_p, jp.reduce_max_p):
                found[e.moving[0].shape, e.params["axes"]] = None
    return [
        (shape, {"axes": axes} | options) for shape, axes in found for options in activation.options
    ]


@functools.cache
def _last(activation: Activation, dtype) -> set[Any]:
    """Returns the primitives that its patterns end with, which are the same for every shape."""
    params = {"axes": (0,)} | activation.options[0] if activation.reduces else {}
    shape = (2,) if activation.reduces else ()
    patterns = _patterns(activation, shape, dtype, tuple(params.items()))
    return {pattern.equations[-1].primitive for pattern in patterns}


@functools.lru_cache(maxsize=512)
def _patterns(activation: Activation, shape: tuple[int, ...], dtype, params) -> list[Graph]:
    """Returns the activation's variants as the running JAX traces them, with parameters of any shape it accepts."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    mask = jax.ShapeDtypeStruct(shape, bool)
    scalars = [jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((), dtype, weak_type=True)]
    parameters = (
        [[]] if not activation.parameters else [[p] * activation.parameters for p in (x, *scalars)]
    )
    pairs = [(fn, [mask]) for fn in activation.masked]
    pairs += [(fn, known) for fn in activation.variants for known in parameters]
    return [
        flatten(functools.partial(fn, **dict(params)), (x, *known), [True] + [False] * len(known))
        for fn, known in pairs
    ]
