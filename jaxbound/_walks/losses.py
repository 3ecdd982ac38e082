"""Defines what rows lose to rounding on their way back, and where they end.

Computed rows are some rows. What separates them from the exact ones is worth, for every x, at most the difference of
their elements times the largest ``|x|``: through an affine equation with weights W, ``share |A| (|W| max|x|)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval, smallest
from jaxbound._bounds.numerics import once
from jaxbound._bounds.rounding import (
    finite,
    inflation,
    lowered,
    raised,
    share,
    size,
    unit,
    weighed,
    wide,
)
from jaxbound._program.graph import Equation, Var, read
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.relaxations import Relaxation
from jaxbound._rules.rounding import QUOTIENT, Of, coarsest, is_float, sizes_of


def through_affine(eqn: Equation, linear: Sequence[int], outs, env: Mapping[Var, Any]) -> list[Any]:
    """Returns what rows ``outs`` lose through an affine equation, ``[K]`` each.

    A product ``A W`` of ``terms`` products is off by ``share |A| |W|``; where it underflows, by
    ``least (|A| + |W| + 1)`` a term, for each x. The offset is a sum of as many products as there are elements.
    """
    moving, operands = eqn.moving, [read(env, atom) for atom in eqn.inputs]
    rule, known = interval_rules[eqn.primitive], set(linear) - set(moving)
    terms = rule.error.backward(operands, eqn.outputs[0], eqn.params)
    dtype = coarsest(*(operands[i] for i in moving), *outs)
    each, rest = [0.0] * len(outs), 0.0
    if terms:
        parts = [jnp.zeros_like(x) if i in known else x for i, x in enumerate(operands)]
        reach = 8 * smallest(dtype) * sum(size(operands[i]).sum() for i in moving)
        weights = 1 + sum(_largest_factor(eqn, operands)) if rule.error.factors else 1
        sizes = sizes_of(rule, parts, eqn.params)
        each, rest = (
            [share(terms, dtype) * of.upper + reach for of in sizes],
            reach * terms * (weights + 1),
        )
    if known:
        fixed = [jnp.zeros_like(x.lower) if isinstance(x, Interval) else x for x in operands]
        biases = eqn.bind(*fixed)
        each = [
            e + share(b.size, dtype) * wide(jnp.abs(b)) for e, b in zip(each, biases, strict=True)
        ]
    return [weighed(row, e) for row, e in zip(outs, each, strict=True) if terms or known] + [rest]


def _largest_factor(eqn: Equation, operands) -> list[Any]:
    """Returns the largest sizes of known operands, or of the inverse of what divides."""
    known = [size(x) for x in operands if not isinstance(x, Interval) and is_float(x)]
    if rounding_of(eqn) is QUOTIENT:
        known = [1 / jnp.asarray(x) for x in known]
    return [x.max(initial=0) for x in known]


def rounding_of(eqn: Equation) -> Any:
    return interval_rules[eqn.primitive].error


def shielded(eqn: Equation, pairs):
    """Returns variables and rows; of a product, constants must not be multiplied first: they may underflow."""
    return [(v, once(row)) for v, row in pairs] if isinstance(rounding_of(eqn), Of) else pairs


def through_lines(eqn: Equation, lines: Relaxation, outs, env: Mapping[Var, Any]) -> list[Any]:
    """Returns what rows lose through a relaxation besides the error of its lines, ``[K]`` each.

    The offset is a sum of as many products as there are elements; products with slopes may underflow.
    """
    floats = [v for v in eqn.moving.values() if v.is_float]
    zeros, lost, steep = [jnp.zeros(v.shape, v.dtype) for v in floats], [], [1.0] * len(floats)
    constants = []
    for line in (lines.lower, lines.upper):
        found, pull = jax.vjp(line, *zeros)
        slopes = pull(jax.tree.map(jnp.ones_like, found))
        steep = [most + jnp.abs(slope) for most, slope in zip(steep, slopes, strict=True)]
        constants.append(jax.tree.leaves(found))
    for row, *both in zip(outs, *constants, strict=True):
        most = jnp.maximum(*map(jnp.abs, both))
        lost.append(share(most.size, row.dtype) * weighed(row, most))
    for v, slope in zip(floats, steep, strict=True):
        lost.append(8 * smallest(v.dtype) * (finite(size(env[v])) * wide(slope)).sum())
    return lost


def of_sum(offset):
    """Returns what a sum loses, given its result."""
    return 2 * unit(offset.dtype) * jnp.abs(offset) + smallest(offset.dtype)


def of_fan_in(row, x: Interval):
    """Returns what the sum of two rows loses, given the sum and the interval of its value."""
    return 2 * unit(row.dtype) * weighed(row, size(x)) + smallest(row.dtype) * size(x).sum()


def total(lost: Sequence[Any]):
    """Returns at least the sum; it has no gradient."""
    return lax.stop_gradient(inflation(len(lost), jnp.float32) * sum(lost))


def least(regions, coeffs, offset, support, lost):
    """Returns at most ``offset - support`` and what rows have lost, given the computed support of ``-coeffs``.

    A support is a sum of products of coefficients and sizes, or the product of a radius and a norm, which is computed
    with a few roundings more (64 are allowed) and is no larger than that sum.
    """
    for region, c in zip(regions, coeffs, strict=True):
        room = share(2 * region.sizes.size + 64, c.dtype) * weighed(c, region.sizes)
        tiny = (
            8
            * smallest(c.dtype)
            * (finite(region.sizes).sum() + wide(jnp.abs(c)).sum((*range(1, c.ndim),)))
        )
        lost = lost + room + tiny + of_sum(offset)
    return lowered(offset - support, lax.stop_gradient(1.01 * lost))


def apart(ends, lost):
    """Returns lower and upper ends moved outward by what both have lost; None: as they are."""
    if lost is None:
        return ends
    return lowered(ends[0], lost), raised(ends[1], lost)
