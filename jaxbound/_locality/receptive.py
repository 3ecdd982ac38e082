"""Finds the windows that an element depends on, and cuts out the graph on them."""

from __future__ import annotations

import math

from jaxbound._locality.crop import Crop, build
from jaxbound._locality.windows import Needs, Span, Window, all_of, apart, needs_of, sizes, union
from jaxbound._program.graph import Graph, Var


def crop(graph: Graph, target: Var) -> Crop | None:
    """Returns the windows that one position of ``target`` depends on; None: they are not small."""
    axes = {axis for axis, size in enumerate(target.shape) if size > 1}
    while axes:
        found = _plan(graph, target, axes)
        if not isinstance(found, set):
            break
        axes -= found
    else:
        return None
    windows, steps = found
    cropped = sum(math.prod(sizes(window)) for window in windows.values())
    if 2 * cropped > sum(var.size for var in windows):
        return None
    counts = [n if axis in axes else 1 for axis, n in enumerate(target.shape)]
    return build(graph, target, counts, windows, steps)


def _plan(graph: Graph, target: Var, axes: set[int]):
    """Returns windows of all values before ``target``, and the equations with their needs; or lost axes."""
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
            if lost := apart(found, reads):
                return lost
            windows[var] = union(found, reads)
    return windows, steps[::-1]
