"""Bounds sub-domains by linear programs: exactly where nothing is left to split, as functions are affine there."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.regions import is_region
from jaxbound._decide.attack import with_points
from jaxbound._decide.boxes import apart
from jaxbound._decide.cells import Lanes, by_name, kept_context, the_output
from jaxbound._decide.question import Question
from jaxbound._decide.search import Domain
from jaxbound._walks.operands import names_of
from jaxbound._walks.rows import affine_rows, from_inputs


@functools.partial(jax.jit, static_argnames=("question",))
def linear_parts(question: Question, leaves, intermediates, lane: Lanes, signed):
    """Returns affine lower bounds, in a sub-domain, of its rows and of combinations ``signed [K, S]`` of cells.

    Returns:
      ``coeffs [M + K, n]`` of the elements of all regions, and ``offset [M + K]``.
    """
    context = kept_context(question, leaves, intermediates, lane)
    out, count = the_output(context.graph), lane.alphas.shape[0]
    finish = from_inputs(context, out)
    rows, offset = affine_rows(context, out, lane.clause * count + jnp.arange(count))
    below = [finish(rows, offset)]
    named, variables = by_name(intermediates, signed), names_of(context.graph)
    below.append(finish({variables[k]: v for k, v in named.items()}, jnp.zeros(len(signed))))
    coeffs = [jnp.concatenate([c.reshape(len(c), -1) for c in each.coeffs], 1) for each in below]
    return jnp.concatenate(coeffs), jnp.concatenate([each.offset for each in below])


def decide(question: Question, leaves, intermediates, lane: Lanes, domain: Domain) -> Domain:
    """Bounds the clause of a lane by a linear program; proves it by its multipliers, or gives its optimum.

    Every x of the sub-domain has ``s (z_j(x) - p) >= 0`` for each split, and so ``below(-s z_j)(x) + s p <= 0`` for
    an affine lower bound of ``-s z_j``: these are the constraints. Bounds follow from the multipliers by weak
    duality, whatever the solver says of them.
    """
    splits, rows = domain.data, lane.alphas.shape[0]
    used = len(splits.cells)
    signed = np.zeros((4 ** math.ceil(math.log(max(16, used), 4)), lane.lower.size))
    signed[np.arange(used), splits.cells] = -splits.sides
    coeffs, offset = map(np.asarray, linear_parts(question, leaves, intermediates, lane, signed))
    goals = coeffs[:rows], offset[:rows]
    held = coeffs[rows:][:used], offset[rows:][:used] + splits.sides * splits.at
    regions = [leaf for leaf in leaves if is_region(leaf)]
    if not all(np.isfinite(part).all() for part in (*goals, *held)):
        return domain
    bound, point = _least_of_greatest(goals, held, regions)
    if point is None:  # nothing meets the constraints: so says the solver, and it has to be proved
        empty, _ = _least_of_greatest(held, None, regions)
        if empty > 0:
            lower = np.where(domain.open, np.inf, domain.lower)
            return domain._replace(lower=lower, open=np.zeros_like(domain.open))
        return domain
    lower = np.where(domain.open, np.maximum(domain.lower, bound), domain.lower)
    worst = [np.asarray(x) for x in apart(regions, point)]
    there = with_points(leaves, [r.nearest(x) for r, x in zip(regions, worst, strict=True)])
    value = float(np.asarray(question.evaluate(there))[splits.clause].max())
    if not value < domain.value:
        worst, value = domain.worst, domain.value
    return Domain(lower, domain.open & ~(lower > 0), worst, value, domain.data)


def _least_of_greatest(goals, held, regions: Sequence[Any]) -> tuple[float, Any]:
    """Bounds the least value of the greatest of affine functions over regions, where others are at most 0.

    Args:
      goals: ``coeffs [M, n]`` and ``offset [M]``.
      held: the same of those that have to be at most 0; or None.
      regions: in whose boxes the program is solved; what is proved holds for the regions themselves.

    Returns:
      A proved lower bound of the least value, and the point where the solver found it; None if it found none.
    """
    (coeffs, offset), rows = goals, len(goals[0])
    n = coeffs.shape[1]
    if held is None or not len(held[0]):
        held = np.zeros((0, n)), np.zeros(0)
    # The variables are x and t: goals - t <= 0, held <= 0, t is minimised.
    left = np.concatenate([coeffs, held[0]])
    above = np.concatenate([-np.ones(rows), np.zeros(len(held[0]))])[:, None]
    boxes = [Interval(*(np.ravel(end) for end in (r.box.lower, r.box.upper))) for r in regions]
    ends = [np.concatenate([getattr(box, side) for box in boxes]) for side in ("lower", "upper")]
    limits = [*zip(*ends, strict=True), (None, None)]
    # SciPy is imported where a program is solved: importing the library stays light.
    done = importlib.import_module("scipy.optimize").linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.concatenate([left, above], 1),
        b_ub=-np.concatenate([offset, held[1]]),
        bounds=limits,
        method="highs",
    )
    if done.status != 0:
        return -np.inf, None
    multipliers = np.maximum(-done.ineqlin.marginals, 0)
    share = multipliers[:rows].sum()
    if not share > 0:
        return -np.inf, done.x[:n]
    multipliers = multipliers / share
    mixed = multipliers @ left
    constant = multipliers @ np.concatenate([offset, held[1]])
    parts = apart(regions, mixed)
    lowest = sum(-float(r.support(-jnp.ravel(c))) for r, c in zip(regions, parts, strict=True))
    return float(constant + lowest), done.x[:n]
