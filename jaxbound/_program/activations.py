"""Defines activations: pieces of a program that the trace recognises, and the ways to write them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """Describes a recognised piece of a program, which stands in equations where a primitive would.

    ``variants`` are the ways to write it: functions of ``x`` and of ``parameters`` known values. The
    first one evaluates it. If it ``reduces`` axes of x, they also take ``axes`` and the keywords of one
    of ``options``; those in ``masked`` take a known ``where`` before ``axes``, and so may the first one.
    """

    name: str
    variants: tuple[Callable[..., Any], ...]
    parameters: int = 0
    reduces: bool = False
    options: tuple[dict[str, Any], ...] = ({},)
    masked: tuple[Callable[..., Any], ...] = ()

    def __repr__(self) -> str:
        return self.name

    def bind(self, *args, **params):
        return self.variants[0](*args, **params)


def param_ramp(x, r, eta: jax.typing.ArrayLike = 0.0):
    """Evaluates ParamRamp: ``eta * x`` below 0, ``x`` on [0, r], ``eta * (x - r) + r`` above r.

    Args:
      x: array.
      r: right kink, broadcasts to ``x``; negative values act as 0.
      eta: slope outside [0, r], broadcasts to ``x``; 0 <= eta < 1 keeps it non-decreasing.

    Returns:
      Array of the shape of ``x``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.param_ramp(jnp.array([-1.0, 0.5, 3.0]), r=1.0, eta=0.5).tolist()
      [-0.5, 0.5, 2.0]

    References: Lyu et al., arXiv 2104.00447.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x is {x.dtype}; expected a floating-point array")
    r, eta = (jnp.broadcast_to(jnp.asarray(a, x.dtype), x.shape) for a in (r, eta))
    return _ramp(x, jnp.maximum(r, 0), eta)


def _ramp(x, r, eta):
    return lax.add(
        lax.mul(eta, x),
        lax.mul(lax.sub(jnp.ones_like(eta), eta), clamp(jnp.zeros_like(r), x, r)),
    )


def clamp(low, x, high):
    # `lax.clamp` wants limits of the array's shape or scalars, and fails under vmap if only a scalar limit is
    # mapped (JAX 0.10); `lax.max` takes anything.
    return lax.min(lax.max(x, low), high)


def spread(known, like):
    """Returns ``known`` repeated for every example of a batch of ``like``.

    Reverse mode sums over the batch in every operation that reads a value which the batch shares: here it does so once.
    """
    return jnp.where(jnp.isnan(like), lax.stop_gradient(known), known)


def _log_cosh(x):
    """Returns ``log(cosh(x))`` without overflow, and without cancellation near 0, where it is about ``x^2 / 2``.

    Near 0 as ``log1p(2 sinh^2(x / 2))``, far from it as ``|x| + log1p(exp(-2 |x|)) - log 2``.
    """
    size = jnp.abs(x)
    near = jnp.log1p(2 * lax.integer_pow(lax.sinh(0.5 * jnp.clip(x, -1, 1)), 2))
    far = size + jnp.log1p(jnp.exp(-2 * size)) - jnp.asarray(math.log(2), x.dtype)
    return jnp.where(size < 1, near, far)


silu = Activation("silu", (jax.nn.silu, lambda x: lax.mul(x, lax.logistic(x))))
gelu_tanh = Activation("gelu_tanh", (lambda x: jax.nn.gelu(x, approximate=True),))
gelu_erf = Activation("gelu_erf", (lambda x: jax.nn.gelu(x, approximate=False),))
softplus = Activation(
    "softplus", (jax.nn.softplus, lambda x: jnp.logaddexp(0.0, x), lambda x: jnp.logaddexp(x, 0.0))
)
elu = Activation("elu", (jax.nn.elu,), parameters=1)
leaky_relu = Activation(
    "leaky_relu", (jax.nn.leaky_relu, lambda x, a: jnp.where(x > 0, x, a * x)), parameters=1
)
ramp = Activation("param_ramp", (_ramp,), parameters=2)
clip = Activation("clip", (lambda x, low, high: clamp(low, x, high),), parameters=2)
mish = Activation("mish", (jax.nn.mish, lambda x: x * lax.tanh(jax.nn.softplus(x))))
soft_sign = Activation("soft_sign", (jax.nn.soft_sign,))
log_cosh = Activation("log_cosh", (_log_cosh,))
entr = Activation("entr", (jax.scipy.special.entr,))
xlogx = Activation("xlogx", (lambda x: jax.scipy.special.xlogy(x, x), lambda x: x * jnp.log(x)))
square = Activation("square", (lambda x: lax.mul(x, x),))


def _in_pieces(x, breaks, polys):
    """Evaluates the function that is a polynomial ``a z^2 + b z + c`` between each two break points."""
    value = _polynomial(polys[0], x)
    for z, poly in zip(breaks, polys[1:], strict=True):
        value = jnp.where(x >= jnp.asarray(z, x.dtype), _polynomial(poly, x), value)
    return value


def _polynomial(poly, x):
    a, shift, b, c = about_vertex(*poly)
    linear = b * x + c if b else jnp.full_like(x, c)
    return a * lax.integer_pow(x + shift, 2) + linear if a else linear


