"""Computes with complex values as pairs of real ones: what each primitive does to the real and imaginary part."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

# A transform along an axis is a product with a square matrix of its length: longer ones have no rule.
MOST_FREQUENCIES = 8192


class Pair(NamedTuple):
    """Holds the real and the imaginary part of an uncertain complex value, as atoms or as arrays."""

    re: Any
    im: Any

    @property
    def uncertain(self) -> bool:
        return True


def is_complex(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def of_parts(eqn, operands) -> bool:
    """Tells whether an equation on uncertain values reads uncertain complex ones, or returns complex ones."""
    return any(isinstance(x, Pair) for x in operands) or any(
        is_complex(getattr(v.aval, "dtype", bool)) for v in eqn.outvars
    )


def rule_of(eqn, operands) -> Callable[..., Any] | None:
    """Returns the outputs of ``eqn`` where it is `of_parts`, as a function of operands; None: there is no rule.

    Known operands are arrays, complex ones too; every complex output is a `Pair`.
    """
    if not of_parts(eqn, operands):
        return None
    name, params = eqn.primitive.name, eqn.params
    if name == "fft" and max(params["fft_lengths"], default=0) > MOST_FREQUENCIES:
        return None
    if name == "scatter" and params.get("update_jaxpr") is not None:
        return None
    if name == "gather":
        return functools.partial(_gather, eqn.primitive, **params)
    if name in _BY_PARTS:
        return functools.partial(_by_parts, functools.partial(eqn.primitive.bind, **params))
    if name in _SCATTERS:
        options = {key: params[key] for key in _OF_SCATTERS}
        return functools.partial(_by_parts, functools.partial(_SCATTERS[name], **options))
    if name in ("dot_general", "conv_general_dilated"):
        return functools.partial(_bilinear, eqn.primitive, params)
    rule = _RULES.get(name)
    return rule and functools.partial(rule, **params)


def _parts(x) -> Pair:
    return x if isinstance(x, Pair) else Pair(jnp.real(x), jnp.imag(x))


def _part(x, side: int):
    """Returns one part of a complex operand; a real operand, such as indices, is used with both parts."""
    return _parts(x)[side] if isinstance(x, Pair) or is_complex(x.dtype) else x


def _by_parts(fn, *operands):
    """Applies a map that is real, and linear over the real numbers, to both parts alike."""
    re, im = (fn(*(_part(x, side) for x in operands)) for side in (0, 1))
    return list(map(Pair, re, im)) if isinstance(re, list | tuple) else Pair(re, im)


def _gather(primitive, x: Pair, indices, *, fill_value, **params) -> Pair:
    fills = [fill_value] * 2 if fill_value is None else [fill_value.real, fill_value.imag]
    pairs = zip(x, fills, strict=True)
    return Pair(*(primitive.bind(z, indices, fill_value=fill, **params) for z, fill in pairs))


def _product(product, x, y) -> Pair:
    (a, b), (c, d) = _parts(x), _parts(y)
    return Pair(product(a, c) - product(b, d), product(a, d) + product(b, c))


def _bilinear(primitive, params, x, y) -> Pair:
    kind = params.get("preferred_element_type")
    if kind is not None and is_complex(kind):
        params = params | {"preferred_element_type": np.finfo(kind).dtype}
    return _product(functools.partial(primitive.bind, **params), x, y)


def _multiply(x, y, **_) -> Pair:
    return _product(lax.mul, x, y)


def _square_of_size(x: Pair):
    return x.re * x.re + x.im * x.im


def _reciprocal(x: Pair) -> Pair:
    size = _square_of_size(x)
    return Pair(x.re / size, -x.im / size)


def _divide(x, y, **_) -> Pair:
    if isinstance(y, Pair):
        return _multiply(x, _reciprocal(y))
    # As y = scale * unit, this needs no square of y, which may overflow, and no reciprocal, which may underflow.
    scale = jnp.maximum(jnp.abs(jnp.real(y)), jnp.abs(jnp.imag(y)))
    unit = Pair(jnp.real(y) / scale, jnp.imag(y) / scale)
    found, size = _multiply(x, Pair(unit.re, -unit.im)), _square_of_size(unit)
    return Pair(found.re / size / scale, found.im / size / scale)


def _power(x: Pair, *, y: int, **_) -> Pair:
    if not y:
        return Pair(jnp.ones_like(x.re), jnp.zeros_like(x.im))
    if y < 0:
        return _reciprocal(_power(x, y=-y))
    half = _power(x, y=y // 2) if y > 1 else None
    whole = x if half is None else _multiply(half, half)
    return _multiply(whole, x) if half is not None and y % 2 else whole


def _convert(x, *, new_dtype, **params):
    if not isinstance(x, Pair):
        real = x.astype(np.finfo(new_dtype).dtype)
        return Pair(real, jnp.zeros_like(real))
    if not is_complex(new_dtype):
        return x.re.astype(new_dtype)
    return Pair(*(part.astype(np.finfo(new_dtype).dtype) for part in x))


def _conjugate(x, *, input_dtype, **_) -> Pair:
    return Pair(x.re, -x.im) if isinstance(x, Pair) else Pair(x, jnp.zeros_like(x))


def _exponential(x: Pair, **_) -> Pair:
    size = jnp.exp(x.re)
    return Pair(size * jnp.cos(x.im), size * jnp.sin(x.im))


def _equal(x, y, **_):
    (a, b), (c, d) = _parts(x), _parts(y)
    return (a == c) & (b == d)


def even_exponent(eqn, operands) -> int | None:
    """Returns the exponent if the equation is an even power of its operand, else None."""
    name = eqn.primitive.name
    if name == "integer_pow":
        return eqn.params["y"] if eqn.params["y"] > 0 and eqn.params["y"] % 2 == 0 else None
    return 2 if name == "square" or (name == "mul" and operands[0] is operands[1]) else None


def modulus_power(exponent: int, re, im):
    """Returns ``|re + i im| ** exponent`` for an even exponent, without the root."""
    return lax.integer_pow(_square_of_size(Pair(re, im)), exponent // 2)


# ---------------------------------------------------------------- Fourier transforms


@functools.lru_cache(maxsize=64)
def _waves(rows: int, columns: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``cos, sin (2 pi i j / length)`` for i below ``rows``, j below ``columns``; quarter turns are exact."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % length
    angles, quarters = 2 * math.pi / length * turns, 4 * turns % length == 0
    cos, sin = np.cos(angles), np.sin(angles)
    return np.where(quarters, np.round(cos), cos), np.where(quarters, np.round(sin), sin)


def _along(x, matrix, axis: int):
    """Multiplies the elements along an axis by a matrix ``[elements, results]``."""
    found = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ((axis,), (0,)))
    return jnp.moveaxis(found, -1, axis)


def _fourier_along(x: Pair, axis: int, sign: int) -> Pair:
    """Returns ``sum_j x_j exp(sign 2 pi i j k / n)`` for k below n, the length of the axis."""
    n = x.re.shape[axis]
    cos, sin = _waves(n, n, n)
    re = _along(x.re, cos, axis) - _along(x.im, sign * sin, axis)
    return Pair(re, _along(x.im, cos, axis) + _along(x.re, sign * sin, axis))


def _fourier(x, *, fft_type, fft_lengths: Sequence[int], **_):
    """Returns the transform of any type over the last axes, one axis after the other."""
    kind, axes, scale = lax.FftType(fft_type), range(-len(fft_lengths), 0), math.prod(fft_lengths)
    along = lambda axes, sign, x: functools.reduce(
        lambda x, axis: _fourier_along(x, axis, sign), axes, x
    )
    if kind == lax.FftType.FFT:
        return along(axes, -1, x)
    n = fft_lengths[-1]
    if kind == lax.FftType.RFFT:
        cos, sin = _waves(n, n // 2 + 1, n)
        return along(axes[:-1], -1, Pair(_along(x, cos, -1), _along(x, -sin, -1)))
    if kind == lax.FftType.IRFFT:
        return _to_real(along(axes[:-1], 1, x), n) / scale
    found = along(axes, 1, x)
    return Pair(found.re / scale, found.im / scale)


def _to_real(x: Pair, n: int):
    """Returns n times the real inverse along the last axis, from half of the frequencies.

    The others are their conjugates, so these count twice; those without one (0, and n / 2 for even n) are real.
    """
    cos, sin = _waves(n // 2 + 1, n, n)
    twice = np.where(2 * np.arange(n // 2 + 1) % n == 0, 1, 2)[:, None]
    return _along(x.re, twice * cos, -1) - _along(x.im, twice * sin, -1)


# Primitives that are linear, with real weights that the parameters and known operands decide.
_BY_PARTS = frozenset((
    "add", "sub", "neg", "add_any", "reshape", "transpose", "squeeze", "slice", "rev", "broadcast_in_dim",
    "concatenate", "pad", "reduce_sum", "cumsum", "reduce_window_sum", "dynamic_slice", "dynamic_update_slice",
    "select_n", "copy", "copy_p", "name", "split", "stack", "unstack", "tile",
))  # fmt: skip
_SCATTERS = {
    "scatter": lax.scatter, "scatter-add": lax.scatter_add, "scatter-sub": lax.scatter_sub,
}  # fmt: skip
_OF_SCATTERS = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")

_RULES: dict[str, Callable[..., Any]] = {
    "real": lambda x, **_: x.re,
    "imag": lambda x, **_: x.im,
    "complex": lambda re, im, **_: Pair(re, im),
    "conj": _conjugate,
    "convert_element_type": _convert,
    "mul": _multiply,
    "div": _divide,
    "square": lambda x, **_: _multiply(x, x),
    "integer_pow": _power,
    "exp": _exponential,
    "log": lambda x, **_: Pair(jnp.log(jnp.abs(lax.complex(*x))), jnp.arctan2(x.im, x.re)),
    "eq": _equal,
    "ne": lambda x, y, **_: ~_equal(x, y),
    "fft": _fourier,
}
