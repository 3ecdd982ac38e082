"""Cuts out the part of a graph that an element depends on, or that it reaches, where that is small.

A neuron of a convolutional net reads a window of each earlier value, and a pixel reaches one of each
later value. The same equations on these windows are a graph on small arrays, the same for all places;
elements outside of an image are multiplied by 0 where a sum would read them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.numerics import once
from jaxbound._locality.slices import cut, first, inside, joined, moved
from jaxbound._locality.windows import Needs, Span, Window, all_of, leaves, long, sizes
from jaxbound._program.graph import Atom, Constant, Equation, Graph, Var, read, shape_of
from jaxbound._program.inline import flatten


@dataclasses.dataclass(frozen=True)
class Crop:
    """Holds the graph of the windows at one place.

    Attributes:
      graph: the equations, on windows.
      target: the variable that stands for a window of the target.
      shape: of the whole target.
      window: of the target.
      counts: how many places there are along every axis.
      parts: the atom of the whole graph, and its window, that each variable stands for.
      masks: variables that are 1 where a window lies inside of a value of this shape, 0 outside.
      starts: variables that say where a span starts.
    """

    graph: Graph
    target: Var
    shape: tuple[int, ...]
    window: Window
    counts: tuple[int, ...]
    parts: dict[Var, tuple[Atom, Window | None]]
    masks: dict[Var, tuple[Window, tuple[int, ...]]]
    starts: dict[Var, Span]

    def values_at(
        self, place: Sequence[Any], env: Mapping[Var, Any], regions: Mapping[Var, Any], alphas
    ):
        """Returns the values, input regions and alphas of the graph at one place."""
        here = {
            new: cut(read(env, atom), window, new.shape, place)
            for new, (atom, window) in self.parts.items()
        }
        for mask, (window, shape) in self.masks.items():
            here[mask] = inside(window, shape, place).reshape(mask.shape).astype(mask.dtype)
        here |= {var: first(span, place).astype(var.dtype) for var, span in self.starts.items()}
        here, inputs = self.graph.known(here), {}
        for new in self.graph.inputs:
            atom, window = self.parts[new]
            part = cut(regions[cast(Var, atom)], window, new.shape, place)
            inputs[new] = jax.tree.map(once, part)
        sides = {
            new: {side: cut(x, window, new.shape, place) for side, x in alphas[atom].items()}
            for new, (atom, window) in self.parts.items()
            if atom in alphas
        }
        return here, inputs, sides

    def inside(self, var: Var, place: Sequence[Any]):
        """Returns a mask of the window's elements that lie in the value that ``var`` stands for."""
        atom, window = self.parts[var]
        return inside(cast(Window, window), shape_of(atom), place)

    def by_elements(self, x):
        """Joins ``[places, elements of a block, ...]`` into a leading axis of all elements of the source."""
        atom, window = self.parts[self.graph.inputs[0]]
        found = joined(x, self.counts, sizes(cast(Window, window)))
        return found[tuple(map(slice, shape_of(atom)))].reshape(-1, *x.shape[2:])

    def embedded(self, x, place: Sequence[Any]):
        """Embeds a window ``[K, *target.shape]`` in the whole target, with zeros elsewhere."""
        whole = tuple(map(all_of, self.shape))
        spans = [span for span in self.window if span.axis is not None]
        starts = [first(span, place).astype(jnp.int32) for span in spans]
        move = functools.partial(moved, window=whole, of=self.window)
        return jax.vmap(lambda x: move(x, *starts))(x).reshape(len(x), *self.shape)


def build(
    graph: Graph, target: Var, counts: Sequence[int], windows: dict[Var, Window], steps
) -> Crop:
    """Builds the graph on windows; ``steps`` are pairs of an equation and its needs."""
    made = _Cropper(counts, windows)
    for eqn, needs in steps:
        made.add(eqn, needs)
    inputs = tuple(made.whole[var] for var in graph.inputs if var in windows)
    small, new = (
        Graph(inputs, tuple(made.equations), (made.whole[target],), None),
        made.whole[target],
    )
    where = (made.parts, made.masks, made.starts)
    return Crop(small, new, target.shape, windows[target], tuple(counts), *where)


