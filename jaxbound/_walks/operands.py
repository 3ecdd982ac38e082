"""Finds values in a graph: operands of non-linear equations, their names, and where affine blocks end."""

from __future__ import annotations

from collections import Counter

from jaxbound._program.graph import Equation, Graph, Var
from jaxbound._rules.linear_rules import linear_operands


def affine_ends(graph: Graph, var: Var) -> list[Var]:
    """Returns the inputs and the outputs of non-linear equations that ``var`` is an affine function of."""
    live, ends = {var}, []
    for eqn in reversed(graph.equations):
        hit = [out for out in eqn.outputs if out in live]
        if not hit:
            continue
        live -= set(hit)
        if linear_operands(eqn) is None:
            ends += hit
        else:
            live |= set(eqn.moving.values())
    return ends + list(live)


def nonlinear_before(graph: Graph, var: Var) -> list[Equation]:
    """Returns the non-linear equations that a backward walk from ``var`` meets."""
    return [eqn for eqn in graph.before(var) if linear_operands(eqn) is None]


def relaxed_operands(graph: Graph) -> list[Var]:
    """Returns the uncertain floating-point operands of non-linear equations, in graph order."""
    nonlinear = [eqn for eqn in graph.equations if eqn.moving and linear_operands(eqn) is None]
    found = dict.fromkeys(atom for eqn in nonlinear for atom in eqn.inputs if atom.uncertain)
    return [var for var in found if isinstance(var, Var) and var.is_float]


def names_of(graph: Graph) -> dict[str, Var]:
    """Gives names to the operands of non-linear equations: the Flax layer (or line) that made them, and a counter."""
    names: dict[str, Var] = {}
    for var in relaxed_operands(graph):
        made = graph.producer.get(var)
        place = (made.layer or made.line) if made else "input"
        count = sum(name.rpartition(":")[0] == place for name in names)
        names[f"{place}:{count}"] = var
    return names


def lines_of(graph: Graph) -> dict[str, Var]:
    """Gives names to the values of non-linear equations: that of the first operand, and a counter if it has more."""
    names = {var: name for name, var in names_of(graph).items()}
    found: dict[str, Var] = {}
    counts: Counter[str] = Counter()
    for eqn in graph.equations:
        operands = [names[v] for v in eqn.moving.values() if v in names]
        if operands and linear_operands(eqn) is None:
            name = operands[0]
            found[f"{name}#{counts[name]}" if counts[name] else name] = eqn.outputs[0]
            counts[name] += 1
    return found
