"""Limits normalised values: a value that is divided by the root of a mean square that it is part of is bounded.

``|x_i| <= sqrt(n mean x^2)``, as ``x_i^2`` is one term of the sum. And ``|d| <= sqrt((n - 1) variance x)`` for the
deviation ``d = x_i - mean x``: the other n - 1 deviations add up to ``-d``, so their squares add up to at least
``d^2 / (n - 1)``, and ``n variance x >= d^2 + d^2 / (n - 1) = n d^2 / (n - 1)``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import primitives as jp

from jaxbound._program import activations
from jaxbound._program.graph import Atom, Constant, Equation, Graph, Var, shape_of
from jaxbound._program.match import Producer, number

# Primitives that rearrange elements, as functions of NumPy arrays; `_places` broadcasts what they return.
MOVES = {
    jp.reshape_p: lambda x, new_sizes, **_: x.reshape(new_sizes),
    jp.squeeze_p: lambda x, dimensions, **_: x.squeeze(dimensions),
    jp.transpose_p: lambda x, permutation, **_: x.transpose(permutation),
    jp.broadcast_in_dim_p: lambda x, shape, broadcast_dimensions, **_: np.expand_dims(
        x, [i for i in range(len(shape)) if i not in broadcast_dimensions]
    ),
    jp.convert_element_type_p: lambda x, **_: x,
    jp.sub_p: lambda x, **_: x,  # 0 is subtracted
}


def limit_normalised(graph: Graph) -> Graph:
    """Gives products of a value and the inverse root of its mean square their limit.

    Divisions are treated as products with an inverse, and stay divisions where no limit is found.
    """
    producer = dict(graph.producer)
    found: list[Equation] = []
    for eqn in graph.equations:
        if eqn.primitive is not jp.div_p or not eqn.inputs[1].uncertain:
            found += _limited(eqn, producer) or [eqn]
            continue
        inverse = _applied(eqn, eqn.inputs[1], primitive=jp.integer_pow_p, params={"y": -1})
        product = dataclasses.replace(
            eqn, primitive=jp.mul_p, inputs=(eqn.inputs[0], inverse.outputs[0]), params={}
        )
        producer |= {inverse.outputs[0]: inverse, eqn.outputs[0]: product}
        found += [inverse, *(_limited(product, producer) or [eqn])]
    return dataclasses.replace(graph, equations=tuple(found))


def _limited(eqn: Equation, producer: Producer) -> list[Equation] | None:
    """Returns a product with its limit, and the products with the known factors after it; None if it has no limit."""
    if eqn.primitive is not jp.mul_p or len(eqn.moving) < 2:
        return None
    factors = [_factors(atom, producer) for atom in eqn.inputs]
    for (x, known), (r, scales) in (factors, factors[::-1]):
        limit = _limit(x, r, producer)
        if limit is None:
            continue
        first = dataclasses.replace(eqn, primitive=activations.normalised, params={"limit": limit})
        products = [_applied(first, x, r)]
        for scale in (*known, *scales):
            products.append(_applied(eqn, products[-1].outputs[0], scale))
        products[-1] = dataclasses.replace(products[-1], outputs=eqn.outputs)
        return products
    return None


def _applied(eqn: Equation, *atoms: Atom, **changes) -> Equation:
    shape = np.broadcast_shapes(*map(shape_of, atoms))
    out = Var(shape, eqn.outputs[0].dtype, True)
    return dataclasses.replace(eqn, inputs=atoms, outputs=(out,), **changes)


def _factors(atom: Atom, producer: Producer) -> tuple[Atom, list[Atom]]:
    """Returns a product's one uncertain factor, and the known ones."""
    known = []
    while (eqn := producer.get(atom)) and eqn.primitive is jp.mul_p and len(eqn.moving) == 1:
        ((i, atom),) = eqn.moving.items()
        known.append(eqn.inputs[1 - i])
    return atom, known


def _limit(x: Atom, r: Atom, producer: Producer) -> float | None:
    """Returns an upper bound of ``|x r|`` if r is the inverse root of a mean square that x is part of, else None."""
    square = reduction(r, producer)
    if square is None or square.power != -0.5:
        return None
    if square.eqn.primitive is activations.variance:
        return _limit_of_deviation(x, square, producer)
    squared = producer.get(square.eqn.inputs[0])
    if squared is None or not _is_square(squared):
        return None
    of = groups_of(x, squared.inputs[0], square.groups, producer)
    return math.sqrt(square.scale) if agree(of, square.places) else None


def _limit_of_deviation(x: Atom, square: Reduction, producer: Producer) -> float | None:
    """Returns `_limit` for x a deviation ``y - mean y``, where ``square`` is made of the variance of y."""
    # If x is rearranged, goes back to the difference, and to where its elements are in it.
    x, places = moved(x, producer)
    eqn = producer.get(x)
    if eqn is None or eqn.primitive is not jp.sub_p or len(eqn.moving) < 2:
        return None
    mean, (y,) = reduction(eqn.inputs[1], producer), square.eqn.inputs
    if mean is None or mean.eqn.primitive is not jp.reduce_sum_p or mean.eqn.inputs[0] is not y:
        return None
    count = square.groups.size / (square.groups.max(initial=0) + 1)
    same = (mean.power, mean.scale) == (1, count) and np.array_equal(mean.groups, square.groups)
    of = groups_of(eqn.inputs[0], y, square.groups, producer)
    if not same or of is None or not agree(of, mean.places):
        return None
    of = np.broadcast_to(of, shape_of(x)).ravel()[places]
    return math.sqrt((count - 1) * square.scale) if agree(of, square.places) else None


def _is_square(eqn: Equation) -> bool:
    if eqn.primitive is jp.integer_pow_p:
        return eqn.params["y"] == 2
    return eqn.primitive is activations.square


