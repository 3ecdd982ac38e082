"""Makes the relaxations of equations on given intervals, each once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jaxbound._program.graph import Equation, Var, read
from jaxbound._rules.curves import Choice
from jaxbound._rules.relaxations import Relaxation, constant_relaxation, relaxations


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
        if unknown := choice.given.keys() - choice.taken.keys():
            raise ValueError(
                f"relaxation has alphas {sorted(unknown)} for {eqn.primitive} ({eqn.layer or eqn.line}), whose "
                f"free lines are {sorted(choice.taken)}"
            )
        return dataclasses.replace(found, free=choice.taken)

    return relax