def about_vertex(a: float, b: float, c: float) -> tuple[float, float, float, float]:
    """Returns ``a, shift, b, c`` of an equal polynomial ``a (z + shift)^2 + b z + c``, shifted where that cancels less.

    Without the shift, ``(z - 1000)^2 = z^2 - 2000 z + 1000000`` would lose all its digits near 1000.
    """
    if a and abs(c - b * b / (4 * a)) < abs(c):
        return a, b / (2 * a), 0.0, c - b * b / (4 * a)
    return a, 0.0, b, c


straight_pieces = Activation("straight_pieces", (_in_pieces,))
quadratic_pieces = Activation("quadratic_pieces", (_in_pieces,))
# The absolute value of a complex value, as a function of its two parts.
modulus = Activation("modulus", (lambda re, im: lax.abs(lax.complex(re, im)),))
is_nan = Activation("is_nan", (lambda x: lax.ne(x, x),))
# The product of a value and the inverse root of its mean square, which is at most ``limit`` in absolute value.
normalised = Activation("normalised", (lambda x, r, *, limit: x * r,))


def _shifted(x, axes):
    return jnp.exp(x - x.max(axes, keepdims=True))


def _maskable(name: str, reference, *others, options=({},)) -> Activation:
    """Returns the activation of a reference with ``where=``, of other spellings, and of entries that -inf masks."""
    first = lambda x, where=None, *, axes, **rest: reference(x, axes, where=where, **rest)
    masked = (
        lambda x, where, axes, **rest: first(x, where, axes=axes, **rest),
        lambda x, where, axes, **rest: reference(jnp.where(where, x, -jnp.inf), axes, **rest),
    )
    return Activation(name, (first, *others), reduces=True, options=options, masked=masked)


softmax = _maskable(
    "softmax",
    jax.nn.softmax,
    lambda x, axes: _shifted(x, axes) / _shifted(x, axes).sum(axes, keepdims=True),
    lambda x, axes: jnp.exp(x) / jnp.exp(x).sum(axes, keepdims=True),
)
log_softmax = _maskable(
    "log_softmax",
    jax.nn.log_softmax,
    lambda x, axes: x - jax.nn.logsumexp(x, axes, keepdims=True),
    lambda x, axes: x - jnp.expand_dims(jax.nn.logsumexp(x, axes), axes),
    lambda x, axes: x - jnp.log(jnp.exp(x).sum(axes, keepdims=True)),
)
logsumexp = _maskable(
    "logsumexp",
    jax.nn.logsumexp,
    lambda x, axes, keepdims: jnp.log(jnp.exp(x).sum(axes, keepdims=keepdims)),
    options=({"keepdims": False}, {"keepdims": True}),
)


def _expanded_mean(x, axes):
    """Returns the mean of x by the equations of `jnp.mean` in another order: it keeps axes after the division."""
    return jnp.expand_dims(x.mean(axes), axes)


# Squared deviations from the mean, by the ways to write the mean.
_SQUARES = tuple(
    lambda x, axes, mean=mean: lax.integer_pow(x - mean(x, axes), 2)
    for mean in (
        _expanded_mean,
        lambda x, axes: x.mean(axes, keepdims=True),
        lambda x, axes: x.mean(axes) if len(axes) == x.ndim else _expanded_mean(x, axes),
    )
)
variance = Activation(
    "variance",
    (
        lambda x, axes, keepdims: jnp.var(x, axes, keepdims=keepdims),
        *(
            lambda x, axes, keepdims, of=of: of(x, axes).mean(axes, keepdims=keepdims)
            for of in _SQUARES[:2]
        ),
        # As Flax computes it by default.
        lambda x, axes, keepdims: jnp.maximum(
            0.0,
            lax.integer_pow(x, 2).mean(axes, keepdims=keepdims)
            - lax.integer_pow(x.mean(axes, keepdims=keepdims), 2),
        ),
    ),
    reduces=True,
    options=({"keepdims": False}, {"keepdims": True}),
)
# The sum of squared deviations from the mean: the variance times the number of elements.
deviations = Activation(
    "deviations",
    tuple(lambda x, axes, of=of: of(x, axes).sum(axes) for of in _SQUARES),
    reduces=True,
)


def _are(extreme):
    """Returns the function that is 1 at the entries that are the largest (or the least), and 0 at others."""

    def fn(x, axes):
        kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
        return (x == extreme(x, axes).reshape(kept)).astype(x.dtype)

    return fn


def _count(extreme):
    return lambda x, axes: _are(extreme)(x, axes).sum(axes)


# The derivative of a maximum is made of these: the entries that are largest share it equally.
is_largest = Activation("is_largest", (_are(jnp.max),), reduces=True)
is_least = Activation("is_least", (_are(jnp.min),), reduces=True)
count_largest = Activation("count_largest", (_count(jnp.max),), reduces=True)
count_least = Activation("count_least", (_count(jnp.min),), reduces=True)

# Larger patterns first: the first match wins.
ACTIVATIONS = (
    softmax, log_softmax, logsumexp, variance, deviations, count_largest, count_least, is_largest, is_least,
    gelu_tanh, gelu_erf, mish, silu, softplus, elu, leaky_relu, ramp, soft_sign, clip,
    log_cosh, entr, xlogx, square,
)  # fmt: skip
