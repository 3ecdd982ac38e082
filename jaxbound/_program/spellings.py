"""Replaces functions of one variable that are written by hand by the references that they equal.

Patterns are what the running JAX traces. Both are equal in real arithmetic; the reference never overflows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._program.activations import log_cosh
from jaxbound._program.graph import Atom, Equation, Graph, Var
from jaxbound._program.inline import flatten
from jaxbound._program.match import match


class Spelling(NamedTuple):
    """Holds a reference, and the variants that compute the same; their operands are ``uncertain`` or known."""

    reference: Callable[..., Any]
    variants: tuple[Callable[..., Any], ...]
    uncertain: tuple[bool, ...] = (True,)


def _flat_softplus(z):
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


def _where_positive(above, below):
    """Yields the ways to write a choice by the sign, where 0 may be on either side."""
    for compare in (lax.gt, lax.ge):
        yield lambda z, compare=compare: jnp.where(
            compare(z, jnp.zeros_like(z)), above(z), below(z)
        )
    for compare in (lax.lt, lax.le):
        yield lambda z, compare=compare: jnp.where(
            compare(z, jnp.zeros_like(z)), below(z), above(z)
        )


def _tanh_of_gelu(z):
    return lax.tanh((2 / math.pi) ** 0.5 * (z + 0.044715 * z**3))


# The ways to write ``z (1 + tail(z)) / 2``.
_HALVES = (
    lambda z, tail: 0.5 * z * (1 + tail(z)),
    lambda z, tail: 0.5 * (z * (1 + tail(z))),
    lambda z, tail: z * (1 + tail(z)) / 2,
    lambda z, tail: z * (0.5 * (1 + tail(z))),
)

# The first match wins.
SPELLINGS = (
    Spelling(lax.logistic, (lambda z: jnp.exp(z) / (1 + jnp.exp(z)),)),
    Spelling(
        lax.tanh,
        (
            lambda z: (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z)),
            lambda z: lax.sinh(z) / lax.cosh(z),
        ),
    ),
    Spelling(
        lambda z: lax.tanh(z / 2),
        (
            lambda z: (jnp.exp(z) - 1) / (jnp.exp(z) + 1),
            lambda z: jnp.expm1(z) / (jnp.exp(z) + 1),
            lambda z: jnp.expm1(z) / (jnp.expm1(z) + 2),
        ),
    ),
    Spelling(lambda z: -lax.tanh(z / 2), (lambda z: (1 - jnp.exp(z)) / (1 + jnp.exp(z)),)),
    Spelling(lambda z: lax.logistic(-z), (lambda z: 1 / (1 + jnp.exp(z)),)),
    *(
        Spelling(
            lambda z, y: y * lax.logistic(-z), (lambda z, y: y / (1 + jnp.exp(z)),), (True, of)
        )
        for of in (True, False)
    ),
    Spelling(
        jax.nn.softplus,
        (
            lambda z: jnp.log1p(jnp.exp(z)),
            lambda z: jnp.log(1 + jnp.exp(z)),
            _flat_softplus,
        ),
    ),
    Spelling(lambda z: -jax.nn.softplus(-z), (lambda z: jnp.log(lax.logistic(z)),)),
    Spelling(
        lambda z: -jax.nn.softplus(z),
        (lambda z: jnp.log(1 - lax.logistic(z)), lambda z: jnp.log1p(-lax.logistic(z))),
    ),
    Spelling(jax.scipy.special.entr, (lambda z: -z * jnp.log(z),)),
    Spelling(
        log_cosh.bind,
        (
            lambda z: jnp.log(jnp.cosh(z)),
            lambda z: jnp.log((jnp.exp(z) + jnp.exp(-z)) / 2),
        ),
    ),
    Spelling(
        jax.nn.elu,
        (
            jax.nn.celu,
            *_where_positive(lambda z: z, lambda z: jnp.exp(z) - 1),
            *_where_positive(lambda z: z, jnp.expm1),
        ),
    ),
    Spelling(lambda z: jax.nn.silu(1.702 * z) / 1.702, (lambda z: z * lax.logistic(1.702 * z),)),
    Spelling(
        lambda z: jax.nn.gelu(z, approximate=False),
        tuple(
            functools.partial(times, tail=tail)
            for times in _HALVES
            for tail in (lambda z: lax.erf(z / 2**0.5), lambda z: lax.erf(z * 0.5**0.5))
        ),
    ),
    Spelling(jax.nn.gelu, tuple(functools.partial(times, tail=_tanh_of_gelu) for times in _HALVES)),
)


def spelled(graph: Graph) -> Graph:
    """Replaces every match by its reference; returns the graph itself if there is none."""
    producer, found, changed = dict(graph.producer), [], False
    for eqn in graph.equations:
        new = _respelled(eqn, graph.producer)
        if new is None and changed:
            new = _respelled(eqn, producer)
        changed |= new is not None
        for each in new or ():
            producer |= dict.fromkeys(each.outputs, each)
        found += [eqn] if new is None else new
    return dataclasses.replace(graph, equations=tuple(found)) if changed else graph


def _respelled(eqn: Equation, producer) -> list[Equation] | None:
    """Returns the equations of the reference that ``eqn`` is the end of a variant of; None if there is none."""
    (out, *rest) = eqn.outputs
    if not eqn.moving or rest or not out.is_float:
        return None
    for pattern, spelling in _patterns(out.dtype).get(eqn.primitive, ()):
        atoms = match(pattern, out, producer)
        if atoms is not None and all(
            a.shape == out.shape for a in atoms if isinstance(a, Var) and a.uncertain
        ):
            reference = _graph(spelling.reference, out.shape, out.dtype, spelling.uncertain)
            return spliced(reference, atoms, eqn, producer)
    return None


@functools.cache
def _patterns(dtype) -> dict[Any, list[tuple[Graph, Spelling]]]:
    """Returns the patterns by the primitive that they end with; as they are elementwise, those of scalars suffice."""
    found: dict[Any, list[tuple[Graph, Spelling]]] = {}
    for spelling in SPELLINGS:
        for variant in spelling.variants:
            pattern = _graph(variant, (), dtype, spelling.uncertain)
            found.setdefault(pattern.equations[-1].primitive, []).append((pattern, spelling))
    return found


def _graph(fn, shape, dtype, uncertain: tuple[bool, ...]) -> Graph:
    avals = [jax.ShapeDtypeStruct(shape if u else (), dtype) for u in uncertain]
    return flatten(fn, avals, uncertain)


def spliced(graph: Graph, atoms: tuple[Atom, ...], eqn: Equation, producer) -> list[Equation]:
    """Returns the equations of ``graph`` on ``atoms``, with the outputs of ``eqn``; ``-(-x)`` becomes x."""
    env: dict[Any, Atom] = dict(zip(graph.inputs, atoms, strict=True)) | dict(
        zip(graph.outputs, eqn.outputs, strict=True)
    )
    found = []
    for each in graph.equations:
        inputs = tuple(env.get(atom, atom) for atom in each.inputs)
        before = producer.get(inputs[0])
        if each.primitive is jp.neg_p and before is not None and before.primitive is jp.neg_p:
            env[each.outputs[0]] = before.inputs[0]
            continue
        outputs = tuple(env.setdefault(v, Var(v.shape, v.dtype, v.uncertain)) for v in each.outputs)
        found.append(
            dataclasses.replace(
                each, inputs=inputs, outputs=outputs, layer=eqn.layer, sources=eqn.sources
            )
        )
    return found
