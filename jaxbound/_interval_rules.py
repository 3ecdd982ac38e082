"""The table of interval rules: what a primitive does to intervals.

A rule takes the operands, `Interval` where uncertain and arrays where known, and the parameters of
the primitive; it returns intervals that contain every value. Ends may come out NaN or infinite on
the wrong side where the primitive has no finite bound; the walk widens those to infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound import _arithmetic as arithmetic
from jaxbound import _primitives as program
from jaxbound._interval import Interval


class IntervalRule(NamedTuple):
    """What a primitive does to intervals.

    Attributes:
      bound: ``bound(*operands, **params)``.
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
    """Decorator: the interval rule of ``primitive``.

    The rule must satisfy ``rule(X).lower <= primitive(x) <= rule(X).upper`` for all x in X.

    Args:
      primitive: a JAX primitive, as found in ``jax.make_jaxpr(fn)(x).eqns[i].primitive``.
      operands: positions that may be uncertain (`Interval`); None means any.

    Example:
      >>> import jax, jaxbound as jb
      >>> @jb.register_interval_rule(jax.lax.cosh_p)
      ... def _cosh(x, **params):
      ...     least = jax.numpy.clip(0.0, x.lower, x.upper)
      ...     ends = jax.numpy.maximum(abs(x.lower), abs(x.upper))
      ...     return jb.Interval(jax.numpy.cosh(least), jax.numpy.cosh(ends))
      >>> jb.ibp(jax.numpy.cosh, jb.linf_ball(jax.numpy.zeros(()), 1.0)).lower.item()
      1.0
    """

    def register(rule):
        interval_rules[primitive] = IntervalRule(rule, operands)
        return rule

    return register


# ---------------------------------------------------------------- non-decreasing in every operand


def def_increasing(primitive, operands: Sequence[int] | None = None) -> None:
    """``primitive`` is non-decreasing in each uncertain operand: its ends are the ends' values."""

    def increasing(*xs, **params):
        lower = primitive.bind(*(arithmetic.ends(x)[0] for x in xs), **params)
        upper = primitive.bind(*(arithmetic.ends(x)[1] for x in xs), **params)
        if isinstance(lower, list | tuple):
            return list(map(Interval, lower, upper))
        return Interval(lower, upper)

    interval_rules[primitive] = IntervalRule(increasing, operands)


for _p in (
    jp.add_p, jp.add_jaxvals_p, jp.max_p, jp.min_p, jp.concatenate_p, jp.pad_p, jp.reshape_p,
    jp.transpose_p, jp.squeeze_p, jp.slice_p, jp.rev_p, jp.copy_p, jp.convert_element_type_p,
    jp.reduce_precision_p, jp.reduce_sum_p, jp.reduce_max_p, jp.cumsum_p, jp.cummax_p, jp.cummin_p,
    jp.reduce_and_p, jp.reduce_or_p,
    jp.reduce_window_sum_p, jp.reduce_window_max_p, jp.reduce_window_min_p, jp.name_p, *program.REARRANGE,
    jp.exp_p, jp.expm1_p, jp.log_p, jp.log1p_p, jp.sqrt_p, jp.cbrt_p, jp.logistic_p, jp.tanh_p, jp.sinh_p,
    jp.asinh_p, jp.atan_p, jp.erf_p, jp.floor_p, jp.ceil_p, jp.round_p, jp.sign_p,
    program.softplus, program.clip,
):  # fmt: skip
    def_increasing(_p)

# The other operands are sizes, indices or a padding value's shape: known.
for _p, _operands in (
    (jp.broadcast_in_dim_p, (0,)), (jp.gather_p, (0,)), (jp.dynamic_slice_p, (0,)),
    (jp.dynamic_update_slice_p, (0, 1)), (jp.scatter_p, (0, 2)), (jp.scatter_add_p, (0, 2)),
):  # fmt: skip
    def_increasing(_p, _operands)


# ---------------------------------------------------------------- decreasing, products


interval_rules |= {
    jp.neg_p: IntervalRule(arithmetic.neg),
    jp.sub_p: IntervalRule(arithmetic.sub),
    jp.not_p: IntervalRule(arithmetic.logical_not),
    jp.and_p: IntervalRule(arithmetic.logical(jp.and_p)),
    jp.or_p: IntervalRule(arithmetic.logical(jp.or_p)),
    jp.rsqrt_p: IntervalRule(arithmetic.rsqrt),
    jp.mul_p: IntervalRule(arithmetic.mul),
    jp.div_p: IntervalRule(arithmetic.div, (0,)),
}
for _p in (jp.dot_general_p, jp.conv_general_dilated_p):
    _radius = arithmetic.bilinear_radius(_p)
    interval_rules[_p] = IntervalRule(arithmetic.bilinear(_p, _radius), radius=_radius)


# ---------------------------------------------------------------- between turning points

# The only stationary points: x * f'(x) + f(x) = 0.
SILU_TURN, GELU_ERF_TURN, GELU_TANH_TURN = (
    -1.2784645427610738,
    -0.7517915246935645,
    -0.7524614220710162,
)


def def_turning(primitive, turns: Callable[..., tuple[Any, ...]]) -> None:
    """``primitive``'s first operand is uncertain; ``turns(*other operands)`` are its turning points."""

    def bound(x, *known, **params):
        return arithmetic.image(lambda z: primitive.bind(z, *known, **params), x, *turns(*known))

    interval_rules[primitive] = IntervalRule(bound, (0,))


def_turning(jp.abs_p, lambda: (0.0,))
def_turning(program.square, lambda: (0.0,))
def_turning(program.silu, lambda: (SILU_TURN,))
def_turning(program.gelu_erf, lambda: (GELU_ERF_TURN,))
def_turning(program.gelu_tanh, lambda: (GELU_TANH_TURN,))
def_turning(program.leaky_relu, lambda slope: (0.0,))
def_turning(program.elu, lambda alpha: (0.0,))


def _ramp(x, r, eta, **_):
    """``eta * z + (1 - eta) * clip(z, 0, r)``: non-decreasing, or else a falling and a rising part."""
    r, rises = program.spread(r, x.lower), jnp.greater_equal(eta, 0)

    def end(z, other):
        clipped = program.clip.bind(z, jnp.zeros_like(r), r)
        return eta * jnp.where(rises, z, other) + (1 - eta) * clipped

    return Interval(end(x.lower, x.upper), end(x.upper, x.lower))


interval_rules[program.ramp] = IntervalRule(_ramp, (0,))
interval_rules[jp.integer_pow_p] = IntervalRule(arithmetic.integer_pow)
interval_rules[jp.pow_p] = IntervalRule(arithmetic.power, (0,))


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
    jp.is_finite_p: IntervalRule(arithmetic.is_finite),
    jp.select_n_p: IntervalRule(arithmetic.select_n),
}