class _Cropper:
    """Writes the equations on windows.

    Axes of length 1 are dropped wherever elements are treated one by one: XLA:CPU (jaxlib 0.10.2)
    crashes on sums of products of high rank that have such axes.
    """

    def __init__(self, counts: Sequence[int], windows: dict[Var, Window]):
        self.counts, self.windows = counts, windows
        self.parts: dict[Var, tuple[Atom, Window | None]] = {}
        self.masks: dict[Var, tuple[Window, tuple[int, ...]]] = {}
        self.starts: dict[Var, Span] = {}
        self.equations: list[Equation] = []
        self.whole = {var: self.part(var, window) for var, window in windows.items()}

    def add(self, eqn: Equation, needs: Needs) -> None:
        """Adds an equation on windows, and a reshape where it treats elements one by one."""
        (out,) = eqn.outputs
        kept = functools.partial(
            _kept, short=[needs.each and span.size == 1 for span in self.windows[out]]
        )
        inputs = tuple(
            self.operand(eqn, atom, window, needs.sums, kept(window))
            for atom, window in zip(eqn.inputs, needs.windows, strict=True)
        )
        shape, whole = kept(self.windows[out]), self.whole[out]
        result = whole if shape == whole.shape else self.part(out, self.windows[out], shape)
        new = dataclasses.replace(eqn, inputs=inputs, outputs=(result,), params=needs.params)
        self.equations.append(new)
        if result is not whole:
            self.emit(eqn, functools.partial(lax.reshape, new_sizes=whole.shape), [result], whole)

    def operand(self, eqn, atom: Atom, window: Window | None, sums: bool, shape) -> Atom:
        """Returns an operand's window of this shape; for sums, with zeros outside of the operand."""
        if isinstance(atom, Constant) or not atom.uncertain or window is None:
            bare = isinstance(atom, Constant) and not window
            return atom if bare else self.part(atom, window, shape)
        source = self.whole[atom]
        if window != self.windows[atom]:
            source = self.move(eqn, atom, window)
        if sums and leaves(window, atom.shape, self.counts):
            mask = Var(source.shape, source.dtype, False)
            self.masks[mask] = window, atom.shape
            source = self.emit(eqn, lax.mul, [source, mask], self.part(atom, window))
        if source.shape == shape:
            return source
        bent = functools.partial(lax.reshape, new_sizes=shape)
        return self.emit(eqn, bent, [source], self.part(atom, window, shape))

    def move(self, eqn: Equation, atom: Var, window: Window) -> Var:
        """Makes another window of a value from the one that there is."""
        of, starts = self.windows[atom], []
        for span, kept in zip(of, window, strict=True):
            if span.axis != kept.axis:
                starts.append(Var((), jnp.int32, False))
                self.starts[starts[-1]] = span
        fn = functools.partial(moved, window=window, of=of)
        return self.emit(eqn, fn, [self.whole[atom], *starts], self.part(atom, window))

    def part(self, atom: Atom, window: Window | None, shape=None) -> Var:
        shape = shape_of(atom) if window is None else long(window) if shape is None else shape
        new = Var(shape, _dtype(atom), atom.uncertain)
        self.parts[new] = atom, window
        return new

    def emit(self, eqn: Equation, fn, inputs: list[Var], out: Var) -> Var:
        """Adds the equations of ``out = fn(*inputs)``, as JAX traces them, in the layer of ``eqn``."""
        avals = [jax.ShapeDtypeStruct(var.shape, var.dtype) for var in inputs]
        traced = flatten(fn, avals, [var.uncertain for var in inputs])
        names: dict[Any, Any] = dict(zip(traced.inputs, inputs, strict=True))
        names[traced.outputs[0]] = out
        for step in traced.equations:
            old, new = (
                tuple(names.get(v, v) for v in side) for side in (step.inputs, step.outputs)
            )
            place = {"layer": eqn.layer, "sources": eqn.sources}
            self.equations.append(dataclasses.replace(step, inputs=old, outputs=new, **place))
        return out


def _kept(window: Window | None, short: Sequence[bool]) -> tuple[int, ...]:
    """Returns the lengths of a window; without the axes that are short, if it has as many axes."""
    lengths = sizes(window or ())
    same = len(lengths) == len(short)
    return tuple(n for i, n in enumerate(lengths) if not (same and short[i]))


def _dtype(atom: Atom):
    return jnp.result_type(atom.value) if isinstance(atom, Constant) else atom.dtype
