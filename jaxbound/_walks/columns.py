"""Bounds values by linear functions of a few elements of the inputs at a time, or of all."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, outward
from jaxbound._bounds.regions import Region
from jaxbound._locality.crop import Crop
from jaxbound._locality.reach import cone
from jaxbound._program.graph import Graph, Var
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.relaxing import Choices, Lines, relax_all
from jaxbound._walks.chunks import KEPT_CHUNKS, add_chunks, check_fits, map_chunks, rows_at_once
from jaxbound._walks.forward import Affine, linear_walk


def seeds(inputs: dict[Var, Region], directions) -> dict[Var, Affine]:
    """Returns every input as a function of the elements ``directions``, counted through all inputs; 0 beyond them."""
    start, found = 0, {}
    for var in inputs:
        coeffs = jax.nn.one_hot(directions - start, var.size, dtype=var.dtype)
        found[var] = _linear(coeffs.reshape(len(directions), *var.shape))
        start += var.size
    return found


def _linear(coeffs) -> Affine:
    offset = jnp.zeros(coeffs.shape[1:], coeffs.dtype)
    return Affine(Interval(coeffs, coeffs), Interval(offset, offset))


class Forward:
    """Bounds every variable of a graph by linear functions of the inputs.

    Walks forward for a few elements of the inputs at a time, anew for every variable; in a
    convolutional net for blocks of elements, through the windows that these reach. Its methods take
    the intervals and the relaxations before a variable; what is kept of a variable never changes.

    Args:
      graph, regions, choices, chunk_size, examples: as of `Context`.
      known: the arrays of known variables.
    """

    def __init__(self, graph: Graph, regions, known, choices: Choices, chunk_size, examples: int):
        self.graph, self.regions, self.known, self.choices = graph, regions, known, choices
        self.chunk_size, self.examples = chunk_size, examples
        self.total = sum(var.size for var in regions)
        # Up to so many elements of the inputs, all coefficients of all variables are kept.
        kept = self._at_once(graph) * (1 if chunk_size else KEPT_CHUNKS)
        self.whole = self.total <= kept
        self.cone = functools.cache(functools.partial(cone, graph))

    @functools.cached_property
    def _all(self) -> Callable[[Var, Lines], Affine]:
        return self._walk(jnp.arange(self.total))

    @functools.cached_property
    def _none(self) -> Callable[[Var, Lines], Affine]:
        return self._walk(jnp.arange(0))

    def _at_once(self, graph: Graph) -> int:
        return self.chunk_size or rows_at_once(graph, self.examples)

    def _walk(self, directions) -> Callable[[Var, Lines], Affine]:
        return linear_walk(self.graph, seeds(self.regions, directions), self.known)

    def _offset(self, var: Var, env: Mapping[Var, Any], lines: Lines) -> Interval:
        """Returns the offset of ``var``."""
        if self.cone(var) is None:
            return self._none(var, lines).offset
        # As the blocks do, whose coefficients belong to it: relaxations on the intervals that are known by now.
        lines = {**lines, **relax_all(self.graph.before(var), env, self.choices)}
        return self._walk(jnp.arange(0))(var, lines).offset

    def linear(self, var: Var, env: Mapping[Var, Any], lines: Lines) -> Affine:
        """Returns the linear bounds of ``var`` with all coefficients."""
        reached = self.cone(var)
        if reached is None and self.whole:
            return self._all(var, lines)
        check_fits(
            f"forward linear bounds of {var.size} values, {self.total} coefficients each, lower and upper,",
            2 * self.total * var.size * self.examples,
            var.dtype,
            "bound fewer outputs, or by a method without them (jb.crown_ibp, jb.crown)",
        )
        offset = self._offset(var, env, lines)
        if reached is None:
            some = lambda directions: ends(self._walk(directions)(var, lines).coeffs)
            low, high = map_chunks(some, self._at_once(self.graph), self.total)
        else:
            low, high = self._from_blocks(reached, env)
        return Affine(Interval(low, high), offset)

    def interval(self, var: Var, env: Mapping[Var, Any], lines: Lines) -> Interval:
        """Returns the interval of ``var``: ``lower <= value <= upper`` for inputs in the regions."""
        regions, reached = list(self.regions.values()), self.cone(var)
        if reached is None and self.whole:
            return self._all(var, lines).interval(regions)
        offset, pairs = self._offset(var, env, lines), functools.partial(zip, regions, strict=True)
        if reached is None:
            some = functools.partial(self._shares, var, lines)
            at_once, count = self._at_once(self.graph), self.total
        else:
            some = functools.partial(self._shares_of_blocks, reached, env)
            at_once, count = self._blocks_at_once(reached), math.prod(reached.counts)

        def add(*pair):
            both = jax.tree.map(lambda *found: jnp.stack(found), *pair)
            return [[region.merged(x) for region, x in pairs(side)] for side in both]

        sums = add_chunks(some, add, at_once, count)
        low, high = (sum(region.supported(x) for region, x in pairs(side)) for side in sums)
        low, high = jnp.reshape(low, var.shape), jnp.reshape(high, var.shape)
        return outward(offset.lower - low, offset.upper + high)

    def _shares(self, var: Var, lines: Lines, directions):
        """Returns what some elements of the inputs add to the supports of both ends, per region."""
        low, high = ends(self._walk(directions)(var, lines).coeffs)
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
        return max(1, self._at_once(reached.graph) // reached.graph.inputs[0].size)

    def _of_block(self, reached: Crop, env: Mapping[Var, Any], index):
        """Returns a block's place and region, and the coefficients of the target's window: 0 beyond the last block."""
        place = jnp.unravel_index(index, reached.counts)
        env, regions, alphas = reached.values_at(place, env, self.regions, self.choices.alphas)
        ((source, region),) = regions.items()
        inside = reached.inside(source, place) & (index < math.prod(reached.counts))
        seed = jnp.diag(inside.ravel().astype(source.dtype)).reshape(-1, *source.shape)
        choices = self.choices._replace(alphas=alphas)
        lines = relax_all(reached.graph.equations, env, choices)
        walk = linear_walk(reached.graph, {source: _linear(seed)}, env)
        return place, region, ends(walk(reached.target, lines).coeffs)

    def _shares_of_blocks(self, reached: Crop, env: Mapping[Var, Any], indices):
        """Returns what some blocks of the one input add to the supports of both ends."""

        def some(index):
            place, region, (low, high) = self._of_block(reached, env, index)
            shares = (region.shares(c.reshape(len(c), -1), 0) for c in (-low, high))
            return [reached.embedded(share, place) for share in shares]

        (region,) = self.regions.values()
        return [[region.merged(side)] for side in jax.vmap(some)(indices)]

    def _from_blocks(self, reached: Crop, env: Mapping[Var, Any]):
        """Returns all coefficients, lower and upper, block by block."""

        def some(index):
            place, _, sides = self._of_block(reached, env, index)
            return tuple(reached.embedded(c, place) for c in sides)

        count = math.prod(reached.counts)
        found = map_chunks(jax.vmap(some), self._blocks_at_once(reached), count)
        return tuple(map(reached.by_elements, found))
