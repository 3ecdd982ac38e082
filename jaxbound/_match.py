"""Whether equations are those of a pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from jaxbound._primitives import COMMUTATIVE
from jaxbound._program import Atom, Constant, Graph, Var


def match(pattern: Graph, out: Var, producer) -> tuple[Atom, ...] | None:
    """The inputs with which the pattern is what computes ``out``."""
    bound: dict[Var, Atom] = {}
    made = {o: e for e in pattern.equations for o in e.outputs}
    if not unify(pattern.outputs[0], out, bound, made, producer):
        return None
    return tuple(bound[v] for v in pattern.inputs)


def unify(want: Atom, have: Atom, bound, made, producer) -> bool:
    """Whether ``have`` is ``want`` with its inputs replaced as ``bound`` says (extended on the way)."""
    if isinstance(want, Constant):
        return isinstance(have, Constant) and _equal(want.value, have.value)
    if want.uncertain != have.uncertain:
        return False
    if want not in made:  # an input of the pattern
        # Of a pattern that was traced for scalars, what stands for them has any shape.
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
