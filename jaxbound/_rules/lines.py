"""Defines which lines bound which function of one variable: ``lines(fn, l, u, choice, *known, **params)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import smallest
from jaxbound._bounds.numerics import concrete
from jaxbound._program import activations
from jaxbound._rules import curves, piecewise, waves


def _center(l, u):
    return 0.5 * l + 0.5 * u


def _convex(fn, l, u, choice, *known, **params):
    return curves.convex(fn, l, u, choice.between("lower", l, u, _center(l, u)))


def _concave(fn, l, u, choice, *known, **params):
    return curves.concave(fn, l, u, choice.between("upper", l, u, _center(l, u)))


def _s_shaped(fn, l, u, choice, *known, **params):
    return curves.s_shaped(fn, l, u, choice=choice)


def _soft_sign(fn, l, u, choice, **_):
    """Returns S-shaped lines, but none (NaN) far out, where the squares in the slope leave the number type."""
    # Their inverse may vanish, or they may overflow: in float16 that comes first.
    limit = min((4 * smallest(l.dtype)) ** -0.5, 0.5 * float(jnp.finfo(l.dtype).max) ** 0.5)
    near = jnp.maximum(jnp.abs(l), jnp.abs(u)) < limit
    return curves.Lines(*(jnp.where(near, x, jnp.nan) for x in _s_shaped(fn, l, u, choice)))


def _turned(fn, l, u, choice, *known, **params):
    """Returns lines for a function that is concave below 0 and convex above it."""
    turned = curves.s_shaped(lambda z: -fn(z), l, u, choice=choice, sides=("upper", "lower"))
    return curves.negated(turned)


def _exp(fn, l, u, choice, **_):
    # The tangent at t is exp(t) (1 + l - t) at l: negative if t > l + 1.
    last = jnp.minimum(u, l + 0.99)
    return curves.convex(
        fn, l, u, choice.between("lower", l, last, jnp.minimum(_center(l, u), last))
    )


def _integer_pow(fn, l, u, choice, *, y, **_):
    if y > 1 and y % 2 == 1:
        return _turned(fn, l, u, choice)
    lines = _convex(fn, l, u, choice)
    if y > 0 or y % 2 == 0:
        return lines
    return _where(u < 0, _concave(fn, l, u, choice), lines)  # odd negative powers


def _pow(fn, l, u, choice, exponent, **_):
    """Returns lines for a power: concave for exponents from 0 to 1 and, left of 0, for odd ones; else convex."""
    odd, negative = jnp.abs(lax.rem(exponent, jnp.full_like(exponent, 2))) == 1, exponent < 0
    bulges = jnp.where(negative, odd & (u < 0), exponent < 1)
    return _where(odd & ~negative, _turned(fn, l, u, choice), _bulging(bulges, fn, l, u, choice))


def _over(fn, l, u, choice, known, **_):
    """Returns lines for a known number divided by an uncertain one that is never 0."""
    return _bulging((known < 0) != (u < 0), fn, l, u, choice)


def _bulging(where, fn, l, u, choice):
    """Returns lines for a function that is concave at the elements marked in ``where`` and convex at the others."""
    return _where(where, _concave(fn, l, u, choice), _convex(fn, l, u, choice))


def _where(condition, first, second):
    pairs = zip(first, second, strict=True)
    return curves.Lines(*(jnp.where(condition, a, b) for a, b in pairs))


def _wavy(*bends: float, first: int):
    """Returns lines for a function whose inflection points are ``bends``; ``first``: see `curves.wavy`."""
    return lambda fn, l, u, choice, **_: curves.wavy(fn, l, u, bends, first, choice)


def _elu(fn, l, u, choice, alpha, **_):
    value = concrete(alpha)
    if value is not None and (value >= 0).all() and (value <= 1).all():
        return _convex(fn, l, u, choice)
    return _where(alpha >= 0, *(curves.wavy(fn, l, u, (0.0,), first, choice) for first in (1, -1)))


def _wave(peak: float):
    """Returns lines for ``cos(z - peak)``."""
    return lambda fn, l, u, choice, **_: waves.wave(fn, peak, l, u)


LINES: dict[Any, Callable[..., curves.Lines]] = {
    **dict.fromkeys(
        (
            jp.expm1_p,
            jp.rsqrt_p,
            jp.cosh_p,
            jp.lgamma_p,
            activations.softplus,
            activations.square,
            activations.xlogx,
            activations.log_cosh,
        ),
        _convex,
    ),
    **dict.fromkeys(
        (jp.log_p, jp.log1p_p, jp.sqrt_p, jp.acosh_p, jp.digamma_p, activations.entr), _concave
    ),
    **dict.fromkeys(
        (
            jp.logistic_p,
            jp.tanh_p,
            jp.atan_p,
            jp.erf_p,
            jp.asinh_p,
            jp.cbrt_p,
        ),
        _s_shaped,
    ),
    **dict.fromkeys((jp.sinh_p, jp.asin_p, jp.atanh_p, jp.erf_inv_p, jp.erfc_p), _turned),
    activations.soft_sign: _soft_sign,
    jp.exp_p: _exp,
    jp.integer_pow_p: _integer_pow,
    jp.pow_p: _pow,
    jp.div_p: _over,
    jp.sin_p: _wave(math.pi / 2),
    jp.cos_p: _wave(0.0),
    jp.tan_p: lambda fn, l, u, choice, **_: waves.tangent(fn, l, u),
    activations.elu: _elu,
    activations.silu: _wavy(-2.3993572805154677, 2.3993572805154677, first=-1),
    activations.gelu_erf: _wavy(-(2**0.5), 2**0.5, first=-1),
    activations.gelu_tanh: _wavy(-1.4185040088, 1.4185040088, first=-1),
    activations.mish: _wavy(-2.2563763963607926, 1.4905711794854284, first=-1),
    activations.straight_pieces: piecewise.lines,
    activations.quadratic_pieces: piecewise.lines,
    jp.abs_p: lambda fn, l, u, choice, **_: curves.one_kink(fn, l, u, 0.0, -1.0, 1.0, choice),
    activations.leaky_relu: lambda fn, l, u, choice, a: curves.one_kink(
        fn, l, u, 0.0, a, 1.0, choice
    ),
    activations.ramp: lambda fn, l, u, choice, r, eta: curves.two_kinks(
        fn, l, u, 0.0, r, eta, choice
    ),
    activations.clip: lambda fn, l, u, choice, low, high: curves.two_kinks(
        fn, l, u, low, high, 0.0, choice
    ),
}
