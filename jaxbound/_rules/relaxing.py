"""Makes the relaxation of an equation on given intervals: once, and checked to be affine if it is a user's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxbound._program.graph import Equation, Var, read
from jaxbound._program.trace import trace_flat
from jaxbound._rules.curves import Choice
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import Relaxation, constant_relaxation, is_registered, relaxations


def relaxing(
    env: dict[Var, Any], kind: str, alphas: dict[Var, dict[str, Any]]
) -> Callable[[Equation], Relaxation]:
    """Returns a function from an equation to its relaxation on the intervals of ``env``, made once for each.

    The function raises a ValueError if a registered relaxation is not affine, or if there are ``alphas`` for lines
    that are not free.
    """

    @functools.cache
    def relax(eqn: Equation) -> Relaxation:
        image = [env[out] for out in eqn.outputs]
        rule = relaxations.get(eqn.primitive)
        lines = kind != "constant" and eqn.outputs[0].is_float and image[0].lower.size
        if rule is None or not lines:
            return constant_relaxation(image)
        operands = (read(env, atom) for atom in eqn.inputs)
        choice = Choice(kind, alphas.get(eqn.outputs[0]))
        found = rule(*operands, image=image[0], choice=choice, **eqn.params)
        if is_registered(rule):
            _check_affine(eqn, found)
        if unknown := choice.given.keys() - choice.taken.keys():
            raise ValueError(
                f"relaxation has alphas {sorted(unknown)} for {eqn.primitive} ({eqn.layer or eqn.line}), whose "
                f"free lines are {sorted(choice.taken)}"
            )
        return dataclasses.replace(found, free=choice.taken)

    return relax


def _check_affine(eqn: Equation, relaxation: Relaxation) -> None:
    """Raises a ValueError unless both functions of a relaxation are affine."""
    moving = [v for v in eqn.moving.values() if v.is_float]
    avals = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in moving]
    for side in ("lower", "upper"):
        graph = trace_flat(getattr(relaxation, side), avals, [True] * len(avals))
        bent = [e for e in graph.equations if e.moving and linear_operands(e) is None]
        if bent:
            raise ValueError(
                f"the relaxation registered for {eqn.primitive} is not affine: its {side} function applies "
                f"{', '.join(dict.fromkeys(str(e.primitive) for e in bent))} to the operands"
            )
