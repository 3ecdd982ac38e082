"""Defines the table of linear rules: in which operands a primitive is affine, and how rows go backward through it.

A linear primitive is declared once: `jax.vjp` transposes it, and its interval rule is its forward
rule. Convolution alone has an explicit transpose, because XLA's own is slow in loops and gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._program.rewrites import REARRANGE
from jaxbound._rules.convolution import transpose_convolution


class LinearRule(NamedTuple):
    """Holds in which operands a primitive is affine.

    Attributes:
      operands: ``operands(uncertain)`` gives the positions in which the primitive is jointly affine
        when those marked in ``uncertain`` vary, or None if it is not.
      sums: what an output element may add up: "nothing" (it depends on one element of one operand),
        "operands" (one element of each) or "elements" (several of one operand).
      transpose: optional ``transpose(rows, *operands, **params)`` for rows ``[K, *output_shape]`` of
        the first operand; None: by `jax.vjp`.
      pick: optional ``pick(indices, shape, *operands, **params)`` returns the output's elements at flat
        ``indices [C]`` as rows ``[C, *shape]`` of the one uncertain operand, which is passed as None; it
        returns None where it does not cover the case.
    """

    operands: Callable[[tuple[bool, ...]], Sequence[int] | None]
    sums: str = "nothing"
    transpose: Callable[..., Any] | None = None
    pick: Callable[..., Any] | None = None


linear_rules: dict[Any, LinearRule] = {}


def register_linear_rule(
    primitive, operands: Sequence[int] | None = None, sums: str = "elements"
) -> None:
    """Declares that ``primitive`` is jointly affine in the given operands; the others must be known.

    Guarantee asked for: ``primitive(a x + b y) == a primitive(x) + b primitive(y)`` for ``a + b = 1``.
    The primitive needs a transpose in JAX (`jax.vjp`) and an interval rule.

    Args:
      primitive: a JAX primitive.
      operands: positions; None: all.
      sums: "nothing" if each output element depends on one element of one operand, "operands" if on
        one of each (as in addition), "elements" otherwise; tells where intervals are exact.

    Example:
      >>> import jax, jaxbound as jb
      >>> jb.register_linear_rule(jax.lax.real_p, sums="nothing")
    """
    linear_rules[primitive] = LinearRule(_among(operands), sums)


def linear_operands(eqn) -> Sequence[int] | None:
    """Returns positions in which ``eqn`` is jointly affine, the uncertain ones among them; None if it is not affine."""
    rule = linear_rules.get(eqn.primitive)
    if rule is None or not all(out.is_float for out in eqn.outputs):
        return None
    if not all(var.is_float for var in eqn.moving.values()):
        return None
    return rule.operands(eqn.uncertain)


def _among(operands: Sequence[int] | None):
    def affine(uncertain):
        allowed = range(len(uncertain)) if operands is None else operands
        return allowed if all(i in allowed for i, u in enumerate(uncertain) if u) else None

    return affine


def _one_of_two(uncertain):
    """Returns the position of the only uncertain operand, in which a product is linear; None if there are several."""
    return [uncertain.index(True)] if sum(uncertain) == 1 else None


def _cases(uncertain):
    """Returns the positions of the cases of a `select_n`, in which it is affine if its predicate is known."""
    return None if uncertain[0] else range(1, len(uncertain))


def pick_product(indices, shape: Sequence[int], one, other, *, dimension_numbers, **_):
    """Returns entries of the known operand as rows, if each output sums over all of the other operand; else None."""
    sides, batch = dimension_numbers
    weights, (axes, summed) = (other, sides) if one is None else (one, sides[::-1])
    size = math.prod(shape)
    if not size or batch[0] or size > math.prod(shape[i] for i in axes):
        return None
    order = [j for _, j in sorted(zip(axes, summed, strict=True))]
    weights = jnp.moveaxis(weights, order, range(-len(order), 0)).reshape(-1, *shape)
    return jnp.take(weights, indices, axis=0, mode="clip")


for _p in (
    jp.neg_p, jp.concatenate_p, jp.pad_p, jp.reshape_p, jp.transpose_p,
    jp.squeeze_p, jp.slice_p, jp.rev_p, jp.copy_p, jp.convert_element_type_p, jp.name_p, *REARRANGE,
):  # fmt: skip
    linear_rules[_p] = LinearRule(_among(None))
for _p, _operands in (
    (jp.broadcast_in_dim_p, (0,)), (jp.gather_p, (0,)), (jp.dynamic_slice_p, (0,)),
    (jp.dynamic_update_slice_p, (0, 1)), (jp.scatter_p, (0, 2)),
):  # fmt: skip
    linear_rules[_p] = LinearRule(_among(_operands))
for _p in (jp.reduce_sum_p, jp.cumsum_p, jp.reduce_window_sum_p):
    linear_rules[_p] = LinearRule(_among(None), sums="elements")
for _p in (jp.add_p, jp.add_jaxvals_p, jp.sub_p):
    linear_rules[_p] = LinearRule(_among(None), sums="operands")
linear_rules |= {
    jp.scatter_add_p: LinearRule(_among((0, 2)), sums="elements"),
    jp.triangular_solve_p: LinearRule(_among((1,)), sums="elements"),
    jp.select_n_p: LinearRule(_cases),
    jp.select_and_gather_add_p: LinearRule(_among((0,)), sums="elements"),
    jp.select_and_scatter_add_p: LinearRule(_among((0,)), sums="elements"),
    jp.mul_p: LinearRule(_one_of_two),
    jp.div_p: LinearRule(_among((0,))),
    jp.dot_general_p: LinearRule(_one_of_two, sums="elements", pick=pick_product),
    jp.conv_general_dilated_p: LinearRule(
        _one_of_two, sums="elements", transpose=transpose_convolution
    ),
}
# Where the one uncertain operand is as large as the output, each element of the output depends on the operand's
# element at the same flat index.
IN_PLACE = frozenset((
    jp.add_p, jp.add_jaxvals_p, jp.sub_p, jp.mul_p, jp.div_p, jp.neg_p, jp.convert_element_type_p,
    jp.reshape_p, jp.squeeze_p, jp.broadcast_in_dim_p,
))  # fmt: skip


def is_repeat(eqn) -> bool:
    """Tells whether a non-mixing ``eqn`` may copy one element of an operand to several places."""
    if eqn.primitive in (jp.gather_p, jp.scatter_p, jp.select_and_gather_add_p):
        return True
    if eqn.primitive is jp.pad_p:
        return eqn.uncertain[1]
    sizes = [var.size for var in eqn.moving.values()]
    return sum(out.size for out in eqn.outputs) > sum(sizes)
