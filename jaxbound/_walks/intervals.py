"""Walks forward with intervals, as every method does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxbound._bounds.interval import Interval, beyond, cast, ordered, outward
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._program.rewrites import PICKS
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands


def interval_walk(graph: Graph, env: dict[Var, Any], refine: Callable[[Var], Interval]) -> None:
    """Bounds every value of the graph, in order.

    Args:
      graph: from `trace`.
      env: the `Interval` or array of every input; filled with those of every variable.
      refine: called once for every operand of a non-linear equation, when ``env`` holds all values
        before it; the interval it returns replaces the operand's from there on.
    """
    pending = dict.fromkeys(relaxed_operands(graph))
    # Known values first: refining an operand looks at the equations that read it.
    for eqn in sorted(graph.equations, key=lambda eqn: bool(eqn.moving)):
        for var in eqn.inputs:
            if var in pending and linear_operands(eqn) is None:
                env[var] = cast(refine(var), var.dtype)
                del pending[var]
        env.update(zip(eqn.outputs, interval_step(eqn, env), strict=True))


def relaxed_operands(graph: Graph) -> list[Var]:
    """Returns the uncertain floating-point operands of non-linear equations, in graph order."""
    nonlinear = [eqn for eqn in graph.equations if eqn.moving and linear_operands(eqn) is None]
    found = dict.fromkeys(atom for eqn in nonlinear for atom in eqn.inputs if atom.uncertain)
    return [var for var in found if isinstance(var, Var) and var.is_float]


def interval_step(eqn: Equation, env: dict[Var, Any]) -> list[Any]:
    """Returns the outputs of one equation: evaluated where all operands are known, else by its interval rule."""
    operands = [read(env, atom) for atom in eqn.inputs]
    if not eqn.moving:
        return eqn.bind(*operands)
    outs = interval_rules[eqn.primitive].bound(*operands, **eqn.params)
    outs = outs if isinstance(outs, list) else [outs]
    widened = beyond if eqn.primitive in PICKS else outward
    return [
        ordered(widened(out.lower, out.upper)) if var.is_float else out
        for out, var in zip(outs, eqn.outputs, strict=True)
    ]
