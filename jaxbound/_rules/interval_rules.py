"""Defines the table of interval rules: what a primitive does to intervals.

A rule takes the operands, `Interval` where uncertain and arrays where known, and the parameters of
the primitive; it returns intervals that contain every value. Ends may come out NaN or infinite on
the wrong side where the primitive has no finite bound; the walk widens those to infinity.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._program import activations
from jaxbound._program.rewrites import REARRANGE
from jaxbound._program.searches import interpolation, search
from jaxbound._rules import arithmetic, arrays, choices, integers, piecewise, powers, tables, waves
from jaxbound._rules import axes as along


class IntervalRule(NamedTuple):
    """Holds what a primitive does to intervals.

    Attributes:
      bound: ``bound(*operands, **params)`` returns the intervals of the outputs.
      operands: the positions that may be uncertain (None: all).
      radius: optional ``radius(*operands, **params)``: half the width of the bound, where that costs less.
    """

    bound: Callable[..., Any]
    operands: Sequence[int] | None = None
    radius: Callable[..., Any] | None = None

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


# ---------------------------------------------------------------- non-decreasing in every operand


def def_increasing(
    primitive, operands: Sequence[int] | None = None, inside: float | None = None
) -> None:
    """Registers the interval rule of a ``primitive`` that is non-decreasing in each uncertain operand.

    The ends of its image are its values at the operands' ends. If it is infinitely steep at some points, such as
    the ends of its domain, ``inside`` is another point of the domain, and gradients are kept finite.
    """

    def increasing(*xs, **params):
        fn = functools.partial(primitive.bind, **params)
        fn = fn if inside is None else powers.tame(fn, inside)
        lower, upper = (fn(*(arithmetic.ends(x)[side] for x in xs)) for side in (0, 1))
        if isinstance(lower, list | tuple):
            return list(map(Interval, lower, upper))
        return Interval(lower, upper)

    interval_rules[primitive] = IntervalRule(increasing, operands)


for _p in (
    jp.add_p, jp.add_jaxvals_p, jp.max_p, jp.min_p, jp.concatenate_p, jp.pad_p, jp.reshape_p,
    jp.transpose_p, jp.squeeze_p, jp.slice_p, jp.rev_p, jp.copy_p,
    jp.reduce_precision_p, jp.reduce_sum_p, jp.reduce_max_p, jp.cumsum_p, jp.cummax_p,
    jp.reduce_window_sum_p, jp.reduce_window_max_p, jp.name_p, *REARRANGE,
    jp.exp_p, jp.expm1_p, jp.logistic_p, jp.tanh_p, jp.sinh_p,
    jp.asinh_p, jp.atan_p, jp.erf_p, jp.floor_p, jp.ceil_p, jp.round_p, jp.sign_p,
    jp.cumlogsumexp_p, activations.softplus, activations.soft_sign,
    activations.clip,
):  # fmt: skip
    def_increasing(_p)

# Infinitely steep at an end of their domain, or at 0 (cbrt); the number is a point inside, where they are not.
for _p, _inside in (
    (jp.log_p, 0.5), (jp.log1p_p, 0.5), (jp.sqrt_p, 0.5), (jp.cbrt_p, 0.5), (jp.asin_p, 0.5), (jp.acosh_p, 2.0),
    (jp.atanh_p, 0.5), (jp.erf_inv_p, 0.5),
):  # fmt: skip
    def_increasing(_p, inside=_inside)

# The other operands are sizes or indices, which must be known.
for _p, _operands in (
    (jp.broadcast_in_dim_p, (0,)), (jp.dynamic_slice_p, (0,)),
    (jp.dynamic_update_slice_p, (0, 1)), (jp.scatter_p, (0, 2)), (jp.scatter_add_p, (0, 2)),
    (jp.scatter_max_p, (0, 2)), (jp.scatter_min_p, (0, 2)),
):  # fmt: skip
    def_increasing(_p, _operands)


# ---------------------------------------------------------------- decreasing, products


interval_rules |= {
    jp.neg_p: IntervalRule(arithmetic.neg),
    jp.sub_p: IntervalRule(arithmetic.sub),
    jp.not_p: IntervalRule(integers.logical_not),
    jp.and_p: IntervalRule(integers.logical(jp.and_p)),
    jp.or_p: IntervalRule(integers.logical(jp.or_p)),
    jp.xor_p: IntervalRule(integers.exclusive_or),
    jp.reduce_and_p: IntervalRule(integers.logical_reduction(jp.reduce_and_p)),
    jp.reduce_or_p: IntervalRule(integers.logical_reduction(jp.reduce_or_p)),
    jp.convert_element_type_p: IntervalRule(integers.convert),
    jp.rsqrt_p: IntervalRule(powers.rsqrt),
    jp.mul_p: IntervalRule(arithmetic.mul),
    jp.div_p: IntervalRule(integers.quotient(arithmetic.div)),
    jp.erfc_p: IntervalRule(arithmetic.decreasing(jp.erfc_p)),
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
    interval_rules[_p] = IntervalRule(_bound, radius=_radius)


# ---------------------------------------------------------------- between turning points

# The only stationary points of these functions ``x * f(x)``: the roots of x * f'(x) + f(x).
SILU_TURN, GELU_ERF_TURN, GELU_TANH_TURN, MISH_TURN = (
    -1.2784645427610738,
    -0.7517915246935645,
    -0.7524614220710162,
    -1.1924312145154952,
)


def def_turning(primitive, turns: Callable[..., tuple[Any, ...]], inside=None) -> None:
    """Registers the interval rule of a ``primitive`` that is monotone between its turning points.

    Its first operand alone may be uncertain; ``turns(*other_operands)`` returns the turning points.
    """

    def bound(x, *known, **params):
        fn = lambda z: primitive.bind(z, *known, **params)
        return arithmetic.image(
            fn if inside is None else powers.tame(fn, inside), x, *turns(*known)
        )

    interval_rules[primitive] = IntervalRule(bound, (0,))


def_turning(jp.abs_p, lambda: (0.0,))
def_turning(activations.square, lambda: (0.0,))
def_turning(activations.silu, lambda: (SILU_TURN,))
def_turning(activations.gelu_erf, lambda: (GELU_ERF_TURN,))
def_turning(activations.gelu_tanh, lambda: (GELU_TANH_TURN,))
def_turning(activations.mish, lambda: (MISH_TURN,))
def_turning(jp.cosh_p, lambda: (0.0,))
def_turning(activations.log_cosh, lambda: (0.0,))
for _p in (activations.entr, activations.xlogx):
    def_turning(_p, lambda: (math.exp(-1),), inside=0.5)
def_turning(activations.leaky_relu, lambda slope: (0.0,))
def_turning(activations.elu, lambda alpha: (0.0,))


def _ramp(x, r, eta, **_):
    """Bounds ``eta * z + (1 - eta) * clip(z, 0, r)``: non-decreasing if eta >= 0, else a falling plus a rising part."""
    r, rises = activations.spread(r, x.lower), jnp.greater_equal(eta, 0)

    def end(z, other):
        clipped = activations.clip.bind(z, jnp.zeros_like(r), r)
        return eta * jnp.where(rises, z, other) + (1 - eta) * clipped

    return Interval(end(x.lower, x.upper), end(x.upper, x.lower))


for _p in (activations.straight_pieces, activations.quadratic_pieces):
    interval_rules[_p] = IntervalRule(piecewise.image)
interval_rules[activations.ramp] = IntervalRule(_ramp, (0,))
interval_rules[jp.integer_pow_p] = IntervalRule(powers.integer_pow)
interval_rules[jp.pow_p] = IntervalRule(powers.power)
# Right of its last pole, at 0, lgamma is convex with this one turning point, and digamma is increasing.
interval_rules[jp.lgamma_p] = IntervalRule(arithmetic.above_zero(jp.lgamma_p, 1.4616321449683623))
interval_rules[jp.digamma_p] = IntervalRule(arithmetic.above_zero(jp.digamma_p))
interval_rules[jp.sin_p] = IntervalRule(waves.wave_image(jp.sin_p, math.pi / 2))
interval_rules[jp.cos_p] = IntervalRule(waves.wave_image(jp.cos_p, 0.0))
interval_rules[jp.tan_p] = IntervalRule(waves.tan_image)
interval_rules[jp.atan2_p] = IntervalRule(waves.atan2_image)
interval_rules[activations.modulus] = IntervalRule(arithmetic.modulus)
interval_rules |= {
    jp.gather_p: IntervalRule(tables.gather),
    search: IntervalRule(tables.search),
    interpolation: IntervalRule(tables.interpolation, (0,)),
    # An uncertain first operand is taken out before, as a factor: only the updates are uncertain here.
    jp.scatter_mul_p: IntervalRule(arrays.scatter_product, (2,)),
    jp.triangular_solve_p: IntervalRule(arrays.triangular_solve, (1,)),
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
    activations.logsumexp: IntervalRule(along.logsumexp_image, (0,)),
    activations.softmax: IntervalRule(along.softmax_image(jnp.exp, 0), (0,)),
    activations.log_softmax: IntervalRule(along.softmax_image(lambda z: z, -jnp.inf), (0,)),
}


# ---------------------------------------------------------------- comparisons and choices


interval_rules |= {
    jp.lt_p: IntervalRule(
        arithmetic.compare(lambda xl, xu, yl, yu: xu < yl, lambda xl, xu, yl, yu: xl < yu)
    ),
    jp.le_p: IntervalRule(
        arithmetic.compare(lambda xl, xu, yl, yu: xu <= yl, lambda xl, xu, yl, yu: xl <= yu)
    ),
    jp.gt_p: IntervalRule(
        arithmetic.compare(lambda xl, xu, yl, yu: xl > yu, lambda xl, xu, yl, yu: xu > yl)
    ),
    jp.ge_p: IntervalRule(
        arithmetic.compare(lambda xl, xu, yl, yu: xl >= yu, lambda xl, xu, yl, yu: xu >= yl)
    ),
    jp.eq_p: IntervalRule(
        arithmetic.compare(
            lambda xl, xu, yl, yu: (xl == xu) & (yl == yu) & (xl == yl),
            lambda xl, xu, yl, yu: (xl <= yu) & (yl <= xu),
        )
    ),
    jp.ne_p: IntervalRule(
        arithmetic.compare(
            lambda xl, xu, yl, yu: (xu < yl) | (yu < xl),
            lambda xl, xu, yl, yu: ~((xl == xu) & (yl == yu) & (xl == yl)),
        )
    ),
    jp.lt_to_p: IntervalRule(arithmetic.compare_total(jp.lt_to_p)),
    jp.le_to_p: IntervalRule(arithmetic.compare_total(jp.le_to_p)),
    jp.is_finite_p: IntervalRule(arithmetic.is_finite),
    activations.is_nan: IntervalRule(arithmetic.is_nan),
    jp.select_n_p: IntervalRule(choices.select_n),
    jp.argmax_p: IntervalRule(choices.arg(1)),
    jp.argmin_p: IntervalRule(choices.arg(-1)),
    jp.sort_p: IntervalRule(choices.sort),
    jp.top_k_p: IntervalRule(choices.top_k),
    jp.select_and_gather_add_p: IntervalRule(choices.gather_selected),
    jp.select_and_scatter_add_p: IntervalRule(choices.scatter_selected),
}

# The results of these may leave an integer type, and wrap around.
_SUMS = (jp.add_p, jp.sub_p, jp.neg_p, jp.reduce_sum_p, jp.cumsum_p, jp.reduce_window_sum_p)
for _p in (*_SUMS, jp.mul_p, jp.integer_pow_p, jp.scatter_add_p):
    _guard = integers.scattered_sum if _p is jp.scatter_add_p else integers.unless_it_wraps
    interval_rules[_p] = interval_rules[_p]._replace(bound=_guard(interval_rules[_p].bound))
