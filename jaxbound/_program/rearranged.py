"""Recognises a softmax with its elements rearranged, and a logarithm (or exponential) that undoes it after that."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._program import activations
from jaxbound._program.graph import Atom, Equation, Graph, Var
from jaxbound._program.inline import aval, flatten
from jaxbound._program.match import match, number
from jaxbound._program.normalisation import MOVES, agree, groups_of, reduction
from jaxbound._program.spellings import spliced

# Primitives that pick and rearrange elements of their first operand.
PICKS = frozenset(
    {jp.reshape_p, jp.squeeze_p, jp.transpose_p, jp.broadcast_in_dim_p, jp.slice_p, jp.rev_p}
    | {jp.dynamic_slice_p, jp.gather_p}
)
# A primitive, the activation whose exponential or logarithm it undoes, and the activation that both are together.
UNDOES = {
    (jp.log_p, activations.softmax): activations.log_softmax,
    (jp.exp_p, activations.log_softmax): activations.softmax,
}


def rearranged(graph: Graph) -> Graph:
    """Replaces every match, and drops pairs of transposes that cancel; returns the graph itself if there is none."""
    producer = dict(graph.producer)
    found, changed, same = [], False, {}
    for eqn in graph.equations:
        if same:
            inputs = tuple(same.get(atom, atom) for atom in eqn.inputs)
            eqn = dataclasses.replace(eqn, inputs=inputs)
            producer |= dict.fromkeys(eqn.outputs, eqn)
        before = producer.get(eqn.inputs[0]) if eqn.primitive is jp.transpose_p else None
        if before is not None and before.primitive is jp.transpose_p and _turns_back(before, eqn):
            same[eqn.outputs[0]], changed = before.inputs[0], True
            continue
        new = (_softmax(eqn, producer) or _undone(eqn, producer)) if eqn.moving else None
        changed |= new is not None
        for each in new or ():
            producer |= dict.fromkeys(each.outputs, each)
        found += new or [eqn]
    outputs = tuple(same.get(atom, atom) for atom in graph.outputs)
    again = dataclasses.replace(graph, equations=tuple(found), outputs=outputs)
    return again if changed else graph


def _turns_back(one: Equation, other: Equation) -> bool:
    order = [one.params["permutation"][axis] for axis in other.params["permutation"]]
    return order == list(range(len(order)))


def _again(eqn: Equation, x: Atom) -> Equation:
    """Returns the equation with another first operand, and an output of its own."""
    (out,) = eqn.outputs
    outputs = (Var(out.shape, out.dtype, True),)
    return dataclasses.replace(eqn, inputs=(x, *eqn.inputs[1:]), outputs=outputs)


def _ending(equations: list[Equation], eqn: Equation) -> list[Equation]:
    """Returns the equations, the last of which now has the output of ``eqn``."""
    return [*equations[:-1], dataclasses.replace(equations[-1], outputs=eqn.outputs)]


# ---------------------------------------------------------------- a softmax


def _softmax(eqn: Equation, producer) -> list[Equation] | None:
    """Returns ``e / sum(e)`` as a softmax, where e is an exponential, rearranged in the numerator; else None."""
    if eqn.primitive is not jp.div_p or len(eqn.moving) < 2 or not eqn.outputs[0].is_float:
        return None
    (x, divisor), chain = eqn.inputs, []
    while (made := producer.get(x)) and made.primitive in MOVES and made.primitive in PICKS:
        chain.insert(0, made)
        x = made.inputs[0]
    if made is None or made.primitive is not jp.exp_p:
        return None
    total = reduction(divisor, producer)
    if total is None or (total.power, total.scale) != (1, 1) or total.eqn.inputs[0] is not x:
        return None
    if total.eqn.primitive is not jp.reduce_sum_p or not agree(
        groups_of(eqn.inputs[0], x, total.groups, producer), total.places
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
    """Returns z if x is ``z - max(z)`` over the axes, else x: both have the same softmax."""
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
    """Returns ``log`` of picked probabilities as the picked values of `log_softmax`; and the reverse, with ``exp``."""
    if eqn.primitive not in (jp.log_p, jp.exp_p):
        return None
    x, steps = eqn.inputs[0], []
    while (made := producer.get(x)) and (eqn.primitive, made.primitive) not in UNDOES:
        step = _step(made, eqn, producer)
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


def _step(made: Equation, eqn: Equation, producer) -> Callable[[Var], list[Equation]] | None:
    """Returns how ``made``, an equation on probabilities p, acts on ``log p``: as ``step(log p) = log(made(p))``.

    ``eqn`` is the logarithm; or it is an exponential, and p and ``log p`` exchange their roles. None: unknown.
    """
    if len(made.moving) > 1:
        return None
    if made.primitive is jp.select_n_p and 0 not in made.moving:
        return lambda x: _chosen(made, x, eqn)
    if made.primitive in PICKS and 0 not in made.moving:
        return None
    if made.primitive is jp.gather_p and "FILL" in str(made.params["mode"]):
        fill = made.params["fill_value"]
        if fill is not None and eqn.primitive is jp.log_p:
            fill = math.log(fill) if fill > 0 else -math.inf
        elif fill is not None:
            fill = math.exp(fill)
        filled = functools.partial(jp.gather_p.bind, **made.params | {"fill_value": fill})
        return _spelt(filled, made)
    if made.primitive in PICKS:
        return lambda x: [_again(made, x)]
    if eqn.primitive is not jp.log_p or made.primitive not in AMONG_LOGARITHMS:
        return None
    numbers = [number(atom, producer) for atom in made.inputs if not atom.uncertain]
    divided = made.primitive is not jp.div_p or 0 in made.moving
    if not divided or any(n is None or n <= 0 for n in numbers):
        return None
    logs = [math.log(n) for n in numbers if n is not None]
    of = AMONG_LOGARITHMS[made.primitive]
    return _spelt(lambda x, *_: of(x, *logs), made)


def _spelt(fn, made: Equation) -> Callable[[Var], list[Equation]]:
    """Returns a step that computes the output of ``made`` as ``fn`` of the uncertain value and the known operands."""

    def equations(x: Var) -> list[Equation]:
        known = [atom for atom in made.inputs if not atom.uncertain]
        avals = [jax.ShapeDtypeStruct(x.shape, x.dtype), *map(aval, known)]
        graph = flatten(fn, avals, [True] + [False] * len(known))
        return spliced(graph, (x, *known), _again(made, made.inputs[0]), {})

    return equations


def _chosen(made: Equation, x: Var, eqn: Equation) -> list[Equation]:
    """Returns a choice by a known predicate, with x as the uncertain case, and ``eqn`` applied to the known cases."""
    found, inputs = [], [made.inputs[0]]
    for case in made.inputs[1:]:
        if not case.uncertain:
            (out,) = made.outputs
            value = Var(out.shape, out.dtype, False)
            found.append(dataclasses.replace(eqn, inputs=(case,), outputs=(value,)))
        inputs.append(x if case.uncertain else value)  # pyright: ignore
    again = _again(made, x)
    return [*found, dataclasses.replace(again, inputs=tuple(inputs))]


# The logarithm of what each makes of a number and a known one, as a function of the logarithms of both.
AMONG_LOGARITHMS: dict[Any, Callable[..., Any]] = {
    jp.max_p: jnp.maximum,
    jp.min_p: jnp.minimum,
    activations.clip: jnp.clip,
    # log(p + c) = softplus(log p - log c) + log c
    jp.add_p: lambda x, c: jax.nn.softplus(x - c) + c,
    jp.mul_p: jnp.add,
    jp.div_p: jnp.subtract,
}
