"""Finds where interval arithmetic is exact already, so that no backward walk can improve on it.

An interval is exact per element after at most one summing primitive from a box, as long as no two
summands share an input. Dense after dense, ``x + conv(x)`` and ``x - mean(x)`` are not exact, nor is
anything after a set whose elements depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxbound._bounds.regions import Region
from jaxbound._program.graph import Equation, Graph, Var
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.linear_rules import is_repeat, linear_operands, linear_rules

# BOX: elements independent of each other, with exact intervals. EXACT: exact intervals alone. LOOSE: neither.
BOX, EXACT, LOOSE = range(3)


def exactness(graph: Graph, regions: Mapping[Var, Region], restart: bool) -> dict[Var, int]:
    """Returns BOX, EXACT or LOOSE for every uncertain variable.

    With ``restart``, the intervals of non-linear equations' outputs count as boxes of their own.
    """
    levels = {var: BOX if region.independent else LOOSE for var, region in regions.items()}
    sources = {var: {var} for var in regions}
    for eqn in graph.equations:
        moving = list(eqn.moving.values())
        if not moving:
            continue
        if linear_operands(eqn) is None and restart:
            levels |= dict.fromkeys(eqn.outputs, BOX)
            sources |= {out: {out} for out in eqn.outputs}
            continue
        level = _step(eqn, [levels[v] for v in moving], [sources[v] for v in moving])
        levels |= dict.fromkeys(eqn.outputs, level)
        sources |= {out: set().union(*(sources[v] for v in moving)) for out in eqn.outputs}
    return levels


def _step(eqn: Equation, levels: list[int], sources: list[set[Var]]) -> int:
    """Returns the level of an equation's outputs, from the levels and the sources of its uncertain operands."""
    level = max(levels)
    if linear_operands(eqn) is None:
        same = eqn.primitive in ELEMENTWISE and all(
            out.shape == v.shape for out in eqn.outputs for v in eqn.moving.values()
        )
        return level if same and len(levels) == 1 else LOOSE
    shared = len(set().union(*sources)) < sum(map(len, sources))
    sums = linear_rules[eqn.primitive].sums
    if sums == "elements":
        return EXACT if level == BOX and not shared else LOOSE
    if sums == "operands" and shared:
        return LOOSE
    return max(level, EXACT) if shared or is_repeat(eqn) else level
