"""Defines the table of linear rules: in which operands a primitive is affine, and how rows go backward through it.

A linear primitive is declared once: `jax.vjp` transposes it, and its interval rule is its forward
rule. Convolution alone has an explicit transpose, because XLA's own is slow in loops and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import primitives as jp

from jaxbound._program.rewrites import REARRANGE
from jaxbound._rules import integers, terms
from jaxbound._rules.interval_rules import interval_rules, monotone
from jaxbound._rules.rounding import EXACT, Terms


class LinearRule(NamedTuple):
    """Holds in which operands a primitive is affine.

    Attributes:
      operands: ``operands(uncertain)`` gives the positions in which the primitive is jointly affine
        when those marked in ``uncertain`` vary, or None if it is not.
      sums: what an output element may add up: "nothing" (it depends on one element of one operand),
        "operands" (one element of each) or "elements" (several of one operand).
      keeps: "place": an output element depends on the operands' elements at the same place; "order": on that
        at the same flat index, if there are as many; else "nothing".
      copies: positions of the operands whose elements it may copy to several places; None: of all that are uncertain,
        if the output is larger.
      transpose: optional ``transpose(rows, *operands, **params)`` for rows ``[K, *output_shape]`` of
        the first operand; None: by `jax.vjp`.
      pick: optional ``pick(indices, shape, *operands, **params)`` returns the output's elements at flat
        ``indices [C]`` as rows ``[C, *shape]`` of the one uncertain operand, which is passed as None; it
        returns None where it does not cover the case.
    """

    operands: Callable[[tuple[bool, ...]], Sequence[int] | None]
    sums: str = "nothing"
    keeps: str = "nothing"
    copies: Sequence[int] | None = None
    transpose: Callable[..., Any] | None = None
    pick: Callable[..., Any] | None = None


linear_rules: dict[Any, LinearRule] = {}


def register_linear_rule(
    primitive,
    operands: Sequence[int] | None = None,
    sums: str = "elements",
    falls: Sequence[int] | None = None,
) -> None:
    """Declares that ``primitive`` is jointly affine in the given operands; the others must be known.

    Guarantee asked for: ``primitive(a x + b y) == a primitive(x) + b primitive(y)`` for ``a + b = 1``.
    The primitive needs a transpose in JAX (`jax.vjp`) and an interval rule, unless ``falls`` gives it one.

    Args:
      primitive: a JAX primitive.
      operands: positions; None: all.
      sums: "nothing" if each output element depends on one element of one operand, "operands" if on
        one of each (as in addition), "elements" otherwise; tells where intervals are exact.
      falls: positions in which it never increases, if it never decreases in the others (no weight is of either
        sign): its interval rule follows. None: it is registered apart.

    Example:
      >>> import jax, jaxbound as jb
      >>> jb.register_linear_rule(jax.lax.real_p, sums="nothing", falls=())
    """
    linear_rules[primitive] = LinearRule(among(operands), sums)
    if falls is not None:
        interval_rules[primitive] = monotone(primitive, operands, falls)


def linear_operands(eqn) -> Sequence[int] | None:
    """Returns positions in which ``eqn`` is jointly affine, the uncertain ones among them; None if it is not affine."""
    rule = linear_rules.get(eqn.primitive)
    if rule is None or not all(out.is_float for out in eqn.outputs):
        return None
    if not all(var.is_float for var in eqn.moving.values()):
        return None
    return rule.operands(eqn.uncertain)


def among(operands: Sequence[int] | None):
    def affine(uncertain):
        allowed = range(len(uncertain)) if operands is None else operands
        return allowed if all(i in allowed for i, u in enumerate(uncertain) if u) else None

    return affine


def _declare(
    primitives,
    operands: Sequence[int] | None = None,
    *,
    falls: Sequence[int] = (),
    guard: Callable[[Any], Any] = lambda bound: bound,
    error: Terms = EXACT,
    **record: Any,
) -> None:
    """Declares primitives that are jointly affine in ``operands``; their interval rule follows from ``falls``.

    The ``error`` says how many terms their sums have; by default they only move elements.
    """
    for p in primitives:
        linear_rules[p] = LinearRule(among(operands), **record)
        interval_rules[p] = monotone(p, operands, falls, guard, error)


_SUM = Terms(terms.single)
_declare((jp.copy_p, jp.name_p), keeps="place")
_declare((jp.neg_p,), keeps="place", falls=(0,), guard=integers.unless_it_wraps)
_declare((jp.add_p,), keeps="place", sums="operands", guard=integers.unless_it_wraps, error=_SUM)
_declare(
    (jp.sub_p,),
    keeps="place",
    sums="operands",
    falls=(1,),
    guard=integers.unless_it_wraps,
    error=_SUM,
)
_declare((jp.add_jaxvals_p,), keeps="place", sums="operands", error=_SUM)
_declare((jp.reshape_p, jp.squeeze_p), keeps="order")
_declare((jp.broadcast_in_dim_p,), (0,), keeps="order", error=Terms(backward=terms.spread))
_declare((jp.concatenate_p, jp.transpose_p, jp.slice_p, jp.rev_p))
_declare(REARRANGE, error=Terms(backward=terms.repeated))
_declare((jp.pad_p,), copies=(1,), error=Terms(backward=terms.padded))
_declare((jp.dynamic_slice_p,), (0,))
_declare((jp.dynamic_update_slice_p,), (0, 1))
_declare((jp.scatter_p,), (0, 2), copies=(0, 2), error=Terms(backward=terms.copies))
_declare(
    (jp.scatter_add_p,),
    (0, 2),
    sums="elements",
    guard=integers.scattered_sum,
    error=Terms(terms.elements),
)
for _p, _error in (
    (jp.reduce_sum_p, Terms(terms.reduced)),
    (jp.cumsum_p, Terms(terms.along, terms.along)),
    (jp.reduce_window_sum_p, Terms(terms.window, terms.window)),
):
    _declare((_p,), sums="elements", guard=integers.unless_it_wraps, error=_error)
linear_rules[jp.convert_element_type_p] = LinearRule(among(None), keeps="place")


def is_repeat(eqn) -> bool:
    """Tells whether a non-mixing ``eqn`` may copy one element of an operand to several places."""
    copies = linear_rules[eqn.primitive].copies
    if copies is not None:
        return any(eqn.uncertain[i] for i in copies)
    sizes = [var.size for var in eqn.moving.values()]
    return sum(out.size for out in eqn.outputs) > sum(sizes)
