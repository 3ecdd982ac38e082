"""Scores operands of non-linear functions: which are worth splitting, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._program.graph import Equation, Var, read
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._walks.context import Context

# Scores cells, the higher the sooner they are split: ``score(rows, below, above)`` of the coefficients that a lower
# bound gives to the values of a non-linear function, and of what its lines below and above miss at the lower end of
# the operand's interval, at the point where it would be split, and at the upper end, stacked along a first axis.
Score = Callable[[Any, Any, Any], Any]


def gap_at_split(rows, below, above):
    """Returns what the bound loses by the lines at the point of the split (the intercept, for a relu)."""
    return jnp.maximum(rows, 0) * below[1] + jnp.maximum(-rows, 0) * above[1]


def largest_gap(rows, below, above):
    """Returns the most that the bound may lose by the lines, at the split or at an end."""
    return jnp.maximum(rows, 0) * below.max(0) + jnp.maximum(-rows, 0) * above.max(0)


def is_splittable(eqn: Equation) -> bool:
    """Tells whether an equation is a non-linear function of each element of one operand."""
    moving = list(eqn.moving.values())
    return (
        eqn.primitive in ELEMENTWISE
        and len(moving) == 1
        and moving[0].is_float
        and moving[0].shape == eqn.outputs[0].shape
        and linear_operands(eqn) is None
    )


def scores_of(context: Context, eqn: Equation, var: Var, rows, scores: tuple[Score, ...]):
    """Returns the scores ``[scores, size]`` of an operand's cells, and the points where they would be split.

    That is the kink nearest to the middle of its interval, or the middle itself where there are none; -inf where
    no point lies inside.
    """
    x, record = context.env[var], ELEMENTWISE[eqn.primitive]
    operands = [None if a is var else read(context.env, a) for a in eqn.inputs]
    known = [op for op in operands if op is not None]
    middle = 0.5 * x.lower + 0.5 * x.upper
    point = middle
    if record.kinks is not None:
        kinks = [jnp.broadcast_to(k, x.shape) for k in record.kinks(*known, **eqn.params)]
        far = [jnp.where((x.lower < k) & (k < x.upper), abs(k - middle), jnp.inf) for k in kinks]
        nearest = jnp.argmin(jnp.stack(far), 0)
        point = jnp.take_along_axis(jnp.stack(kinks), nearest[None], 0)[0]
    room = 1e-9 * (1 + abs(x.lower) + abs(x.upper)) if record.kinks is None else 0
    inside = (x.lower + room < point) & (point < x.upper - room)
    point = jnp.where(inside, point, middle)
    fn = lambda z: eqn.bind(*(z if op is None else op for op in operands))[0]
    lines, ends = context.lines[eqn.outputs[0]], (x.lower, point, x.upper)
    below, above = (
        jnp.stack([sign * (fn(z) - jax.tree.leaves(line(z))[0]) for z in ends])
        for sign, line in ((1, lines.lower), (-1, lines.upper))
    )
    ranked = jnp.stack([score(rows, below, above) for score in scores])
    ranked = jnp.where(inside[None] & jnp.isfinite(ranked), ranked, -jnp.inf)
    return ranked.reshape(len(scores), -1), point.ravel()
