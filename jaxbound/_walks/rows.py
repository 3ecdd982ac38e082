"""Bounds a variable by rows that walk backward, many at a time."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, ordered, outward
from jaxbound._bounds.linear import LinearBounds
from jaxbound._bounds.numerics import once, weigh
from jaxbound._bounds.regions import Region
from jaxbound._locality.crop import crop
from jaxbound._locality.slices import joined
from jaxbound._locality.windows import sizes
from jaxbound._program.graph import Equation, Graph, Var
from jaxbound._rules.arithmetic import ends as ends_of
from jaxbound._rules.relaxations import Relaxation
from jaxbound._rules.relaxing import relaxing
from jaxbound._walks.backward import Rows, unit_rows, walk_back
from jaxbound._walks.chunks import KEPT_CHUNKS, check_fits, map_chunks, rows_at_once
from jaxbound._walks.exactness import affine_ends, nonlinear_before
from jaxbound._walks.forward import Forward
from jaxbound._walks.intervals import relaxed_operands


@dataclasses.dataclass(frozen=True)
class Walk:
    """Holds what the steps of one call share."""

    graph: Graph
    regions: dict[Var, Region]
    env: dict[Var, Any]  # grows as the intervals walk forward
    kind: str  # of lines, such as "adaptive"
    alphas: dict[
        Var, dict[str, Any]
    ]  # where the free lines lie instead of by kind, by the output of their equation
    chunk_size: int | None  # rows at once; None: by their size
    examples: int  # how many of the batch run side by side
    capacity: Callable[[Var], int | None]  # how many elements of an operand walk back; None: all
    early: bool = False  # whether rows are concretized at the known intervals on their way too
    published: bool = False  # whether bounds found by linear bounds replace the intervals
    search: Any = None  # how alphas are optimised; None: they are not

    @functools.cached_property
    def relax(self) -> Callable[[Equation], Relaxation]:
        """Gives the relaxation of an equation on the intervals of ``env``, made once."""
        return relaxing(self.env, self.kind, self.alphas)

    def rows_at_once(self, graph: Graph) -> int:
        return self.chunk_size or rows_at_once(graph, self.examples)

    @functools.cached_property
    def forward(self) -> Forward:
        """Returns the forward linear bounds of the graph's variables."""
        kept = self.rows_at_once(self.graph) * (1 if self.chunk_size else KEPT_CHUNKS)
        return Forward(
            self.graph,
            self.regions,
            self.env,
            alphas=self.alphas,
            relaxing=functools.partial(relaxing, kind=self.kind),
            at_once=self.rows_at_once,
            kept=kept,
            examples=self.examples,
        )


class Below(NamedTuple):
    """Holds affine lower bounds of some rows.

    Attributes:
      regions: of the values that the bounds are functions of.
      coeffs: ``[K, *region.shape]`` for each region.
      offset: ``[K]``.
      floor: ``[K]``, lower bounds that are known otherwise.
    """

    regions: list[Region]
    coeffs: list[Any]
    offset: Any
    floor: Any = -jnp.inf


# Turns rows at inputs and at outputs of non-linear equations, and their offset, into affine lower bounds.
Finish = Callable[[Rows, Any], Below]


def from_inputs(walk: Walk, var: Var) -> Finish:
    """Returns a `Finish` that takes rows back to the inputs, through the relaxations."""
    for eqn in nonlinear_before(walk.graph, var):
        walk.relax(eqn)  # made here, outside of the loop over rows

    known = {*walk.regions, *relaxed_operands(walk.graph)}
    known |= {out for eqn in nonlinear_before(walk.graph, var) for out in eqn.outputs}

    def finish(rows: Rows, offset) -> Below:
        """Takes rows back; if ``early``, keeps their bounds at the known intervals on the way as a floor."""
        floors = []

        def look(rows: Rows, offset) -> None:
            if walk.early and rows.keys() <= known:
                regions = [walk.regions[v] if v in walk.regions else walk.env[v] for v in rows]
                floors.append(least(Below(regions, list(rows.values()), offset)))

        ends, offset = walk_back(walk.graph, rows, offset, walk.env, walk.relax, look)
        floor = jnp.stack(floors).max(0) if floors else -jnp.inf
        shapes = [(len(offset), *v.shape) for v in walk.regions]
        coeffs = [
            ends[v] if v in ends else jnp.zeros(s, offset.dtype)
            for v, s in zip(walk.regions, shapes, strict=True)
        ]
        return Below(list(walk.regions.values()), coeffs, offset, floor)

    return finish


def from_affine_ends(walk: Walk, var: Var) -> Finish:
    """Returns a `Finish` that leaves rows where affine equations end, at values whose intervals are known."""

    def finish(rows: Rows, offset) -> Below:
        regions = [walk.regions[v] if v in walk.regions else walk.env[v] for v in rows]
        return Below(regions, list(rows.values()), offset)

    return finish


def through_linear_bounds(walk: Walk, var: Var) -> Finish:
    """Returns a `Finish` that takes rows through the forward linear bounds of the values where they are."""
    affine = {end: walk.forward.linear(end) for end in affine_ends(walk.graph, var)}
    sizes = [v.size for v in walk.regions]
    starts = [sum(sizes[:i]) for i in range(1, len(sizes))]

    def finish(rows: Rows, offset) -> Below:
        total = jnp.zeros((len(offset), sum(sizes)), offset.dtype)
        for end, coeffs in rows.items():
            flat = coeffs.reshape(len(offset), -1)
            low, high = (c.reshape(c.shape[0], -1).T for c in ends_of(affine[end].coeffs))
            total = total + jnp.maximum(flat, 0) @ low + jnp.minimum(flat, 0) @ high
            low_offset, high_offset = map(jnp.ravel, ends_of(affine[end].offset))
            offset = offset + weigh(flat, low_offset, high_offset)
        blocks = zip(jnp.split(total, starts, axis=1), walk.regions, strict=True)
        coeffs = [b.reshape(len(offset), *v.shape) for b, v in blocks]
        return Below(list(walk.regions.values()), coeffs, offset)

    return finish


