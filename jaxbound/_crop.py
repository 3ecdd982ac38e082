"""Locality: the part of a graph that an element depends on, where that is a small window.

A neuron of a convolutional net reads a window of each earlier value. The graph of these windows is a
graph of the same equations on small arrays, the same for all positions; what lies outside of an image
is multiplied by 0 where a sum would read it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._chunks import map_chunks
from jaxbound._inline import flatten
from jaxbound._interval import Interval, LpBall
from jaxbound._linear import once
from jaxbound._program import Atom, Constant, Equation, Graph, Var, read, shape_of
from jaxbound._windows import Lost, Needs, Span, Window, all_of, axes_of, needs_of, sizes


@dataclasses.dataclass(frozen=True)
class Crop:
    """The graph of a target's window.

    Attributes:
      graph: its equations, on windows.
      target: the variable that stands for the elements at one position of the target.
      shape: of all of the target.
      block: of the elements at one position, with all axes.
      parts: what each variable is: a window of an atom of the whole graph.
      masks: 1 inside of a value of this shape, 0 outside.
    """

    graph: Graph
    target: Var
    shape: tuple[int, ...]
    block: tuple[int, ...]
    parts: dict[Var, tuple[Atom, Window | None]]
    masks: dict[Var, tuple[Window, tuple[int, ...]]]

    def at(self, place: Sequence[Any], env: dict[Var, Any], regions: dict[Var, Any]):
        """The values and input regions of the graph for the element at one index of the target."""
        cut = functools.partial(_cut, place=place)
        here = {
            new: cut(read(env, atom), window, new.shape)
            for new, (atom, window) in self.parts.items()
        }
        for mask, (window, shape) in self.masks.items():
            here[mask] = _inside(window, shape, place).reshape(mask.shape).astype(mask.dtype)
        inputs = {}
        for new in self.graph.inputs:
            atom, window = self.parts[new]
            inputs[new] = jax.tree.map(once, cut(regions[cast(Var, atom)], window, new.shape))
        return here, inputs

    def everywhere(self, fn: Callable[[Sequence[Any]], Sequence[Any]], at_once: int):
        """``fn(place)``, arrays ``[target.size]``, at all places, as arrays of all of the target."""
        lengths = [n // m for n, m in zip(self.shape, self.block, strict=True)]
        there = jax.vmap(lambda i: fn(jnp.unravel_index(i, lengths)))
        found = map_chunks(there, at_once, math.prod(lengths))
        n = len(lengths)
        axes = [axis for i in range(n) for axis in (i, n + i)]
        return tuple(x.reshape(*lengths, *self.block).transpose(axes) for x in found)


def crop(graph: Graph, target: Var) -> Crop | None:
    """The windows that one position of ``target`` depends on; None: they are no smaller than all."""
    axes = {axis for axis, size in enumerate(target.shape) if size > 1}
    while axes:
        found = _plan(graph, target, axes)
        if not isinstance(found, set):
            break
        axes -= found
    else:
        return None
    windows, steps = found
    cropped = sum(_size(window) for window in windows.values())
    if 2 * cropped > sum(var.size for var in windows):
        return None
    return _build(graph, target, windows, steps)


def _plan(graph: Graph, target: Var, axes: set[int]):
    """Windows of all values behind ``target``, and the equations with their needs; or lost axes."""
    start = (Span(i, 1, 0, 1) if i in axes else all_of(n) for i, n in enumerate(target.shape))
    windows: dict[Var, Window] = {target: tuple(start)}
    steps = []
    for eqn in reversed(graph.equations):
        if not eqn.moving or not any(out in windows for out in eqn.outputs):
            continue
        single = len(eqn.outputs) == 1
        needs = needs_of(eqn, windows[eqn.outputs[0]]) if single else set(axes)
        if not isinstance(needs, Needs):
            return needs
        steps.append((eqn, needs))
        for i, var in eqn.moving.items():
            reads = needs.windows[i] or ()
            found = windows.get(var, reads)
            if lost := _lost(found, reads):
                return lost
            windows[var] = _union(found, reads)
    return windows, steps[::-1]


def _build(graph: Graph, target: Var, windows: dict[Var, Window], steps) -> Crop:
    made = _Cropper(target.shape, windows)
    for eqn, needs in steps:
        made.add(eqn, needs)
    inputs = tuple(made.whole[var] for var in graph.inputs if var in windows)
    small = Graph(inputs, tuple(made.equations), (made.whole[target],), None)
    block = sizes(windows[target])
    return Crop(small, made.whole[target], target.shape, block, made.parts, made.masks)


class _Cropper:
    """Writes the equations on windows.

    Axes of length 1 are dropped wherever elements are treated one by one: XLA:CPU (jaxlib 0.10.2)
    crashes on sums of products of high rank that have such axes.
    """

    def __init__(self, target: tuple[int, ...], windows: dict[Var, Window]):
        self.target, self.windows = target, windows
        self.parts: dict[Var, tuple[Atom, Window | None]] = {}
        self.masks: dict[Var, tuple[Window, tuple[int, ...]]] = {}
        self.equations: list[Equation] = []
        self.whole = {var: self.part(var, window) for var, window in windows.items()}

    def add(self, eqn: Equation, needs: Needs) -> None:
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
        if isinstance(atom, Constant) or not atom.uncertain or window is None:
            bare = isinstance(atom, Constant) and not window
            return atom if bare else self.part(atom, window, shape)
        source = self.whole[atom]
        if window != self.windows[atom]:
            inner = functools.partial(_inner, window=window, of=self.windows[atom])
            source = self.emit(eqn, inner, [source], self.part(atom, window))
        if sums and _leaves(window, atom.shape, self.target):
            mask = Var(source.shape, source.dtype, False)
            self.masks[mask] = window, atom.shape
            source = self.emit(eqn, lax.mul, [source, mask], self.part(atom, window))
        if source.shape == shape:
            return source
        bent = functools.partial(lax.reshape, new_sizes=shape)
        return self.emit(eqn, bent, [source], self.part(atom, window, shape))

    def part(self, atom: Atom, window: Window | None, shape=None) -> Var:
        shape = shape_of(atom) if window is None else _long(window) if shape is None else shape
        new = Var(shape, _dtype(atom), atom.uncertain)
        self.parts[new] = atom, window
        return new

    def emit(self, eqn: Equation, fn, inputs: list[Var], out: Var) -> Var:
        """Equations of our own, as JAX traces them."""
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


def _size(window: Window) -> int:
    return math.prod(sizes(window))


def _long(window: Window) -> tuple[int, ...]:
    return tuple(n for n in sizes(window) if n != 1)


def _kept(window: Window | None, short: Sequence[bool]) -> tuple[int, ...]:
    """The lengths of a window, or of one with as many axes, without those that are short."""
    lengths = sizes(window or ())
    same = len(lengths) == len(short)
    return tuple(n for i, n in enumerate(lengths) if not (same and short[i]))


def _inner(x, window: Window, of: Window):
    """A window out of the values of a larger one."""
    start = [a.offset - b.offset for a, b in zip(window, of, strict=True)]
    stop = [i + span.size for i, span in zip(start, window, strict=True)]
    return lax.reshape(lax.slice(lax.reshape(x, sizes(of)), start, stop), _long(window))


def _lost(a: Window, b: Window) -> Lost:
    """The axes along which two windows of one value do not move together."""
    return axes_of(
        [s for pair in zip(a, b, strict=True) if pair[0][:2] != pair[1][:2] for s in pair]
    )


def _union(a: Window, b: Window) -> Window:
    spans = []
    for one, two in zip(a, b, strict=True):
        start = min(one.offset, two.offset)
        stop = max(one.offset + one.size, two.offset + two.size)
        spans.append(Span(one.axis, one.stride, start, stop - start))
    return tuple(spans)


def _leaves(window: Window, shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a window leaves a value of this shape at some position."""
    for span, n in zip(window, shape, strict=True):
        last = 0 if span.axis is None else span.stride * (target[span.axis] - 1)
        if span.offset < 0 or last + span.offset + span.size > n:
            return True
    return False