# ---------------------------------------------------------------- where elements come from


def moved(atom: Atom, producer: Producer) -> tuple[Atom, np.ndarray]:
    """Returns the value that is rearranged to ``atom``, and at each place of it the flat index of the element there."""
    chain = []
    while (eqn := producer.get(atom)) and _moves(eqn, producer):
        chain.append(eqn)
        atom = eqn.inputs[0]
    return atom, _places(chain, shape_of(atom))


def _moves(eqn: Equation, producer: Producer) -> bool:
    if eqn.primitive is jp.sub_p:
        subtracted = _value(eqn.inputs[1], producer)
        return subtracted is not None and not subtracted.any()
    if eqn.primitive is jp.convert_element_type_p:
        return _rounds(eqn.inputs[0], eqn.outputs[0])
    return eqn.primitive in MOVES


def _rounds(before: Atom, after: Atom) -> bool:
    """Tells whether a cast changes no more than last places: small values do not vanish in the new type."""
    old = jnp.result_type(before.value) if isinstance(before, Constant) else before.dtype
    if not (isinstance(after, Var) and after.is_float and jnp.issubdtype(old, jnp.floating)):
        return False
    return bool(jnp.finfo(after.dtype).tiny <= jnp.finfo(old).tiny)


def _places(chain: list[Equation], shape: tuple[int, ...]) -> np.ndarray:
    """Returns the flat index of the element at each place after the moves of ``chain``, the last of which is first."""
    places = np.arange(math.prod(shape)).reshape(shape)
    for eqn in reversed(chain):
        places = MOVES[eqn.primitive](places, **eqn.params)
        places = np.broadcast_to(places, eqn.outputs[0].shape)
    return places


def _value(atom: Atom, producer: Producer) -> np.ndarray | None:
    """Returns the number, or else the array that is rearranged to an atom; None if it is not known at trace time."""
    found = number(atom, producer)
    if found is not None:
        return np.asarray(found)
    root = atom if isinstance(atom, Constant) else moved(atom, producer)[0]
    if not isinstance(root, Constant) or isinstance(root.value, Tracer):
        return None
    return np.asarray(root.value)


def _constants(eqn: Equation, producer: Producer) -> list[np.ndarray] | None:
    """Returns the known operands; None if one is not known at trace time."""
    values = [_value(atom, producer) for atom in eqn.inputs if not atom.uncertain]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def groups_of(x: Atom, y: Atom, groups: np.ndarray, producer: Producer) -> np.ndarray | None:
    """Returns for every element of x the group of ``y`` that it is part of, if both rearrange one value, else None."""
    (root, of_x), (same, of_y) = moved(x, producer), moved(y, producer)
    if root is not same:
        return None
    found = np.full(math.prod(shape_of(root)), -1)
    found[of_y.ravel()] = groups.ravel()
    return found[of_x]


def agree(groups: np.ndarray | None, others: np.ndarray) -> bool:
    return groups is not None and bool(np.all(groups == others))


# ---------------------------------------------------------------- sums over groups


class Reduction(NamedTuple):
    """Describes ``(s / scale + something >= 0) ** power``, elementwise, where s is the output of ``eqn``.

    Its elements take those of s at the flat indices ``places``. ``groups`` has the shape of the operand that ``eqn``
    reduces, and holds for each of its elements the flat index of the element of s that it is part of.
    """

    eqn: Equation
    power: float
    scale: float
    places: np.ndarray
    groups: np.ndarray


def reduction(atom: Atom, producer: Producer) -> Reduction | None:
    """Returns how an atom is computed from a sum or a variance; None if it is not, or in another way."""
    chain, power, scale = [], 1.0, 1.0
    while eqn := producer.get(atom):
        if eqn.primitive in (jp.reduce_sum_p, activations.variance):
            shape, axes = shape_of(eqn.inputs[0]), eqn.params["axes"]
            kept = [1 if i in axes else n for i, n in enumerate(shape)]
            groups = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), shape)
            return Reduction(eqn, power, scale, _places(chain, eqn.outputs[0].shape), groups)
        constants = _constants(eqn, producer)
        if constants is None or len(eqn.moving) != 1:
            return None
        ((i, atom),) = eqn.moving.items()
        if _moves(eqn, producer) and i == 0:
            chain.append(eqn)
        elif eqn.primitive in EXPONENTS and i == 0:
            power *= EXPONENTS[eqn.primitive](*constants, **eqn.params)
            # The root of a square is its absolute value; and a scale outside of the power is not that of a mean.
            if power == 1 or scale != 1:
                return None
        elif (eqn.primitive, i) in SCALES and power in (1, -0.5) and _is_positive(constants[0]):
            scale *= SCALES[eqn.primitive, i](float(constants[0]))
        elif not (power < 0 and constants and _adds(eqn, constants[0])):
            return None
    return None


EXPONENTS = {
    jp.sqrt_p: lambda **_: 0.5,
    jp.rsqrt_p: lambda **_: -0.5,
    jp.integer_pow_p: lambda y: y,
    jp.pow_p: lambda y: float(y) if y.size == 1 else math.nan,
}


# By how much a product with a number, or a quotient by it, divides the operand at a position.
SCALES = {
    (jp.mul_p, 0): lambda by: 1 / by,
    (jp.mul_p, 1): lambda by: 1 / by,
    (jp.div_p, 0): lambda by: by,
}


def _adds(eqn: Equation, known: np.ndarray) -> bool:
    """Tells whether the equation makes no value smaller."""
    if eqn.primitive is jp.add_p:
        return bool(np.all(known >= 0))
    return eqn.primitive is jp.max_p


def _is_positive(known: np.ndarray) -> bool:
    return known.size == 1 and bool(np.all(known > 0))
