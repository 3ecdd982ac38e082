"""Softmax that is written with its elements rearranged, and what undoes its exponential after they were."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as jp

from jaxbound import _activations as activations
from jaxbound._inline import flatten
from jaxbound._match import match, number
from jaxbound._normalised import MOVES, agree, groups_of, moved, reduction
from jaxbound._program import Atom, Constant, Equation, Graph, Var, shape_of
from jaxbound._spellings import spliced

# What picks and rearranges elements, the first operand's.
PICKS = frozenset(
    {jp.reshape_p, jp.squeeze_p, jp.transpose_p, jp.broadcast_in_dim_p, jp.slice_p, jp.rev_p}
    | {jp.dynamic_slice_p, jp.gather_p}
)
UNDOES = {
    (jp.log_p, activations.softmax): activations.log_softmax,
    (jp.exp_p, activations.log_softmax): activations.softmax,
}


def rearranged(graph: Graph) -> Graph:
    """Replaces every match; the graph itself if there is none."""
    producer = {out: eqn for eqn in graph.equations for out in eqn.outputs}
    found, changed = [], False
    for eqn in graph.equations:
        new = (_softmax(eqn, producer) or _undone(eqn, producer)) if eqn.moving else None
        changed |= new is not None
        for each in new or ():
            producer |= dict.fromkeys(each.outputs, each)
        found += new or [eqn]
    return dataclasses.replace(graph, equations=tuple(found)) if changed else graph


def _again(eqn: Equation, x: Atom) -> Equation:
    """The equation of another first operand."""
    (out,) = eqn.outputs
    outputs = (Var(out.shape, out.dtype, True),)
    return dataclasses.replace(eqn, inputs=(x, *eqn.inputs[1:]), outputs=outputs)


def _ending(equations: list[Equation], eqn: Equation) -> list[Equation]:
    """The equations, the last of which computes what ``eqn`` does."""
    return [*equations[:-1], dataclasses.replace(equations[-1], outputs=eqn.outputs)]


# ---------------------------------------------------------------- a softmax


@functools.cache
def _quotient(dtype) -> Graph:
    number = jax.ShapeDtypeStruct((), dtype)
    return flatten(lambda x, y: x / y, [number] * 2, [True] * 2)


def _softmax(eqn: Equation, producer) -> list[Equation] | None:
    """Of ``e / sum(e)``, e an exponential, where elements of e are anywhere in the numerator."""
    (out, *_), quotient = eqn.outputs, None
    if out.is_float and len(eqn.moving) > 1:
        pattern = _quotient(out.dtype)
        if eqn.primitive is pattern.equations[-1].primitive:
            quotient = match(pattern, out, producer)
    if quotient is None or shape_of(quotient[0]) != out.shape:
        return None
    x, chain = quotient[0], []
    while (made := producer.get(x)) and made.primitive in MOVES and made.primitive in PICKS:
        chain.insert(0, made)
        x = made.inputs[0]
    if made is None or made.primitive is not jp.exp_p:
        return None
    total = reduction(quotient[1], producer)
    if total is None or (total.power, total.scale) != (1, 1) or total.eqn.inputs[0] is not x:
        return None
    if total.eqn.primitive is not jp.reduce_sum_p or not agree(
        groups_of(quotient[0], x, total.groups, producer), total.places
    ):
        return None
    axes = total.eqn.params["axes"]
    entries = _unshifted(made.inputs[0], axes, producer)
    first = dataclasses.replace(
        _again(made, entries), primitive=activations.softmax, params={"axes": axes}
    )
    found = [first]
    for each in chain:
        found.append(_again(each, found[-1].outputs[0]))
    return _ending(found, eqn)


def _unshifted(x: Atom, axes: tuple[int, ...], producer) -> Atom:
    """Without the maximum over the axes that was subtracted."""
    aval = jax.ShapeDtypeStruct(x.shape, x.dtype)  # pyright: ignore
    for highest in (
        lambda x: x.max(axes, keepdims=True),
        lambda x: jnp.expand_dims(x.max(axes), axes),
    ):
        pattern = flatten(lambda x, of=highest: x - of(x), [aval], [True])
        found = match(pattern, x, producer)  # pyright: ignore
        if found is not None:
            return found[0]
    return x


# ---------------------------------------------------------------- an exponential undone


def _undone(eqn: Equation, producer) -> list[Equation] | None:
    """``log`` of picked probabilities as those picked of `log_softmax`; and the reverse."""
    if eqn.primitive not in (jp.log_p, jp.exp_p):
        return None
    x, steps = eqn.inputs[0], []
    while (made := producer.get(x)) and (eqn.primitive, made.primitive) not in UNDOES:
        step = _step(made, eqn.primitive, producer)
        if step is None:
            return None
        steps.insert(0, step)
        x = next(iter(made.moving.values()))
    if made is None:
        return None
    found = [_again(made, made.inputs[0])]
    found[0] = dataclasses.replace(found[0], primitive=UNDOES[eqn.primitive, made.primitive])
    for step in steps:
        found += step(found[-1].outputs[0])
    return _ending(found, eqn)


def _step(made: Equation, undoes, producer) -> Callable[[Var], list[Equation]] | None:
    """What an equation on probabilities is for their logarithms."""
    if made.primitive is jp.gather_p and "FILL" in str(made.params["mode"]):
        return None
    if made.primitive in PICKS:
        return lambda x: [_again(made, x)] if list(made.moving) == [0] else []
    if undoes is not jp.log_p or made.primitive not in AMONG_LOGARITHMS or len(made.moving) > 1:
        return None
    numbers = [number(atom, producer) for atom in made.inputs if not atom.uncertain]
    if any(n is None or n <= 0 for n in numbers):
        return None
    of = functools.partial(AMONG_LOGARITHMS[made.primitive], *(math.log(n) for n in numbers))

    def spell(x: Var) -> list[Equation]:
        graph = flatten(of, [jax.ShapeDtypeStruct(x.shape, x.dtype)], [True])
        (out,) = made.outputs
        return spliced(graph, (x,), _again(made, made.inputs[0]), {})

    return spell


# Of the logarithm of a number p, and those of known ones.
AMONG_LOGARITHMS: dict[Any, Callable[..., Any]] = {
    jp.max_p: lambda c, x: jnp.maximum(x, c),
    jp.min_p: lambda c, x: jnp.minimum(x, c),
    activations.clip: lambda low, high, x: jnp.clip(x, low, high),
    # log(p + c)
    jp.add_p: lambda c, x: jax.nn.softplus(x - c) + c,
    jp.mul_p: lambda c, x: x + c,
    jp.div_p: lambda c, x: x - c,
}
