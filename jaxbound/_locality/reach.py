"""Finds the windows that a block of input elements reaches, for forward bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from jaxbound._locality.crop import Crop, build
from jaxbound._locality.windows import (
    Lost,
    Needs,
    Span,
    Window,
    all_of,
    apart,
    needs_of,
    sizes,
    union,
)
from jaxbound._program.graph import Equation, Graph, Var

Blocks = Mapping[int, int]  # axis of the input -> elements of one block along it
Plan = tuple[dict[Var, Window], list[tuple[Equation, Needs]]]


def cone(graph: Graph, target: Var) -> Crop | None:
    """Returns the windows that a block of input elements reaches before ``target``; None: they are not small."""
    before = graph.before(target)
    sources = [var for var in graph.inputs if var.uncertain]
    if len(sources) != 1 or not all(map(_followed, before)):
        return None
    (source,) = sources
    axes = {axis for axis, n in enumerate(source.shape) if n > 1}
    blocks, found = _even(before, source, axes)
    # An axis is cut into blocks if that makes the windows at most half as large.
    for axis in sorted(axes):
        fewer = _even(before, source, axes - {axis})
        if 2 * _cost(found) > _cost(fewer[1]):
            axes, (blocks, found) = axes - {axis}, fewer
    if not axes:
        return None
    counts = [-(-n // blocks.get(axis, n)) for axis, n in enumerate(source.shape)]
    return build(graph, target, counts, *found)


def _followed(eqn: Equation) -> bool:
    values = (*eqn.outputs, *eqn.moving.values())
    return len(eqn.outputs) == 1 and all(var.is_float for var in values)


def _cost(plan: Plan) -> int:
    return sum(math.prod(sizes(window)) for window in plan[0].values())


def _even(before: list[Equation], source: Var, axes: set[int]) -> tuple[Blocks, Plan]:
    """Returns the smallest blocks that every stride divides, and the windows that they reach."""
    blocks = dict.fromkeys(axes, 1)
    while True:
        odd: dict[int, int] = {}
        found = _plan(before, source, blocks, odd)
        if not odd:
            return blocks, found
        blocks = {axis: n * odd.get(axis, 1) for axis, n in blocks.items()}


def _plan(before: list[Equation], source: Var, blocks: Blocks, odd: dict[int, int]) -> Plan:
    """Returns windows of all values, and the equations with their needs; notes in ``odd`` factors that blocks lack."""
    start = (
        Span(i, blocks[i], 0, blocks[i]) if i in blocks else all_of(n)
        for i, n in enumerate(source.shape)
    )
    windows, steps = {source: tuple(start)}, []
    for eqn in before:
        window = _reached(eqn, windows, odd)
        while not isinstance(needs := needs_of(eqn, window), Needs):
            window = _whole_along(window, needs, eqn.outputs[0].shape)
        windows[eqn.outputs[0]] = window
        steps.append((eqn, needs))
    return windows, steps


def _reached(eqn: Equation, windows: dict[Var, Window], odd: dict[int, int]) -> Window:
    """Returns the window of an equation's output that the windows of its operands reach."""
    shape = eqn.outputs[0].shape
    single: Window = tuple(Span(i, 1, 0, 1) if n > 1 else all_of(n) for i, n in enumerate(shape))
    while not isinstance(needs := needs_of(eqn, single), Needs):
        single = _whole_along(single, needs, shape)
    found: Window | None = None
    for i, var in eqn.moving.items():
        spans = list(map(all_of, shape))
        for read, span in zip(needs.windows[i] or (), windows[var], strict=True):
            if read.axis is not None and span.axis is not None:
                spans[read.axis] = _reach(read, span, shape[read.axis], odd)
        reached = tuple(spans)
        found = reached if found is None else _joined(found, reached, shape)
    assert found is not None
    return found


def _reach(read: Span, span: Span, n: int, odd: dict[int, int]) -> Span:
    """Returns the positions p of n whose elements ``read`` meet a span.

    ``s p + f + [0, r)`` meets ``S g + F + [0, Z)`` iff ``F - f - r < s p - S g < F + Z - f``.
    """
    if span.stride % read.stride:
        odd[cast(int, span.axis)] = read.stride // math.gcd(span.stride, read.stride)
        return all_of(n)
    first = -((read.offset + read.size - 1 - span.offset) // read.stride)
    last = (span.offset + span.size - 1 - read.offset) // read.stride
    size = max(1, last - first + 1)
    return Span(span.axis, span.stride // read.stride, first, size) if size < n else all_of(n)


def _whole_along(window: Window, lost: Lost, shape) -> Window:
    return tuple(all_of(n) if s.axis in lost else s for s, n in zip(window, shape, strict=True))


def _joined(a: Window, b: Window, shape) -> Window:
    """Returns a window that covers two others; all along an axis where they do not move together."""
    lost = apart(a, b)
    return union(_whole_along(a, lost, shape), _whole_along(b, lost, shape))