def least(below: Below):
    """Returns the least values ``[K]`` of affine lower bounds in their regions, or the floor where that is higher."""
    pairs = zip(below.regions, below.coeffs, strict=True)
    lowest = sum(region.support(-c.reshape(c.shape[0], -1)) for region, c in pairs)
    return jnp.maximum(once(below.offset - lowest), below.floor)


def _affine_rows(walk: Walk, var: Var, indices) -> tuple[Rows, Any]:
    """Takes rows back as far as equations are affine: there, the rows of ``-var`` are those of ``var``, negated."""
    start, rows, offset = unit_rows(walk.graph, var, indices, walk.env)
    return walk_back(walk.graph, {start: rows}, offset, walk.env, None)


def _both_signs(finish: Finish, rows: Rows, offset) -> tuple[Below, Below]:
    """Returns lower bounds of the rows' values and of their negatives."""
    return finish(rows, offset), finish({v: -row for v, row in rows.items()}, -offset)


# Gives the lower and the upper ends ``[K]`` of rows and their offset.
Both = Callable[[Rows, Any], tuple[Any, Any]]


def apart(kind: Callable[..., Finish], walk: Walk, var: Var) -> Both:
    """Returns a function for both ends by two walks: a caller who reads one end pays for one."""
    finish = kind(walk, var)

    def both(rows: Rows, offset):
        below, above = _both_signs(finish, rows, offset)
        return least(below), -least(above)

    return both


def together(kind: Callable[..., Finish], walk: Walk, var: Var) -> Both:
    """Returns a function for both ends by one walk: less to compile."""
    finish = kind(walk, var)

    def both(rows: Rows, offset):
        def one(sign):
            return least(finish({v: sign * row for v, row in rows.items()}, sign * offset))

        lower, upper = jax.vmap(one)(jnp.array([1, -1], offset.dtype))
        return lower, -upper

    return both


class Ends(NamedTuple):
    """Holds functions that bound a variable: all of its elements, or some.

    ``all()`` gives lower and upper ends of ``var.size`` elements, ``some(indices [C])`` those at flat indices.
    """

    all: Callable[[], tuple[Any, Any]]
    some: Callable[[Any], tuple[Any, Any]]


def by_rows(kind: Callable[..., Finish], walk: Walk, var: Var, both=apart) -> Ends:
    """Bounds ``var`` by rows ``[C, *var.shape]``, many at a time."""
    ends, limit = both(kind, walk, var), walk.rows_at_once(walk.graph)

    def at(indices):
        return ends(*_affine_rows(walk, var, indices))

    def some(indices):
        return map_chunks(lambda i: at(indices[i]), limit, len(indices))

    return Ends(lambda: map_chunks(at, limit, var.size), some)


def by_windows(walk: Walk, var: Var, both=apart) -> Ends:
    """Bounds ``var`` by rows back to the inputs; where its elements read small windows, through those alone."""
    found = crop(walk.graph, var)
    if found is None:
        return by_rows(from_inputs, walk, var, both)
    target, limit = found.target, walk.rows_at_once(found.graph)

    def at(place, indices):
        """Bounds the elements at one place, by their indices in ``target``."""
        env, regions, alphas = found.at(place, walk.env, walk.regions, walk.alphas)
        there = dataclasses.replace(
            walk, graph=found.graph, env=env, regions=regions, alphas=alphas
        )
        rows = _affine_rows(there, target, indices)
        return both(from_inputs, there, target)(*rows)

    def every():
        # All rows of one place share the lines of its window.
        there = jax.vmap(lambda i: at(jnp.unravel_index(i, found.counts), jnp.arange(target.size)))
        places = math.prod(found.counts)
        ends = map_chunks(there, max(1, limit // target.size), places)
        return tuple(joined(end, found.counts, sizes(found.window)) for end in ends)

    def some(indices):
        def one(i):
            # Along an axis that places move on, the window has length 1: the index wraps to 0.
            place = jnp.unravel_index(i, var.shape)
            flat = jnp.ravel_multi_index(place, sizes(found.window), mode="wrap")
            return jax.tree.map(jnp.squeeze, at(place, flat[None]))

        return map_chunks(lambda i: jax.vmap(one)(indices[i]), limit, len(indices))

    return Ends(every, some)


def concretized(ends: Ends, var: Var) -> Interval:
    """Returns the interval of ``var`` by all of its rows."""
    return ordered(outward(*(end.reshape(var.shape) for end in ends.all())))


def linear_bounds_of(kind: Callable[..., Finish], walk: Walk, var: Var) -> LinearBounds:
    """Returns the linear bounds of ``var`` with respect to the inputs."""
    inputs = sum(v.size for v in walk.regions)
    check_fits(
        f"linear bounds of {var.size} outputs, {inputs} coefficients each, lower and upper,",
        2 * inputs * var.size * walk.examples,
        var.dtype,
        "bound fewer outputs, or their intervals alone (jb.crown, jb.crown_ibp), which need no such table",
    )
    finish = kind(walk, var)

    def some(indices):
        below, above = _both_signs(finish, *_affine_rows(walk, var, indices))
        negated = tuple(-c for c in above.coeffs)
        return tuple(below.coeffs), below.offset, negated, -above.offset

    limit = walk.rows_at_once(walk.graph)
    arrays = map_chunks(some, limit, var.size)
    return LinearBounds(*jax.tree.map(lambda x: x.reshape(*var.shape, *x.shape[1:]), arrays))
