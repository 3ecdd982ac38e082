"""Defines the table of elementwise primitives, one record each: lines, image, kinks, and where it is defined."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval, concrete, smallest
from jaxbound._program import activations
from jaxbound._rules import angles, curves, piecewise
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.one_variable import (
    Elementwise,
    curved,
    elementwise_image,
    elementwise_relaxation,
    falling,
    turning,
    within,
)
from jaxbound._rules.relaxations import relaxations
from jaxbound._rules.rounding import Units

_convex, _concave, _s_shaped, _turned = curved(1), curved(-1), curved(1, 0.0), curved(-1, 0.0)
# The positive root of the second derivative of exp(-|z|) I1(z): it is odd, and concave from 0 to there.
_I1E_BEND = 2.781492935347947
_wave_of_i1e = curved(-1, -_I1E_BEND, 0.0, _I1E_BEND)


def _soft_sign(fn, l, u, choice, **_):
    """Returns S-shaped lines, but none (NaN) far out, where the squares in the slope leave the number type."""
    # Their inverse may vanish, or they may overflow: in float16 that comes first.
    limit = min((4 * smallest(l.dtype)) ** -0.5, 0.5 * float(jnp.finfo(l.dtype).max) ** 0.5)
    return within(limit, l, u, _s_shaped(fn, l, u, choice))


def _i1e(fn, l, u, choice, **_):
    """Returns lines of ``exp(-|z|) I1(z)``, but none (NaN) far out, where no tangent can be found.

    JAX's slope is ``i0e - i1e (1 + 1 / |z|)``, and the true one about ``-i1e / (2 |z|)``: |z| times the rounding of
    its terms is lost. That misplaces where lines touch, which enters squared: from eps^-1/2 on, that is too much.
    """
    limit = float(jnp.finfo(l.dtype).eps) ** -0.5
    return within(limit, l, u, _wave_of_i1e(fn, l, u, choice))


def _exp(fn, l, u, choice, **_):
    # The tangent at t is exp(t) (1 + l - t) at l: negative if t > l + 1.
    last = jnp.minimum(u, l + 0.99)
    return curves.convex(
        fn, l, u, choice.between("lower", l, last, jnp.minimum(0.5 * l + 0.5 * u, last))
    )


def _elu(fn, l, u, choice, alpha, **_):
    value = concrete(alpha)
    if value is not None and (value >= 0).all() and (value <= 1).all():
        return _convex(fn, l, u, choice)
    return curves.where(
        alpha >= 0, *(curves.wavy(fn, l, u, (0.0,), first, choice) for first in (1, -1))
    )


def _ramp_image(fn, x, r, eta):
    """Bounds ``eta * z + (1 - eta) * clip(z, 0, r)``: non-decreasing if eta >= 0, else a falling plus a rising part."""
    r, rises = activations.spread(r, x.lower), jnp.greater_equal(eta, 0)

    def end(z, other):
        clipped = activations.clip.bind(z, jnp.zeros_like(r), r)
        return eta * jnp.where(rises, z, other) + (1 - eta) * clipped

    return Interval(end(x.lower, x.upper), end(x.upper, x.lower))


def _ramp(fn, l, u, choice, r, eta):
    r = activations.spread(r, l)
    fn = lambda z: activations.ramp.bind(z, r, eta)
    return curves.two_kinks(fn, l, u, 0.0, r, eta, choice)


def _rsqrt(root, x: Interval, **_) -> Interval:
    # Below 0 the function is not defined: no finite bound.
    return Interval(root(x.upper), jnp.where(x.lower > 0, root(x.lower), jnp.inf))


def _wave(peak: float) -> Elementwise:
    """Returns the record of ``cos(z - peak)``."""
    image = lambda fn, x, **_: angles.wave_image(fn, x, peak)
    # Lines below and above are as high as a maximum whose place is off by ``8 u (|z| + 7)``: half of its square.
    error = Units(8, operand=2, constant=64, steep=1, within=1e3)
    return Elementwise(
        lambda fn, l, u, choice, **_: angles.wave(fn, peak, l, u), image, error=error
    )


# Functions ``x * f(x)`` turn at the roots of x * f'(x) + f(x) alone; lgamma has one turn right of its last pole, at 0.
ELEMENTWISE: dict[Any, Elementwise] = {
    jp.exp_p: Elementwise(_exp, error=Units(12, slope=12)),
    jp.expm1_p: Elementwise(_convex, error=Units(16, slope=12, steep=1)),
    jp.logistic_p: Elementwise(_s_shaped, error=Units(8, steep=1)),
    jp.tanh_p: Elementwise(_s_shaped, error=Units(16, slope=32, steep=1)),
    jp.atan_p: Elementwise(_s_shaped, error=Units(12, steep=1)),
    jp.erf_p: Elementwise(_s_shaped, error=Units(16, steep=1.2)),
    jp.asinh_p: Elementwise(_s_shaped),
    jp.sinh_p: Elementwise(_turned),
    jp.cosh_p: Elementwise(_convex, turning(0.0)),
    jp.erfc_p: Elementwise(_turned, falling),
    jp.sin_p: _wave(math.pi / 2),
    jp.cos_p: _wave(0.0),
    activations.square: Elementwise(_convex, turning(0.0), error=Units(2)),
    activations.softplus: Elementwise(_convex, error=Units(16, slope=16, steep=1)),
    activations.soft_sign: Elementwise(_soft_sign),
    activations.log_cosh: Elementwise(_convex, turning(0.0)),
    activations.elu: Elementwise(_elu, turning(0.0)),
    activations.silu: Elementwise(
        curved(-1, -2.3993572805154677, 2.3993572805154677),
        turning(-1.2784645427610738),
        error=Units(16, slope=32, steep=1.2),
    ),
    activations.gelu_erf: Elementwise(
        curved(-1, -(2**0.5), 2**0.5),
        turning(-0.7517915246935645),
        error=Units(16, operand=16, slope=16, steep=1.2),
    ),
    activations.gelu_tanh: Elementwise(
        curved(-1, -1.4185040088, 1.4185040088),
        turning(-0.7524614220710162),
        error=Units(16, operand=16, slope=128, steep=1.2),
    ),
    activations.mish: Elementwise(
        curved(-1, -2.2563763963607926, 1.4905711794854284), turning(-1.1924312145154952)
    ),
    jp.bessel_i1e_p: Elementwise(_i1e, turning(-1.5451272579925426, 1.5451272579925426)),
    activations.quadratic_pieces: Elementwise(piecewise.lines, piecewise.image),
    # Undefined, or infinitely steep, somewhere.
    jp.log_p: Elementwise(_concave, inside=0.5, error=Units(8)),
    jp.log1p_p: Elementwise(_concave, inside=0.5, error=Units(512)),
    # The root of a number that is flushed to 0 is not small: at most 1.1e-19 in float32.
    jp.sqrt_p: Elementwise(_concave, inside=0.5, error=Units(4, constant=1e-11)),
    jp.cbrt_p: Elementwise(_s_shaped, inside=0.5),
    jp.rsqrt_p: Elementwise(_convex, _rsqrt, inside=0.5, error=Units(8)),
    jp.asin_p: Elementwise(_turned, inside=0.5),
    jp.acosh_p: Elementwise(_concave, inside=2.0),
    jp.atanh_p: Elementwise(_turned, inside=0.5),
    jp.erf_inv_p: Elementwise(_turned, inside=0.5),
    jp.lgamma_p: Elementwise(_convex, turning(1.4616321449683623, low=0.0), inside=0.5),
    jp.digamma_p: Elementwise(_concave, turning(low=0.0), inside=0.5),
    jp.tan_p: Elementwise(
        lambda fn, l, u, *_, **__: angles.tangent(fn, l, u), angles.tan_image, inside=0.5
    ),
    activations.entr: Elementwise(_concave, turning(math.exp(-1)), inside=0.5),
    activations.xlogx: Elementwise(_convex, turning(math.exp(-1)), inside=0.5),
    # Made of straight pieces.
    jp.abs_p: Elementwise(
        lambda fn, l, u, choice, **_: curves.one_kink(fn, l, u, 0.0, -1.0, 1.0, choice),
        None,  # integers may wrap around
        kinks=lambda: (0.0,),
        error=Units(0, slope=0),
    ),
    activations.leaky_relu: Elementwise(
        lambda fn, l, u, choice, a: curves.one_kink(fn, l, u, 0.0, a, 1.0, choice),
        turning(0.0),
        kinks=lambda slope: (0.0,),
        error=Units(4, slope=0),
    ),
    activations.clip: Elementwise(
        lambda fn, l, u, choice, low, high: curves.two_kinks(fn, l, u, low, high, 0.0, choice),
        kinks=lambda low, high: (low, high),
        error=Units(0, slope=0),
    ),
    activations.ramp: Elementwise(_ramp, _ramp_image, kinks=lambda r, eta: (0.0, r)),
    activations.straight_pieces: Elementwise(
        piecewise.lines,
        piecewise.image,
        kinks=lambda *, breaks, polys: breaks,
    ),
    # Steps and roundings have no lines.
    **dict.fromkeys(
        (jp.floor_p, jp.ceil_p, jp.round_p, jp.sign_p), Elementwise(error=Units(0, slope=0))
    ),
    jp.reduce_precision_p: Elementwise(),
}


def is_partial(primitive) -> bool:
    """Tells whether a primitive may be undefined, or infinitely steep, somewhere."""
    return primitive in ELEMENTWISE and ELEMENTWISE[primitive].inside is not None


def is_kinked(primitive) -> bool:
    """Tells whether a primitive consists of straight pieces (of one uncertain operand): the kind chooses its lines."""
    return primitive in ELEMENTWISE and ELEMENTWISE[primitive].kinks is not None


def declare_elementwise(primitive, record: Elementwise) -> None:
    """Puts a record into the tables, with the interval rule of its image and the relaxation of its lines, if any."""
    ELEMENTWISE[primitive] = record
    if record.image is not None:
        image = functools.partial(elementwise_image, record, primitive)
        interval_rules[primitive] = IntervalRule(image, (0,), exact=True, error=record.error)
    relaxations.pop(primitive, None)
    if record.lines is not None:
        relaxations[primitive] = functools.partial(elementwise_relaxation, record, primitive)


for _primitive, _record in tuple(ELEMENTWISE.items()):
    declare_elementwise(_primitive, _record)
