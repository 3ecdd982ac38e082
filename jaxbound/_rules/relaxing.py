"""Makes the relaxations of equations on given intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxbound._program.graph import Equation, Var, read
from jaxbound._rules.curves import Choice
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import Relaxation, constant_relaxation, relaxations

# Relaxations of non-linear equations, by their first output.
Lines = Mapping[Var, Relaxation]


class Choices(NamedTuple):
    """Holds which lines relaxations take: those of a kind; free lines where alphas are given, there."""

    kind: str  # such as "adaptive"
    alphas: Mapping[Var, Mapping[str, Any]] = {}  # by the output of their equation, by side
    rounding: str | None = None  # what lines hold for


def relax(eqn: Equation, env: Mapping[Var, Any], choices: Choices) -> Relaxation:
    """Returns the relaxation of a non-linear equation on the intervals of its operands and of its outputs.

    Raises:
      ValueError: a registered relaxation is not affine, or there are alphas for lines that are not free.
    """
    image = [env[out] for out in eqn.outputs]
    rule = relaxations.get(eqn.primitive)
    lines = choices.kind != "constant" and eqn.outputs[0].is_float and image[0].lower.size
    if rule is None or not lines:
        return constant_relaxation(image)
    operands = (read(env, atom) for atom in eqn.inputs)
    choice = Choice(choices.kind, choices.alphas.get(eqn.outputs[0]))
    found = rule(*operands, image=image[0], choice=choice, **eqn.params)
    if unknown := choice.given.keys() - choice.taken.keys():
        raise ValueError(
            f"relaxation has alphas {sorted(unknown)} for {eqn.primitive} ({eqn.layer or eqn.line}), whose "
            f"free lines are {sorted(choice.taken)}"
        )
    found = dataclasses.replace(found, free=choice.taken)
    if choices.rounding is None:
        return found
    return constant_relaxation(image) if found.error is None else found.moved()


def relax_all(equations: Sequence[Equation], env: Mapping[Var, Any], choices: Choices) -> Lines:
    """Returns the relaxations of those equations that are not linear."""
    return {
        eqn.outputs[0]: relax(eqn, env, choices)
        for eqn in equations
        if eqn.moving and linear_operands(eqn) is None
    }
