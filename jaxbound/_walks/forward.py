"""Walks forward with linear bounds: keeps every value between two affine functions of the inputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval, outward
from jaxbound._bounds.regions import Region
from jaxbound._locality.crop import Crop
from jaxbound._locality.reach import cone
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._program.trace import trace_flat
from jaxbound._rules.arithmetic import ends, times
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import Relaxation
from jaxbound._walks.chunks import add_chunks, check_fits, map_chunks


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


def seeds(inputs: dict[Var, Region], directions) -> dict[Var, Affine]:
    """Returns every input as a function of the elements ``directions``, counted through all inputs; 0 beyond them."""
    start, found = 0, {}
    for var in inputs:
        coeffs = jax.nn.one_hot(directions - start, var.size, dtype=var.dtype)
        found[var] = _linear(coeffs.reshape(-1, *var.shape))
        start += var.size
    return found


def _linear(coeffs) -> Affine:
    offset = jnp.zeros(coeffs.shape[1:], coeffs.dtype)
    return Affine(Interval(coeffs, coeffs), Interval(offset, offset))


class Forward:
    """Bounds every variable of a graph by linear functions of the inputs.

    Walks forward for a few elements of the inputs at a time, anew for every variable; in a
    convolutional net for blocks of elements, through the windows that these reach.

    Args:
      graph, regions, env, alphas: as of `Walk`.
      relaxing: ``relaxing(env, alphas=alphas)`` gives the relaxations on the intervals of ``env``.
      at_once: ``at_once(graph)`` says how many elements of the inputs to treat at a time.
      kept: up to so many elements of the inputs, all coefficients of all variables are kept.
      examples: of the batch, side by side.
    """

    def __init__(
        self,
        graph: Graph,
        regions: dict[Var, Region],
        env,
        *,
        alphas,
        relaxing,
        at_once,
        kept,
        examples,
    ):
        self.graph, self.regions, self.env = graph, regions, env
        self.alphas, self.relaxing = alphas, relaxing
        self.at_once, self.examples = at_once, examples
        self.total = sum(var.size for var in regions)
        self.whole = self.total <= kept
        self._relax = relaxing(env, alphas=alphas)
        self._all, self._none = (self._walk(jnp.arange(n), self._relax) for n in (self.total, 0))
        self.cone = functools.cache(functools.partial(cone, graph))

    def _walk(self, directions, relax) -> Callable[[Var], Affine]:
        return linear_walk(self.graph, seeds(self.regions, directions), self.env, relax)

    def _offset(self, var: Var) -> Interval:
        """Returns the offset; called before the loops over coefficients, so relaxations are made outside of them."""
        if self.cone(var) is None:
            return self._none(var).offset
        # Uses the current intervals, as the blocks do: the cached relaxations may be older.
        return self._walk(jnp.arange(0), self.relaxing(self.env, alphas=self.alphas))(var).offset

    def linear(self, var: Var) -> Affine:
        """Returns the linear bounds of ``var`` with all coefficients."""
        reached = self.cone(var)
        if reached is None and self.whole:
            return self._all(var)
        check_fits(
            f"forward linear bounds of {var.size} values, {self.total} coefficients each, lower and upper,",
            2 * self.total * var.size * self.examples,
            var.dtype,
            "bound fewer outputs, or by a method without them (jb.crown_ibp, jb.crown)",
        )
        offset = self._offset(var)
        if reached is None:
            some = lambda directions: ends(self._walk(directions, self._relax)(var).coeffs)
            low, high = map_chunks(some, self.at_once(self.graph), self.total)
        else:
            low, high = self._from_blocks(reached)
        return Affine(Interval(low, high), offset)

    def interval(self, var: Var) -> Interval:
        """Returns the interval of ``var``: ``lower <= value <= upper`` for inputs in the regions."""
        regions, reached = list(self.regions.values()), self.cone(var)
        if reached is None and self.whole:
            return self._all(var).interval(regions)
        offset, pairs = self._offset(var), functools.partial(zip, regions, strict=True)
        if reached is None:
            some = functools.partial(self._shares, var)
            at_once, count = self.at_once(self.graph), self.total
        else:
            some = functools.partial(self._shares_of_blocks, reached)
            at_once, count = self._blocks_at_once(reached), math.prod(reached.counts)

        def add(*pair):
            both = jax.tree.map(lambda *found: jnp.stack(found), *pair)
            return [[region.merged(x) for region, x in pairs(side)] for side in both]

        sums = add_chunks(some, add, at_once, count)
        low, high = (sum(region.supported(x) for region, x in pairs(side)) for side in sums)
        low, high = jnp.reshape(low, var.shape), jnp.reshape(high, var.shape)
        return outward(offset.lower - low, offset.upper + high)

    def _shares(self, var: Var, directions):
        """Returns what some elements of the inputs add to the supports of both ends, per region."""
        low, high = ends(self._walk(directions, self._relax)(var).coeffs)
        found, first = [], 0
        for region in self.regions.values():
            local = directions - first
            size = math.prod(region.shape)
            here = ((0 <= local) & (local < size)).reshape(-1, *[1] * len(var.shape))
            sides = (jnp.where(here, side, 0).reshape(len(local), -1) for side in (-low, high))
            part = region.part(functools.partial(jnp.take, indices=local, mode="clip"))
            found.append([part.shares(side, 0) for side in sides])
            first += size
        return list(map(list, zip(*found, strict=True)))

    # ------------------------------------------------------------ in blocks

    def _blocks_at_once(self, reached: Crop) -> int:
        return max(1, self.at_once(reached.graph) // reached.graph.inputs[0].size)

    def _of_block(self, reached: Crop, index):
        """Returns a block's place and region, and the coefficients of the target's window: 0 beyond the last block."""
        place = jnp.unravel_index(index, reached.counts)
        env, regions, alphas = reached.at(place, self.env, self.regions, self.alphas)
        ((source, region),) = regions.items()
        inside = reached.inside(source, place) & (index < math.prod(reached.counts))
        seed = jnp.diag(inside.ravel().astype(source.dtype)).reshape(-1, *source.shape)
        relax = self.relaxing(env, alphas=alphas)
        walk = linear_walk(reached.graph, {source: _linear(seed)}, env, relax)
        return place, region, ends(walk(reached.target).coeffs)

    def _shares_of_blocks(self, reached: Crop, indices):
        """Returns what some blocks of the one input add to the supports of both ends."""

        def some(index):
            place, region, (low, high) = self._of_block(reached, index)
            shares = (region.shares(c.reshape(len(c), -1), 0) for c in (-low, high))
            return [reached.embedded(share, place) for share in shares]

        (region,) = self.regions.values()
        return [[region.merged(side)] for side in jax.vmap(some)(indices)]

    def _from_blocks(self, reached: Crop):
        """Returns all coefficients, lower and upper, block by block."""

        def some(index):
            place, _, sides = self._of_block(reached, index)
            return tuple(reached.embedded(c, place) for c in sides)

        count = math.prod(reached.counts)
        found = map_chunks(jax.vmap(some), self._blocks_at_once(reached), count)
        return tuple(map(reached.by_elements, found))


def linear_walk(
    graph: Graph,
    inputs: dict[Var, Affine],
    env: dict[Var, Any],
    relax: Callable[[Equation], Relaxation] | None,
) -> Callable[[Var], Affine]:
    """Returns a function that gives the linear bounds of any variable, walking forward only as far as it must.

    ``env`` has to hold the known values, and what a relaxation reads once it is met; ``relax`` None: all is affine.
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
    env: dict[Var, Any] = {}
    for inner in graph.equations:
        if not inner.moving:
            env |= inner.evaluate(env)
    bounds = linear_walk(graph, dict(zip(graph.inputs, operands, strict=True)), env, None)
    found = []
    for atom, var in zip(graph.outputs, eqn.outputs, strict=True):
        if isinstance(atom, Var) and atom.uncertain:
            found.append(bounds(atom))
        else:  # fn is constant here
            zero, value = (
                jnp.zeros((total, *var.shape), var.dtype),
                jnp.broadcast_to(read(env, atom), var.shape),
            )
            found.append(Affine(Interval(zero, zero), Interval(value, value)))
    return found
