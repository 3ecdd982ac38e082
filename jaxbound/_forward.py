"""The walk up with linear bounds: every value between two affine functions of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._arithmetic import ends
from jaxbound._chunks import map_chunks
from jaxbound._graph import trace_flat
from jaxbound._interval import Interval, Region, outward, part_of
from jaxbound._interval_rules import interval_rules
from jaxbound._linear import added, shares, support, supported
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


def seeds(inputs: dict[Var, Region], directions) -> dict[Var, Affine]:
    """The inputs as functions of some of their elements, counted through all inputs; beyond them, of nothing."""
    start, found = 0, {}
    for var in inputs:
        coeffs = jax.nn.one_hot(directions - start, var.size, dtype=var.dtype)
        coeffs, offset = coeffs.reshape(-1, *var.shape), jnp.zeros(var.shape, var.dtype)
        found[var] = Affine(Interval(coeffs, coeffs), Interval(offset, offset))
        start += var.size
    return found


class Forward:
    """The linear bounds of every variable of a graph, by walks up for a few elements of the inputs at a time.

    ``env`` and ``relax`` as for `linear_walk`; ``at_once`` elements.
    """

    def __init__(self, graph: Graph, regions: dict[Var, Region], env, relax, at_once: int):
        self.regions, self.at_once = regions, at_once
        self.total = sum(var.size for var in regions)
        self._walk = lambda directions: linear_walk(graph, seeds(regions, directions), env, relax)
        self._all = self._walk(jnp.arange(self.total if self.whole else 0))

    @property
    def whole(self) -> bool:
        return self.total <= self.at_once

    def linear(self, var: Var) -> Affine:
        """With all coefficients."""
        if self.whole:
            return self._all(var)
        offset = self._all(var).offset  # first: makes the relaxations outside of the loop
        some = lambda directions: ends(self._walk(directions)(var).coeffs)
        return Affine(Interval(*map_chunks(some, self.at_once, self.total)), offset)

    def interval(self, var: Var) -> Interval:
        """``lower <= value <= upper`` for inputs in the regions."""
        if self.whole:
            return self._all(var).interval(list(self.regions.values()))
        regions, offset = list(self.regions.values()), self._all(var).offset  # first, too
        first, *starts = range(0, self.total, self.at_once)

        def add(so_far, start):
            found = self._shares(var, start)
            sums = [list(map(added, regions, *pair)) for pair in zip(so_far, found, strict=True)]
            return sums, None

        sums, _ = lax.scan(add, self._shares(var, first), jnp.array(starts))
        low, high = (sum(map(supported, regions, side)) for side in sums)
        return outward(offset.lower - low, offset.upper + high)

    def _shares(self, var: Var, start):
        """What the elements from ``start`` on add to the supports of both ends, per region."""
        directions = start + jnp.arange(self.at_once)
        low, high = ends(self._walk(directions)(var).coeffs)
        found, first = [], 0
        for region in self.regions.values():
            local = directions - first
            size = math.prod(region.shape)
            here = ((0 <= local) & (local < size)).reshape(-1, *[1] * len(var.shape))
            sides = (jnp.where(here, side, 0).reshape(len(local), -1) for side in (-low, high))
            part = part_of(region, local)
            found.append([[x.reshape(var.shape) for x in shares(part, c, 0)] for c in sides])
            first += size
        return list(map(list, zip(*found, strict=True)))


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
