"""Walks forward with intervals, as every method does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxbound._bounds.interval import Interval, beyond, cast, ordered, outward
from jaxbound._bounds.rounding import contained
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._program.rewrites import PICKS
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.rounding import rounded
from jaxbound._walks.operands import relaxed_operands


def interval_walk(
    graph: Graph,
    env: Mapping[Var, Any],
    refine: Callable[[Var, Mapping[Var, Any]], Interval] = lambda var, env: env[var],
    passed: Callable[[Equation, Mapping[Var, Any]], None] = lambda eqn, env: None,
    rounding: str | None = None,
) -> dict[Var, Any]:
    """Bounds every value of the graph, in order.

    Args:
      graph: from `trace`.
      env: the intervals of uncertain inputs and the arrays of all known variables, as `Graph.known` gives them.
      refine: called once for every operand of a non-linear equation, with all values before it; the
        interval it returns replaces the operand's from there on.
      passed: called after every non-linear equation, with all values up to its own.
      rounding: what the intervals hold for; None: up to rounding.

    Returns:
      The intervals and arrays of all variables.
    """
    found, pending = dict(env), set(relaxed_operands(graph))
    for eqn in graph.equations:
        if not eqn.moving:
            continue
        nonlinear = linear_operands(eqn) is None
        for var in eqn.inputs if nonlinear else ():
            if var in pending:
                refined = refine(var, found)
                found[var] = (cast if rounding is None else contained)(refined, var.dtype)
                pending.remove(var)
        found.update(zip(eqn.outputs, interval_step(eqn, found, rounding), strict=True))
        if nonlinear:
            passed(eqn, found)
    return found


def interval_step(eqn: Equation, env: Mapping[Var, Any], rounding: str | None = None) -> list[Any]:
    """Returns the intervals of an equation's outputs."""
    operands, rule = [read(env, atom) for atom in eqn.inputs], interval_rules[eqn.primitive]
    outs = rule.bound(*operands, **eqn.params)
    outs = outs if isinstance(outs, list) else [outs]
    if rounding is not None:
        outs = rounded(rule, operands, outs, eqn.params)
    widened = beyond if eqn.primitive in PICKS else outward
    return [
        ordered(widened(out.lower, out.upper)) if var.is_float else out
        for out, var in zip(outs, eqn.outputs, strict=True)
    ]