def _cut(value, window: Window | None, shape, place):
    """A window of an array, an `Interval` or an `LpBall`; beyond the edge, the edge again."""
    cut = functools.partial(_cut, window=window, shape=shape, place=place)
    if isinstance(value, Interval):
        return Interval(cut(value.lower), cut(value.upper))
    if isinstance(value, LpBall):
        return dataclasses.replace(value, center=cut(value.center))
    if window is None:
        return value
    for axis, span in enumerate(window):
        if span.axis is not None:
            first = span.stride * place[span.axis] + span.offset
            inside = jnp.clip(first + jnp.arange(span.size), 0, value.shape[axis] - 1)
            value = jnp.take(value, inside, axis, mode="clip")
    return jnp.reshape(value, shape)


def _inside(window: Window, shape: Sequence[int], place):
    """Which elements of a window lie in a value of this shape."""
    inside = jnp.ones(sizes(window), bool)
    for axis, (span, n) in enumerate(zip(window, shape, strict=True)):
        if span.axis is not None:
            first = span.stride * place[span.axis] + span.offset
            at = first + lax.broadcasted_iota(int, inside.shape, axis)
            inside &= (at >= 0) & (at < n)
    return inside


def _dtype(atom: Atom):
    return jnp.result_type(atom.value) if isinstance(atom, Constant) else atom.dtype
