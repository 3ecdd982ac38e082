"""Joins equations that together are a function of one variable made of straight and quadratic pieces.

Examples are ``where(z > 0, z, 0.1 z)``, ``z * (z > 0)``, a Huber loss. Bounds of each equation alone would forget
that the others read the same z. Bounds of the joined one are those of the function in real arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as jp

from jaxbound._program import activations
from jaxbound._program.graph import Constant, Equation, Var
from jaxbound._program.match import Producer, number
from jaxbound._program.pieces import AFFINE, IDENTITY, OPERATIONS, Pieces, Unfit, constant

MOST = 24  # equations that are joined, at most


def joined(eqn: Equation, producer: Producer, order: Mapping[Any, int]) -> Equation | None:
    """Returns the equation as a function of the one variable that it and those before it are made of, or None.

    ``order`` says when a variable is computed. None where one primitive and its affine images say as much, or where
    the function has other pieces.
    """
    (out, *rest) = eqn.outputs
    if rest or not out.is_float or _is_affine(eqn) or not _fits(eqn, out, producer):
        return None
    for root, cone in reversed(_cones(eqn, producer, order)):
        try:
            pieces = _composed(root, cone, producer)
        except (Unfit, OverflowError):
            continue
        bent = any(a for a, _, _ in pieces.polys)
        if not bent and all(each.primitive in AFFINE for each in cone):
            continue
        if _is_safe(pieces, out.dtype):
            return _as_one(eqn, root, pieces)
    return None


def _is_affine(eqn: Equation) -> bool:
    return eqn.primitive in AFFINE and len(eqn.moving) == 1


def _fits(eqn: Equation, out: Var, producer: Producer) -> bool:
    """Tells whether the equation is an elementwise one of `OPERATIONS`, with numbers as its known operands."""
    if eqn.primitive not in OPERATIONS or len(eqn.outputs) > 1:
        return False
    ours = lambda v: v.shape == out.shape and v.dtype in (out.dtype, bool)
    if not all(map(ours, (*eqn.outputs, *eqn.moving.values()))):
        return False
    return all(atom.uncertain or number(atom, producer) is not None for atom in eqn.inputs)


def _cones(eqn: Equation, producer: Producer, order) -> list[tuple[Var, list[Equation]]]:
    """Returns the variables that the equation is a function of alone, later ones first, with the equations between.

    Leaves out those from which only one equation that is not affine leads here. Of a variable and its affine image,
    it takes the image.
    """
    (out,), found, cone = eqn.outputs, [], [eqn]
    open_ends, bent, seen = set(eqn.moving.values()), 1, 1
    while len(cone) <= MOST:
        latest = max(open_ends, key=lambda v: order.get(v, -1))
        if len(open_ends) == 1 and latest.dtype == out.dtype and bent > seen:
            found.append((latest, cone[::-1]))
            seen = bent
        made = producer.get(latest)
        if made is None or not _fits(made, out, producer):
            break
        cone.append(made)
        bent += not _is_affine(made) or len(open_ends) > 1
        open_ends = (open_ends - {latest}) | set(made.moving.values())
    return found


def _composed(root: Var, cone: list[Equation], producer: Producer) -> Pieces:
    """Returns the function of ``root`` that the last equation of the cone computes; raises `Unfit` if it cannot."""
    found = {root: IDENTITY}
    for eqn in cone:
        operands = [
            found[atom] if atom.uncertain else constant(number(atom, producer))  # pyright: ignore
            for atom in eqn.inputs
        ]
        found[eqn.outputs[0]] = OPERATIONS[eqn.primitive](*operands, **eqn.params)
    return found[cone[-1].outputs[0]]


def _is_safe(pieces: Pieces, dtype) -> bool:
    """Tells whether no number is lost in this type, and the function has no jump at which rounding would decide."""
    limits, numbers = jnp.finfo(dtype), np.abs([*pieces.breaks, *np.ravel(pieces.polys)])
    kept = (numbers == 0) | ((numbers >= limits.tiny) & (numbers <= limits.max))
    return bool(kept.all()) and pieces.is_continuous(float(limits.eps))


# ---------------------------------------------------------------- the equation


def _as_one(eqn: Equation, root: Var, pieces: Pieces) -> Equation:
    """Returns one equation on ``root``: the primitive or activation that the function is, else one made of pieces."""
    slopes, breaks = [b for _, b, _ in pieces.polys], pieces.breaks
    primitive, known, params = _named(slopes, breaks, pieces)
    constants = (Constant(np.asarray(value, root.dtype)) for value in known)
    return dataclasses.replace(eqn, primitive=primitive, inputs=(root, *constants), params=params)


def _named(slopes, breaks, pieces: Pieces):
    """Returns primitive, constants and params: abs, max, min, leaky ReLU or clip, else a function of pieces."""
    bent = any(a for a, _, _ in pieces.polys)
    if not bent and len(breaks) == 1:
        (kink,), (height,) = breaks, pieces.at
        if slopes == [-1, 1] and kink == height == 0:
            return jp.abs_p, (), {}
        if kink == height and slopes in ([0, 1], [1, 0]):
            return jp.max_p if slopes[0] == 0 else jp.min_p, (kink,), {}
        if kink == height == 0 and slopes[1] == 1:
            return activations.leaky_relu, (slopes[0],), {}
    if not bent and slopes == [0, 1, 0] and breaks == pieces.at:
        return activations.clip, breaks, {}
    made_of = activations.quadratic_pieces if bent else activations.straight_pieces
    return made_of, (), {"breaks": breaks, "polys": pieces.polys}
