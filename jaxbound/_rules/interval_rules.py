"""Defines the table of interval rules: what a primitive does to intervals.

A rule takes the operands, `Interval` where uncertain and arrays where known, and the parameters of
the primitive; it returns intervals that contain every value. Ends may come out NaN or infinite on
the wrong side where the primitive has no finite bound; the walk widens those to infinity.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program import activations
from jaxbound._program.searches import interpolation, search
from jaxbound._rules import arithmetic, arrays, choices, integers, powers, tables, waves
from jaxbound._rules import axes as along
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.one_variable import Elementwise, elementwise_image


class IntervalRule(NamedTuple):
    """Holds what a primitive does to intervals.

    Attributes:
      bound: ``bound(*operands, **params)`` returns the intervals of the outputs.
      operands: the positions that may be uncertain (None: all).
      radius: optional ``radius(*operands, **params)``: half the width of the bound, where that costs less.
      exact: the bound is the smallest interval for independent operands (one uncertain factor of a product).
    """

    bound: Callable[..., Any]
    operands: Sequence[int] | None = None
    radius: Callable[..., Any] | None = None
    exact: bool = False

    def accepts(self, uncertain: Sequence[bool]) -> bool:
        return self.operands is None or all(
            not u or i in self.operands for i, u in enumerate(uncertain)
        )


interval_rules: dict[Any, IntervalRule] = {}


def register_interval_rule(primitive, operands: Sequence[int] | None = None):
    """Registers the decorated function as the interval rule of ``primitive``.

    The rule must satisfy ``rule(X).lower <= primitive(x) <= rule(X).upper`` for all x in X.

    Args:
      primitive: a JAX primitive, as found in ``jax.make_jaxpr(fn)(x).eqns[i].primitive``.
      operands: positions that may be uncertain (`Interval`); None means any.

    Example:
      >>> import jax, jaxbound as jb
      >>> @jb.register_interval_rule(jax.lax.bessel_i0e_p)
      ... def _i0e(x, **params):  # exp(-|x|) I0(x) falls with |x|
      ...     nearest = jax.numpy.clip(0.0, x.lower, x.upper)
      ...     farthest = jax.numpy.maximum(-x.lower, x.upper)
      ...     return jb.Interval(jax.lax.bessel_i0e(farthest), jax.lax.bessel_i0e(nearest))
      >>> found = jb.ibp(jax.lax.bessel_i0e, jb.linf_ball(jax.numpy.zeros(()), 1.0))
      >>> round(found.upper.item(), 3)
      1.0
    """

    def register(rule):
        interval_rules[primitive] = IntervalRule(rule, operands)
        return rule

    return register


# ---------------------------------------------------------------- monotone


def monotone(
    primitive,
    operands: Sequence[int] | None = None,
    falls: Sequence[int] = (),
    guard: Callable[[Any], Any] = lambda bound: bound,
) -> IntervalRule:
    """Returns the interval rule of a primitive that never increases in the operands ``falls``, nor decreases in others.

    The ends of its image are its values at the operands' ends; a ``guard`` heeds those that leave an integer type.
    """

    def monotone_image(*xs, **params):
        ends = [arithmetic.ends(x)[:: -1 if i in falls else 1] for i, x in enumerate(xs)]
        lower, upper = (primitive.bind(*side, **params) for side in zip(*ends, strict=True))
        if isinstance(lower, list | tuple):
            return list(map(Interval, lower, upper))
        return Interval(lower, upper)

    return IntervalRule(guard(monotone_image), operands, exact=True)


def elementwise_rule(primitive, record: Elementwise) -> IntervalRule:
    """Returns the interval rule that follows from a record with an image."""
    return IntervalRule(functools.partial(elementwise_image, record, primitive), (0,), exact=True)


interval_rules |= {p: elementwise_rule(p, r) for p, r in ELEMENTWISE.items() if r.image}
interval_rules |= {
    **{p: monotone(p) for p in (jp.max_p, jp.min_p, jp.reduce_max_p, jp.cummax_p)},
    **{p: monotone(p) for p in (jp.reduce_window_max_p, jp.cumlogsumexp_p)},
    activations.logsumexp: monotone(activations.logsumexp, (0,)),
    **{p: monotone(p, (0, 2)) for p in (jp.scatter_max_p, jp.scatter_min_p)},
    **{p: monotone(p, falls=(0,)) for p in (jp.lt_p, jp.le_p, jp.not_p)},
    **{p: monotone(p, falls=(1,)) for p in (jp.gt_p, jp.ge_p)},
}


# ---------------------------------------------------------------- logic, products


interval_rules |= {
    jp.and_p: IntervalRule(integers.logical(jp.and_p)),
    jp.or_p: IntervalRule(integers.logical(jp.or_p)),
    jp.xor_p: IntervalRule(integers.exclusive_or),
    jp.reduce_and_p: IntervalRule(integers.logical(jp.reduce_and_p)),
    jp.reduce_or_p: IntervalRule(integers.logical(jp.reduce_or_p)),
    jp.convert_element_type_p: IntervalRule(integers.convert, exact=True),
    jp.abs_p: IntervalRule(integers.unless_it_wraps(arithmetic.absolute), (0,), exact=True),
    jp.mul_p: IntervalRule(integers.unless_it_wraps(arithmetic.mul), exact=True),
    jp.div_p: IntervalRule(integers.quotient(arithmetic.div), exact=True),
    jp.rem_p: IntervalRule(integers.remainder(arithmetic.rem)),
    jp.nextafter_p: IntervalRule(arithmetic.next_after),
    jp.bitcast_convert_type_p: IntervalRule(integers.bits),
    jp.shift_right_arithmetic_p: IntervalRule(integers.shift_right, (0,)),
    jp.population_count_p: IntervalRule(integers.count_of_bits(jp.population_count_p)),
    jp.clz_p: IntervalRule(integers.count_of_bits(jp.clz_p)),
}
for _p in (jp.dot_general_p, jp.conv_general_dilated_p):
    _radius = arithmetic.bilinear_radius(_p)
    _bound = integers.product(_p, arithmetic.bilinear(_p, _radius))
    interval_rules[_p] = IntervalRule(_bound, radius=_radius, exact=True)


interval_rules[jp.integer_pow_p] = IntervalRule(
    integers.unless_it_wraps(powers.integer_pow), exact=True
)
interval_rules[jp.pow_p] = IntervalRule(powers.power, exact=True)
interval_rules[jp.atan2_p] = IntervalRule(waves.atan2_image)
interval_rules[activations.modulus] = IntervalRule(arithmetic.modulus)
interval_rules |= {
    jp.gather_p: IntervalRule(tables.gather, exact=True),
    search: IntervalRule(tables.search),
    interpolation: IntervalRule(tables.interpolation, (0,)),
    # An uncertain first operand is taken out before, as a factor: only the updates are uncertain here.
    jp.scatter_mul_p: IntervalRule(arrays.scatter_product, (2,)),
    jp.triangular_solve_p: IntervalRule(arrays.triangular_solve, (1,), exact=True),
}


# ---------------------------------------------------------------- along some axes


def _normalised(x, r, *, limit):
    product = arithmetic.mul(x, r)
    within = lambda end: jnp.clip(end, -limit, limit)
    return Interval(within(jnp.fmax(product.lower, -limit)), within(jnp.fmin(product.upper, limit)))


interval_rules |= {
    activations.is_largest: IntervalRule(along.are_largest(1, count=False), (0,)),
    activations.is_least: IntervalRule(along.are_largest(-1, count=False), (0,)),
    activations.count_largest: IntervalRule(along.are_largest(1, count=True), (0,)),
    activations.count_least: IntervalRule(along.are_largest(-1, count=True), (0,)),
    activations.normalised: IntervalRule(_normalised),
    activations.variance: IntervalRule(along.variance_image, (0,)),
    activations.softmax: IntervalRule(along.softmax_image(jnp.exp, 0), (0,)),
    activations.log_softmax: IntervalRule(along.softmax_image(lambda z: z, -jnp.inf), (0,)),
}


# ---------------------------------------------------------------- comparisons and choices


interval_rules |= {
    jp.eq_p: IntervalRule(arithmetic.equal, exact=True),
    jp.ne_p: IntervalRule(arithmetic.unequal, exact=True),
    jp.lt_to_p: IntervalRule(arithmetic.compare_total(jp.lt_to_p)),
    jp.le_to_p: IntervalRule(arithmetic.compare_total(jp.le_to_p)),
    jp.is_finite_p: IntervalRule(arithmetic.is_finite),
    activations.is_nan: IntervalRule(arithmetic.is_nan),
    jp.select_n_p: IntervalRule(choices.select_n, exact=True),
    jp.argmax_p: IntervalRule(choices.arg(1)),
    jp.argmin_p: IntervalRule(choices.arg(-1)),
    jp.sort_p: IntervalRule(choices.sort),
    jp.top_k_p: IntervalRule(choices.top_k),
    jp.select_and_gather_add_p: IntervalRule(choices.gather_selected, exact=True),
    jp.select_and_scatter_add_p: IntervalRule(choices.scatter_selected, exact=True),
}
