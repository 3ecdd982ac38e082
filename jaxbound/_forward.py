"""The walk up with linear bounds: every value between two affine functions of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._arithmetic import ends
from jaxbound._graph import trace_flat
from jaxbound._interval import Interval, Region, outward
from jaxbound._interval_rules import interval_rules
from jaxbound._linear import support
from jaxbound._linear_rules import linear_operands
from jaxbound._program import Equation, Graph, Var, read
from jaxbound._relaxations import Relaxation


class Affine(NamedTuple):
    """Linear bounds with all inputs flattened into a leading axis of the coefficients.

    ``coeffs`` and ``offset`` are pairs of ends; coefficients ``[n, *shape]``, n elements of input.
    """

    coeffs: Interval
    offset: Interval

    @property
    def exact(self) -> bool:
        return self.coeffs.lower is self.coeffs.upper and self.offset.lower is self.offset.upper

    def interval(self, regions: Sequence[Region]) -> Interval:
        """``lower <= value <= upper`` for inputs in the regions."""
        lower, upper, start = self.offset.lower, self.offset.upper, 0
        for region in regions:
            stop = start + math.prod(region.shape)
            low, high = (c[start:stop].reshape(stop - start, -1) for c in ends(self.coeffs))
            lower = lower - support(region, -low, axis=0).reshape(lower.shape)
            upper = upper + support(region, high, axis=0).reshape(upper.shape)
            start = stop
        return outward(lower, upper)


def identities(inputs: dict[Var, Region]) -> dict[Var, Affine]:
    """The inputs as functions of themselves."""
    total, start, found = sum(var.size for var in inputs), 0, {}
    for var in inputs:
        coeffs = jnp.eye(total, var.size, -start, dtype=var.dtype).reshape(total, *var.shape)
        offset = jnp.zeros(var.shape, var.dtype)
        found[var] = Affine(Interval(coeffs, coeffs), Interval(offset, offset))
        start += var.size
    return found


def linear_walk(
    graph: Graph,
    inputs: dict[Var, Affine],
    env: dict[Var, Any],
    relax: Callable[[Equation], Relaxation] | None,
) -> Callable[[Var], Affine]:
    """A function that gives the linear bounds of any variable, walking up as far as it must.

    ``env`` has to hold known values, and by then what the relaxations read; ``relax`` None: there are none.
    """
    found, remaining = dict(inputs), iter(graph.equations)
    total = next((affine.coeffs.shape[0] for affine in inputs.values()), 0)

    def bounds(var: Var) -> Affine:
        while var not in found:
            eqn = next(remaining)
            if eqn.moving:
                found.update(zip(eqn.outputs, step(eqn), strict=True))
        return found[var]

    def step(eqn: Equation) -> list[Affine]:
        linear = linear_operands(eqn)
        if linear is None:
            assert relax is not None
            moving = [found[v] for v in eqn.moving.values() if v.is_float]
            return _relaxed(eqn, relax(eqn), moving, total)
        moving = eqn.moving
        operands = [
            found[moving[i]] if i in moving else read(env, a) for i, a in enumerate(eqn.inputs)
        ]
        return _through(eqn, linear, operands)

    return bounds


def _through(eqn: Equation, linear: Sequence[int], operands: list[Any]) -> list[Affine]:
    """An affine equation: the interval rule, on the offset and on every coefficient."""
    moving = [i for i, op in enumerate(operands) if isinstance(op, Affine)]
    exact = all(operands[i].exact for i in moving)

    def apply(parts: list[Interval], known: list[Any]) -> list[Interval]:
        full = list(known)
        for i, part in zip(moving, parts, strict=True):
            full[i] = part.lower if exact else part
        outs = (
            eqn.bind(*full) if exact else interval_rules[eqn.primitive].bound(*full, **eqn.params)
        )
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
    """A relaxed equation: its two affine functions, walked like any affine program."""
    below, above = (
        _compose(eqn, fn, operands, total) for fn in (relaxation.lower, relaxation.upper)
    )
    return [
        Affine(Interval(b.coeffs.lower, a.coeffs.upper), Interval(b.offset.lower, a.offset.upper))
        for b, a in zip(below, above, strict=True)
    ]


def _compose(eqn: Equation, fn, operands: list[Affine], total: int) -> list[Affine]:
    avals = [jax.ShapeDtypeStruct(op.offset.shape, op.offset.dtype) for op in operands]
    graph = trace_flat(fn, avals, [True] * len(avals))
    env: dict[Var, Any] = {}
    for inner in graph.equations:
        if not inner.moving:
            env |= inner.evaluate(env)
    bounds = linear_walk(graph, dict(zip(graph.inputs, operands, strict=True)), env, None)
    found = []
    for atom, var in zip(graph.outputs, eqn.outputs, strict=True):
        if isinstance(atom, Var) and atom.uncertain:
            found.append(bounds(atom))
        else:  # a constant line
            zero, value = (
                jnp.zeros((total, *var.shape), var.dtype),
                jnp.broadcast_to(read(env, atom), var.shape),
            )
            found.append(Affine(Interval(zero, zero), Interval(value, value)))
    return found
