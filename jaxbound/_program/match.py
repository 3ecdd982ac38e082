"""Matches equations with those of a pattern."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer
from jax.extend.core import primitives as jp

from jaxbound._program.graph import Atom, Constant, Equation, Graph, Var

Producer = Mapping[Any, Equation]  # by output


def match(pattern: Graph, out: Var, producer) -> tuple[Atom, ...] | None:
    """Returns the inputs with which the pattern computes ``out``; None if it does not."""
    bound: dict[Var, Atom] = {}
    if not unify(pattern.outputs[0], out, bound, pattern.producer, producer):
        return None
    return tuple(bound[v] for v in pattern.inputs)


def unify(want: Atom, have: Atom, bound, made, producer) -> bool:
    """Tells whether ``have`` is ``want`` with its inputs replaced as ``bound`` says, which is extended on the way."""
    if isinstance(want, Constant):
        return isinstance(have, Constant) and _equal(want.value, have.value)
    if want.uncertain != have.uncertain:
        return False
    if want not in made:  # an input of the pattern
        # The inputs of a pattern that was traced for scalars stand for arrays of any shape.
        same_type = lambda: want.dtype == have.dtype and want.shape in ((), have.shape)  # pyright: ignore
        fits = not isinstance(have, Var) or not want.uncertain or same_type()
        return fits and same(bound.setdefault(want, have), have)
    mine, theirs = made[want], producer.get(have) if isinstance(have, Var) else None
    if (
        theirs is None
        or mine.primitive is not theirs.primitive
        or not _equal_params(mine.params, theirs.params)
    ):
        return False
    if mine.outputs.index(want) != theirs.outputs.index(have):
        return False
    orders = [theirs.inputs]
    if mine.primitive in COMMUTATIVE:
        orders.append(theirs.inputs[::-1])
    for order in orders:
        attempt = dict(bound)
        if all(
            unify(w, h, attempt, made, producer) for w, h in zip(mine.inputs, order, strict=True)
        ):
            bound.update(attempt)
            return True
    return False


def same(a: Atom, b: Atom) -> bool:
    return a is b or (
        isinstance(a, Constant) and isinstance(b, Constant) and _equal(a.value, b.value)
    )


def _equal(a, b) -> bool:
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))


def _equal_params(a: dict[str, Any], b: dict[str, Any]) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return False


# ---------------------------------------------------------------- numbers


# Primitives whose elements are all one number if their operand's are, and primitives that compute one from several.
_REPEATS = (jp.broadcast_in_dim_p, jp.convert_element_type_p, jp.reshape_p)
_ARITHMETIC = {
    jp.add_p: operator.add,
    jp.sub_p: operator.sub,
    jp.mul_p: operator.mul,
    jp.neg_p: operator.neg,
    jp.max_p: max,
}


def number(atom: Atom, producer) -> float | None:
    """Returns the number that all elements of a known operand are, if it is finite and known at trace time."""
    eqn = producer.get(atom)
    if eqn is None:
        return _uniform(atom.value) if isinstance(atom, Constant) else None
    numbers = (
        [number(x, producer) for x in eqn.inputs]
        if eqn.primitive in (*_REPEATS, *_ARITHMETIC)
        else [None]
    )
    if None in numbers:
        return None
    found = numbers[0] if eqn.primitive in _REPEATS else _ARITHMETIC[eqn.primitive](*numbers)
    return _uniform(np.asarray(found).astype(eqn.outputs[0].dtype))


def _uniform(value) -> float | None:
    """Returns the finite number that all elements of an array are; None if it is not known to be one."""
    if isinstance(value, Tracer) or np.size(value) == 0:
        return None
    if np.size(value) > 1:
        # Larger arrays, and those on a device, are taken for weights: they are not read.
        if (
            not isinstance(value, np.ndarray)
            or value.size > 4096
            or not _equal(value, np.full_like(value, value.flat[0]))
        ):
            return None
        value = value.flat[0]
    value = np.asarray(value).item()
    return float(value) if np.isfinite(value) else None


COMMUTATIVE = frozenset({jp.add_p, jp.mul_p, jp.max_p, jp.min_p})
