"""Walks forward with linear bounds: keeps every value between two affine functions of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval, outward
from jaxbound._bounds.regions import Region
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._program.trace import trace_flat
from jaxbound._rules.arithmetic import ends, times
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import Relaxation
from jaxbound._rules.relaxing import Lines


class Affine(NamedTuple):
    """Holds linear bounds: the ends of ``coeffs [n, *shape]``, by the n elements of all inputs, and of ``offset``."""

    coeffs: Interval
    offset: Interval

    @property
    def exact(self) -> bool:
        return self.coeffs.lower is self.coeffs.upper and self.offset.lower is self.offset.upper

    def interval(self, regions: Sequence[Region]) -> Interval:
        """Concretizes the bounds: ``lower <= value <= upper`` for inputs in the regions."""
        lower, upper, start = self.offset.lower, self.offset.upper, 0
        for region in regions:
            stop = start + math.prod(region.shape)
            low, high = (c[start:stop].reshape(stop - start, -1) for c in ends(self.coeffs))
            lower = lower - region.support(-low, axis=0).reshape(lower.shape)
            upper = upper + region.support(high, axis=0).reshape(upper.shape)
            start = stop
        return outward(lower, upper)


def linear_walk(
    graph: Graph, inputs: dict[Var, Affine], known: Mapping[Var, Any]
) -> Callable[[Var, Lines], Affine]:
    """Returns a function that gives the linear bounds of a variable by the relaxations of the equations before it.

    It walks forward only as far as it must, and keeps what it finds. ``known`` has to hold the known values.
    """
    found, remaining = dict(inputs), iter(graph.equations)
    total = next((affine.coeffs.shape[0] for affine in inputs.values()), 0)

    def bounds(var: Var, lines: Lines) -> Affine:
        while var not in found:
            eqn = next(remaining)
            if eqn.moving:
                found.update(zip(eqn.outputs, step(eqn, lines), strict=True))
        return found[var]

    def step(eqn: Equation, lines: Lines) -> list[Affine]:
        moving, linear = eqn.moving, linear_operands(eqn)
        if linear is None:
            operands = [found[v] for v in moving.values() if v.is_float]
            return _relaxed(eqn, lines[eqn.outputs[0]], operands, total)
        operands = [
            found[moving[i]] if i in moving else read(known, a) for i, a in enumerate(eqn.inputs)
        ]
        return _through(eqn, linear, operands)

    return bounds


def _through(eqn: Equation, linear: Sequence[int], operands: list[Any]) -> list[Affine]:
    """Bounds an affine equation: applies its interval rule to the offset and to every coefficient."""
    moving = [i for i, op in enumerate(operands) if isinstance(op, Affine)]
    exact = all(operands[i].exact for i in moving)

    def apply(parts: list[Interval], known: list[Any]) -> list[Any]:
        full = list(known)
        for i, part in zip(moving, parts, strict=True):
            full[i] = part.lower if exact else part
        if exact:  # an offset may be a mask of -inf, and 0 times that has to be 0
            outs = times(*full) if eqn.primitive is jp.mul_p else eqn.bind(*full)
        else:
            outs = interval_rules[eqn.primitive].bound(*full, **eqn.params)
        return outs if isinstance(outs, list) else [outs]

    # The constant part of an affine equation belongs to the offset alone.
    slopes = [
        jnp.zeros_like(op) if i in linear and i not in moving else op
        for i, op in enumerate(operands)
    ]
    coeffs = jax.vmap(lambda *parts: apply(list(parts), slopes))(
        *(operands[i].coeffs for i in moving)
    )
    offset = apply([operands[i].offset for i in moving], operands)
    if exact:
        return [Affine(Interval(c, c), Interval(o, o)) for c, o in zip(coeffs, offset, strict=True)]
    return [Affine(c, outward(o.lower, o.upper)) for c, o in zip(coeffs, offset, strict=True)]


def _relaxed(
    eqn: Equation, relaxation: Relaxation, operands: list[Affine], total: int
) -> list[Affine]:
    """Bounds a relaxed equation by its two affine functions, walked like any affine graph."""
    below, above = (
        _compose(eqn, fn, operands, total) for fn in (relaxation.lower, relaxation.upper)
    )
    return [
        Affine(Interval(b.coeffs.lower, a.coeffs.upper), Interval(b.offset.lower, a.offset.upper))
        for b, a in zip(below, above, strict=True)
    ]


def _compose(eqn: Equation, fn, operands: list[Affine], total: int) -> list[Affine]:
    """Returns an affine function of operands that are between affine functions of the inputs."""
    avals = [jax.ShapeDtypeStruct(op.offset.shape, op.offset.dtype) for op in operands]
    graph = trace_flat(fn, avals, [True] * len(avals))
    env = graph.known({})
    bounds = linear_walk(graph, dict(zip(graph.inputs, operands, strict=True)), env)
    found = []
    for atom, var in zip(graph.outputs, eqn.outputs, strict=True):
        if isinstance(atom, Var) and atom.uncertain:
            found.append(bounds(atom, {}))
        else:  # fn is constant here
            zero, value = (
                jnp.zeros((total, *var.shape), var.dtype),
                jnp.broadcast_to(read(env, atom), var.shape),
            )
            found.append(Affine(Interval(zero, zero), Interval(value, value)))
    return found
