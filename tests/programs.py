# ruff: noqa: E501, B008 -- an operation is one line, and its defaults are drawn when it is made
"""Random programs: well-formed JAX functions of a few steps, regions for them, and what must hold.

A seed makes a program, its regions and the calls that bound it. Samples, corners and ascents towards the
extremes, in float64, must lie inside of all bounds; where every step is affine, the bounds are exact.

    python tests/programs.py --minutes 20     # seeds from the clock on; --first 7 starts at 7
    python tests/programs.py --seed 7         # one, and the steps that lead to its first wrong value
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import math
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from oracle import KINDS, LINEAR, METHODS, ULPS, corners, magnitude, precision

import jaxbound as jb

# ---------------------------------------------------------------- programs


@dataclasses.dataclass(frozen=True)
class Step:
    """``fn`` of the values at ``operands``; a step's own value is the next one."""

    name: str
    fn: Callable[..., Any]
    operands: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of ``inputs``: shapes with "known", "box" or the p of an lp ball."""

    inputs: tuple[tuple[tuple[int, ...], Any], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def values(self, *args):
        """The inputs and the value of every step."""
        env = list(args)
        for step in self.steps:
            env.append(step.fn(*(env[i] for i in step.operands)))
        return env

    def __call__(self, *args):
        env = self.values(*args)
        return [env[i] for i in self.outputs]

    def __str__(self) -> str:
        lines = [f"v{i}: {shape} {kind}" for i, (shape, kind) in enumerate(self.inputs)]
        for i, step in enumerate(self.steps, len(self.inputs)):
            lines.append(f"v{i} = {step.name}({', '.join(f'v{j}' for j in step.operands)})")
        return "\n".join([*lines, f"return {', '.join(f'v{i}' for i in self.outputs)}"])

    @property
    def affine(self) -> bool:
        return all(step.name in AFFINE for step in self.steps)

    def ending(self, last: int) -> Program:
        """Value ``last`` alone, with the steps that lead to it."""
        needed = {last}
        for i in range(last, len(self.inputs) - 1, -1):
            if i in needed:
                needed |= set(self.steps[i - len(self.inputs)].operands)
        steps = [i for i in sorted(needed) if i >= len(self.inputs)]
        places = {i: i for i in range(len(self.inputs))}
        places |= {i: k for k, i in enumerate(steps, len(self.inputs))}
        kept = [self.steps[i - len(self.inputs)] for i in steps]
        kept = [
            dataclasses.replace(step, operands=tuple(places[i] for i in step.operands))
            for step in kept
        ]
        return Program(self.inputs, tuple(kept), (places[last],))


class Unfit(Exception):
    """The values at hand do not fit the operation."""


class Draw:
    """What a step is drawn from: random choices, and the values so far."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.shapes: list[tuple[int, ...]] = []
        self.uncertain: list[bool] = []
        self.inputs = 0

    def chance(self, probability: float) -> bool:
        return bool(self.rng.uniform() < probability)

    def among(self, choices):
        return choices[self.rng.integers(len(choices))]

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def number(self, low=-2.0, high=2.0) -> float:
        """A multiple of 1/8: exact in every type."""
        return float(np.round(self.rng.uniform(low, high) * 8) / 8)

    def array(self, *shape, low=-1.5, high=1.5):
        return np.round(self.rng.uniform(low, high, shape) * 8) / 8

    def shape(self, ndim=None) -> tuple[int, ...]:
        ndim = self.among((0, 1, 1, 1, 2, 2, 2, 3, 3)) if ndim is None else ndim
        return tuple(int(n) for n in self.rng.integers(1, 5 - (ndim > 2), ndim))

    def value(self, ndim=0, uncertain=True) -> int:
        """The index of a value of at least ``ndim`` axes, most often one of the last."""
        fits = [
            i
            for i, shape in enumerate(self.shapes)
            if len(shape) >= ndim and (self.uncertain[i] or not uncertain)
        ]
        if not fits:
            raise Unfit
        return fits[-1 - min(self.rng.geometric(0.5) - 1, len(fits) - 1)]

    def axis(self, shape) -> int:
        return self.integer(0, len(shape) - 1)

    def axes(self, shape) -> tuple[int, ...]:
        chosen = [a for a in range(len(shape)) if self.chance(0.5)]
        return tuple(chosen or [self.axis(shape)])

    def indices(self, size: int, *shape):
        return self.rng.integers(0, size, shape, np.int32)


def like(constant, x):
    return jnp.asarray(constant, x.dtype)


def fit(y, shape):
    """The elements of ``y`` over and over, in the given shape."""
    if y.shape == tuple(shape):
        return y
    places = np.arange(math.prod(shape)) % y.size
    return y.reshape(-1)[places].reshape(shape)


# ---------------------------------------------------------------- the operations, a line each

# Functions of one variable, defined everywhere.
UNARY = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu tanh": nn.gelu,
    "elu": nn.elu,
    "selu": nn.selu,
    "celu": nn.celu,
    "log_sigmoid": nn.log_sigmoid,
    "soft_sign": nn.soft_sign,
    "mish": nn.mish,
    "arctan": jnp.arctan,
    "arcsinh": jnp.arcsinh,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "sinc": jnp.sinc,
    "cbrt": jnp.cbrt,
    "square": jnp.square,
    "x * x": lambda x: x * x,
    "x ** 3": lambda x: x**3,
    "x ** 4": lambda x: x**4,
    "abs": jnp.abs,
    "relu6": nn.relu6,
    "hard_tanh": nn.hard_tanh,
    "hard_sigmoid": nn.hard_sigmoid,
    "hard_silu": nn.hard_silu,
    "squareplus": nn.squareplus,
    "sparse_plus": nn.sparse_plus,
    "remat": jax.checkpoint(lambda x: nn.relu(x) - 0.5 * jnp.tanh(x)),
    "gradient": jax.grad(lambda x: (jnp.tanh(x) * x).sum()),
    "i0e": lax.bessel_i0e,
}

whole = lambda x: jnp.floor(jnp.clip(x, -100, 100)).astype(jnp.int32)
rows_of = lambda x: x.reshape(x.shape[0], -1) if x.ndim else x.reshape(1, 1)
# Functions that jump: beside rounding, which decides at a jump.
JUMPS = {
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "sign": jnp.sign,
    "heaviside": lambda x: (x > 0).astype(x.dtype),
    "as an integer": lambda x: x.astype(jnp.int32).astype(x.dtype),
    "product of integers": lambda x: (whole(x) * 3 - whole(x) * whole(-2 * x)).astype(x.dtype),
    "dot of integers": lambda x: (rows_of(whole(x)) @ rows_of(whole(2 * x)).T).astype(x.dtype),
    "integers clipped": lambda x: jnp.clip(whole(x), 0, 2).astype(x.dtype) * x,
    "choice of integers": lambda x: (2 - 3 * jnp.where(x > 0, whole(x), 7)).astype(x.dtype),
    "choice of truths": lambda x: jnp.where(jnp.where(x > 0, x < 0.5, x > -1.5), x, 0.0),
    "choice by integers": lambda x: lax.select_n(jnp.clip(whole(x), 0, 2), x, -x, 2 * x),
    "count": lambda x: (x > 0).sum() - 0.5 * ((x < -1) | (x > 1)).astype(x.dtype),
    "any": lambda x: jnp.where(jnp.any(x > 0) & jnp.all(x < 2), x, 0.25),
    "where <": lambda x: jnp.where(x < 1, x + 10, x),
    "where >=": lambda x: jnp.where(x >= -1, -x, 2 * x),
    "where both": lambda x: jnp.where((x > -1) & (x < 1), x, 3.0),
    "where not": lambda x: jnp.where(jnp.logical_not(x > 0.5), x**2, x),
    "modulo": lambda x: jnp.mod(x, 1.5),
    "cond": lambda x: lax.cond(x.sum() > 0, lambda z: z + 1, lambda z: -2 * z, x),
    "switch": lambda x: lax.switch(
        jnp.asarray(x.max(), jnp.int32), [jnp.tanh, jnp.negative, lambda z: z + 3], x
    ),
    "argmax": lambda x: nn.one_hot(jnp.argmax(x.ravel()), max(x.size, 1), dtype=x.dtype),
}

# Functions that are not defined everywhere, with a function into the inside of their domain.
positive = lambda x: jnp.abs(x) + 0.125
unit = lambda x: 0.9 * jnp.tanh(x)
PARTIAL = {
    "log": (jnp.log, positive),
    "log1p": (jnp.log1p, jnp.abs),
    "sqrt": (jnp.sqrt, lambda x: nn.relu(x)),
    "rsqrt": (lax.rsqrt, positive),
    "reciprocal": (jnp.reciprocal, positive),
    "negative reciprocal": (lambda x: -2 / x, lambda x: -positive(x)),
    "x ** -2": (lambda x: x**-2, positive),
    "x ** -3": (lambda x: x**-3, positive),
    "x ** 1.5": (lambda x: x**1.5, jnp.abs),
    "x ** -0.7": (lambda x: x**-0.7, positive),
    "tan": (jnp.tan, unit),
    "arcsin": (jnp.arcsin, unit),
    "arccos": (jnp.arccos, unit),
    "arctanh": (jnp.arctanh, unit),
    "arccosh": (jnp.arccosh, lambda x: 1 + jnp.abs(x)),
    "logit": (jax.scipy.special.logit, nn.sigmoid),
}

# Functions of two arrays of one shape, or of one array twice.
PAIRS = {
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / positive(y),
    "max": jnp.maximum,
    "min": jnp.minimum,
    "where x < y": lambda x, y: jnp.where(x < y, x, 0.5 * y),
    "squared difference": lambda x, y: (x - y) ** 2,
    "logaddexp": jnp.logaddexp,
    "atan2": lambda x, y: jnp.arctan2(x, positive(y)),
    "pow": lambda x, y: positive(x) ** jnp.tanh(y),
    "hypot": lambda x, y: jnp.sqrt(x * x + y * y + 1),
    "clamp by another": lambda x, y: jnp.minimum(jnp.maximum(x, y - 1), y + 1),
    "gated": lambda x, y: nn.sigmoid(x) * jnp.tanh(y),
    "nested max": lambda x, y: jnp.maximum(jnp.minimum(x, y), jnp.minimum(-x, 1.0)),
    "inner product": lambda x, y: (x * y).sum(),
    "outer product": lambda x, y: x.reshape(-1)[:3, None] * y.reshape(-1)[:3],
    "matmul": lambda x, y: x.reshape(x.shape[0], -1) @ y.reshape(x.shape[0], -1).T if x.ndim else x * y,
    "attention": lambda x, y: nn.softmax(rows_of(x) @ rows_of(y).T) @ rows_of(y),
    "convolve": lambda x, y: jnp.convolve(x.ravel(), y.ravel()[:3]),
}  # fmt: skip


def convolution(d: Draw, shape, two=False):
    """A convolution with random dimension numbers, strides, paddings, dilations and groups."""
    space = len(shape) - 1
    groups = d.among((1, 1, shape[0]))
    window = [d.integer(1, 3) for _ in range(space)]
    kernel = d.array(groups * d.integer(1, 2), shape[0] // groups, *window)
    options = {
        "window_strides": [d.integer(1, 2) for _ in window],
        "padding": d.among(
            ("SAME", "VALID", [(d.integer(-1, 2), d.integer(0, 2)) for _ in window])
        ),
        "rhs_dilation": [d.integer(1, 2) for _ in window],
        "lhs_dilation": [d.integer(1, 2) for _ in window],
        "feature_group_count": groups,
    }
    if d.chance(0.5):  # features last
        names = "".join("HWD"[:space])
        options["dimension_numbers"] = (f"N{names}C", f"{names}IO", f"N{names}C")
        kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
        image = lambda x: jnp.moveaxis(x, 0, -1)[None]
    else:
        image = lambda x: x[None]
    if options["padding"] == "SAME":
        options["lhs_dilation"] = [1] * space
    if two:
        return lambda x, y: lax.conv_general_dilated(image(x), fit(y, kernel.shape), **options)[0]
    return lambda x: lax.conv_general_dilated(image(x), like(kernel, x), **options)[0]


def dot_general(d: Draw, shape):
    """Random contracting and batch dimensions, the constant on either side."""
    batch = [a for a in range(len(shape)) if d.chance(0.25)]
    contract = [a for a in range(len(shape)) if a not in batch and d.chance(0.6)]
    order = d.rng.permutation(len(batch) + len(contract) + 1)
    sizes = [*(shape[a] for a in batch), *(shape[a] for a in contract), d.integer(1, 3)]
    place = np.argsort(order)
    weights = d.array(*(sizes[i] for i in order))
    theirs = [int(place[i]) for i in range(len(batch) + len(contract))]
    mine, other = (contract, batch), (theirs[len(batch) :], theirs[: len(batch)])
    if d.chance(0.5):
        numbers = ((mine[0], other[0]), (mine[1], other[1]))
        return lambda x: lax.dot_general(x, like(weights, x), numbers)
    numbers = ((other[0], mine[0]), (other[1], mine[1]))
    return lambda x: lax.dot_general(like(weights, x), x, numbers)


def reduced_window(d: Draw, shape, start, op):
    options = {
        "window_dimensions": [d.integer(1, 3) for _ in shape],
        "window_strides": [d.integer(1, 2) for _ in shape],
        "padding": d.among(("SAME", "VALID", [(d.integer(0, 1), d.integer(0, 1)) for _ in shape])),
        "window_dilation": [d.integer(1, 2) for _ in shape],
        "base_dilation": [d.among((1, 1, 2)) for _ in shape],
    }
    return lambda x: lax.reduce_window(x, np.asarray(start, x.dtype), op, **options)


def padded(d: Draw, shape):
    value = d.number()
    config = [(d.integer(-1, 2), d.integer(-1, 2), d.integer(0, 1)) for _ in shape]
    return lambda x: lax.pad(x, like(value, x), config)


def sliced(d: Draw, shape):
    where = tuple(
        slice(d.integer(0, n - 1), None, d.integer(1, 2))
        if d.chance(0.7)
        else slice(None, None, -1)
        for n in shape
    )
    return lambda x: x[where]


def concatenated(d: Draw, shape):
    axis, constant = d.axis(shape), d.array(*shape)
    return lambda x: jnp.concatenate([x, like(constant, x), -x], axis)


def gathered(d: Draw, shape):
    places = d.indices(shape[0], d.integer(1, 3), d.integer(1, 2))
    axis_places = d.indices(shape[-1], *shape[:-1], 2)
    return d.among(
        (
            lambda x: x[places],
            lambda x: jnp.take_along_axis(x, axis_places, -1),
            lambda x: x.at[places + 1].get(mode="fill", fill_value=0.5),
            lambda x: x.at[places + 1].get(mode="clip"),
            lambda x: jax.jit(lambda z, i: z[i])(x, places),
        )
    )


def scattered(d: Draw, shape, how):
    """Known places, repeated ones among them (set: once each; multiply too, else JAX has no derivative)."""
    count, once = d.integer(1, shape[0]), how in ("set", "multiply")
    every = np.arange(shape[0], dtype=np.int32)
    places = d.rng.permutation(every)[:count] if once else d.indices(shape[0], count)
    constant, own = d.array(*shape), d.chance(0.5)

    def fn(x):
        updates = (2 * x if own else like(constant, x))[:count]
        return getattr(x.at[places], how)(updates, unique_indices=once)

    return fn


def dynamic(d: Draw, shape):
    starts = tuple(d.integer(0, n) for n in shape)
    sizes = tuple(d.integer(1, n) for n in shape)

    def update(x):
        return lax.dynamic_update_slice(x, -x[tuple(slice(0, n) for n in sizes)], starts)

    return d.among((update, lambda x: lax.dynamic_slice(x, starts, sizes)))


def centred(d: Draw, shape):
    axes = d.axes(shape)
    return lambda x: x - x.mean(axes, keepdims=True)


def masked(d: Draw, shape):
    mask, constant = d.rng.uniform(size=shape) < 0.5, d.array(*shape)
    return lambda x: jnp.where(mask, x, like(constant, x))


def hidden(fn, by=-np.inf):
    """``fn`` along the last axis of what a mask hides by a constant; the first entry of every row is kept."""

    def make(d: Draw, shape):
        kept = d.rng.uniform(size=shape) < 0.5
        kept[..., 0] = True
        return lambda x: fn(jnp.where(kept, x, by))

    return make


def stacked(d: Draw, shape):
    axis = d.integer(0, len(shape))
    return lambda x: jnp.stack([x, 0.5 * x, jnp.ones_like(x)], axis)


def scaled(d: Draw, shape):
    scale, shift = d.array(*shape, low=-2, high=2), d.array(*shape)
    return lambda x: x * like(scale, x) + like(shift, x)


def transposed(d: Draw, shape):
    order = tuple(map(int, d.rng.permutation(len(shape))))
    return lambda x: x.transpose(order)


def reshaped(d: Draw, shape):
    size = math.prod(shape)
    first = d.among([n for n in range(1, size + 1) if size % n == 0])
    return lambda x: x.reshape(first, -1)


def dense(d: Draw, shape):
    weights, bias = d.array(shape[-1], 3), d.array(3)
    return lambda x: jnp.dot(x, like(weights, x)) + like(bias, x).reshape([1] * (x.ndim - 1) + [3])


def over(fn):
    """``fn`` along random axes."""

    def make(d: Draw, shape):
        axes = d.axes(shape)
        return lambda x: fn(x, axes)

    return make


def along(fn):
    """``fn`` along one random axis."""

    def make(d: Draw, shape):
        axis = d.axis(shape)
        return lambda x: fn(x, axis)

    return make


def back_and_forth(fn):
    def make(d: Draw, shape):
        axis, reverse = d.axis(shape), d.chance(0.5)
        return lambda x: fn(x, axis, reverse)

    return make


def plain(fn):
    return lambda d, shape: fn


# Affine functions of one array: their least number of axes, and what draws one for a shape.
AFFINE_OF_ONE = {
    "scaled": (0, scaled),
    "neg": (0, plain(jnp.negative)),
    "fan-out": (0, plain(lambda x: x - 0.5 * x + 2)),
    "over a constant": (0, lambda d, s: lambda x, c=d.number(0.5, 3): x / c),
    "dense": (1, dense),
    "dot_general": (1, dot_general),
    "convolution": (2, convolution),
    "sum of windows": (1, lambda d, s: reduced_window(d, s, 0, lax.add)),
    "sum": (1, over(jnp.sum)),
    "mean": (1, over(jnp.mean)),
    "centred": (1, centred),
    "cumsum": (1, back_and_forth(lax.cumsum)),
    "transpose": (2, transposed),
    "reshape": (0, reshaped),
    "expand": (0, plain(lambda x: x[..., None])),
    "broadcast": (0, plain(lambda x: jnp.broadcast_to(x, (2, *x.shape)))),
    "tile": (1, along(lambda x, axis: jnp.tile(x, [2 if a == axis else 1 for a in range(x.ndim)]))),
    "pad": (1, padded),
    "slice": (1, sliced),
    "concatenate": (1, concatenated),
    "stack": (0, stacked),
    "roll": (1, along(lambda x, axis: jnp.roll(x, 1, axis))),
    "gather": (1, gathered),
    "dynamic": (1, dynamic),
    "set": (1, lambda d, s: scattered(d, s, "set")),
    "add at": (1, lambda d, s: scattered(d, s, "add")),
    "masked": (0, masked),
    "diagonal": (2, plain(lambda x: jnp.einsum("ii...->i...", fit(x, (2, 2, *x.shape[2:]))))),
    "known scan": (0, plain(lambda x: x * lax.scan(lambda c, _: (c * 2, c), jnp.ones((), x.dtype), None, 3)[0])),
    "margins": (1, lambda d, s: lambda x: jb.margins(jnp.append(x.ravel(), 0.5), 0)),
    "gradient of a square": (0, plain(jax.grad(lambda x: (0.5 * x * x).sum()))),
}  # fmt: skip
AFFINE_OF_TWO = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "set by another": lambda x, y: x.at[..., 0].set(y[..., 0]) if x.ndim else y,
    "join": lambda x, y: jnp.concatenate([x.ravel(), y.ravel()]),
    "where known": lambda x, y: jnp.where(np.arange(x.size).reshape(x.shape) % 2 == 0, x, y),
}
AFFINE = AFFINE_OF_ONE | AFFINE_OF_TWO


def scan(x):
    """A recurrent cell over the first axis."""

    def cell(carry, z):
        new = jnp.tanh(0.5 * carry + z)
        return new, new * z

    last, outs = lax.scan(cell, jnp.zeros(x.shape[1:], x.dtype), x)
    return outs + last


def layer_norm(x, axis):
    centred = x - x.mean(axis, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axis, keepdims=True) + 0.25)


# Others of one array.
SHAPED = {
    "max over": (1, over(jnp.max)),
    "min over": (1, over(jnp.min)),
    "prod over": (1, over(jnp.prod)),
    "max pool": (1, lambda d, s: reduced_window(d, s, -np.inf, lax.max)),
    "min pool": (1, lambda d, s: reduced_window(d, s, np.inf, lax.min)),
    "cummax": (1, back_and_forth(lax.cummax)),
    "cummin": (1, back_and_forth(lax.cummin)),
    "cumprod": (1, back_and_forth(lax.cumprod)),
    "cumlogsumexp": (1, back_and_forth(lax.cumlogsumexp)),
    "logsumexp": (1, over(nn.logsumexp)),
    "softmax": (1, along(nn.softmax)),
    "log_softmax": (1, along(nn.log_softmax)),
    "masked max": (1, hidden(lambda z: z.max(-1))),
    "masked min": (1, hidden(lambda z: z.min(-1), np.inf)),
    "masked cummax": (1, hidden(lambda z: lax.cummax(z, z.ndim - 1))),
    "masked top": (1, hidden(lambda z: lax.top_k(z, 1)[0])),
    "masked logsumexp": (1, hidden(lambda z: nn.logsumexp(z, -1))),
    "masked softmax": (1, hidden(lambda z: nn.softmax(z, -1))),
    "hidden by a large number": (1, hidden(lambda z: nn.softmax(z, -1), -1e30)),
    "exponentials of masked": (1, hidden(lambda z: jnp.exp(z - z.max(-1, keepdims=True)))),
    "layer norm": (1, along(layer_norm)),
    "rms norm": (1, along(lambda x, axis: x * lax.rsqrt((x * x).mean(axis, keepdims=True) + 0.25))),
    "variance": (1, over(jnp.var)),
    "norm": (1, over(lambda x, axes: jnp.sqrt(1 + (x**2).sum(axes)))),
    "glu": (1, along(lambda x, axis: nn.glu(jnp.concatenate([x, x + 1], axis), axis))),
    "sort": (1, along(jnp.sort)),
    "top_k": (1, plain(lambda x: lax.top_k(x, 1)[0])),
    "median": (1, along(jnp.median)),
    "scan": (1, plain(scan)),
    "fori": (0, plain(lambda x: lax.fori_loop(0, 3, lambda i, z: jnp.tanh(z) + 0.5 * x, x))),
    "while": (0, plain(lambda x: lax.while_loop(lambda c: (c[0] < 3) & (c[1].sum() < 5), lambda c: (c[0] + 1, 1.5 * c[1] + 1), (0, x))[1])),
    "map": (1, plain(lambda x: lax.map(lambda z: jnp.tanh(z).sum(), x))),
    "max at": (1, lambda d, s: scattered(d, s, "max")),
    "min at": (1, lambda d, s: scattered(d, s, "min")),
    "multiply at": (1, lambda d, s: scattered(d, s, "multiply")),
    "leaky relu": (0, lambda d, s: lambda x, a=d.number(-1, 2): nn.leaky_relu(x, a)),
    "prelu": (0, lambda d, s: lambda x, a=d.array(*s): jnp.where(x > 0, x, like(a, x) * x)),
    "elu of a slope": (0, lambda d, s: lambda x, a=d.number(-1, 2): nn.elu(x, a)),
    "clip": (0, lambda d, s: lambda x, a=d.number(), b=d.number(): jnp.clip(x, min(a, b), max(a, b))),
    "ramp": (0, lambda d, s: lambda x, r=d.number(-1, 3), e=d.number(0, 1): jb.param_ramp(x, r, e)),
    "max with a constant": (0, lambda d, s: lambda x, a=d.array(*s): jnp.maximum(like(a, x), x)),
    "min with its mean": (1, plain(lambda x: jnp.minimum(x, x.mean()))),
    "known over": (0, plain(lambda x: 3 / (x * x + 0.5))),
    "jacobian": (1, plain(lambda x: jax.jacfwd(lambda z: jnp.tanh(z).sum() * z)(x.ravel()[:3]))),
}  # fmt: skip
SHAPED_OF_TWO = {"convolution of two": (2, functools.partial(convolution, two=True))}


def of_one(d: Draw, least: int, make):
    i = d.value(least)
    return make(d, d.shapes[i]), (i,)


def of_two(d: Draw, least: int, make):
    i, j = d.value(least), d.value(uncertain=d.chance(0.5))
    return make(d, d.shapes[i]), (i, j)


def of_pair(d: Draw, fn):
    i, j = d.value(), d.value(uncertain=d.chance(0.5))
    operands = [(i, j), (j, i), (i, i)][d.rng.choice(3, p=[0.5, 0.3, 0.2])]
    return lambda x, y: fn(x, fit(y, x.shape)), operands


def jumping(d: Draw, fn):
    # Behind other steps a jump is moved to where no value stays, such as 0 behind a ReLU: there rounding decides.
    i = d.value()
    away = 0.0 if i < d.inputs else 0.3717 + 0.01 * d.rng.uniform()
    return lambda x: fn(x + away), (i,)


def inside(d: Draw, fn, into):
    i = d.value()
    return (fn if d.chance(0.15) else lambda x: fn(into(x))), (i,)


def entries(draw, table):
    """A table's lines as ``draw(d, ...)`` of them."""
    return {
        name: functools.partial(lambda d, draw, line: draw(d, *line), draw=draw, line=line)
        for name, line in (
            (name, line if isinstance(line, tuple) else (line,)) for name, line in table.items()
        )
    }


OPERATIONS: dict[str, Callable[[Draw], tuple[Callable[..., Any], tuple[int, ...]]]] = (
    entries(lambda d, fn: of_one(d, 0, plain(fn)), UNARY)
    | entries(jumping, JUMPS)
    | entries(inside, PARTIAL)
    | entries(of_pair, PAIRS | AFFINE_OF_TWO)
    | entries(of_one, AFFINE_OF_ONE | SHAPED)
    | entries(of_two, SHAPED_OF_TWO)
)
LARGEST = 30  # elements of a value


# ---------------------------------------------------------------- drawing programs


def spec(shape, uncertain):
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jb.Interval(array, array) if uncertain else array


def draw_inputs(d: Draw):
    inputs = []
    for _ in range(d.among((1, 1, 2, 3))):
        kind = d.among(("box", "box", "box", 1, 2, 2.0, 3, math.inf))
        inputs.append((d.shape(), kind if isinstance(kind, str) else float(kind)))
    if d.chance(0.4):
        inputs.insert(d.integer(0, len(inputs)), (d.shape(), "known"))
    return tuple(inputs)


def draw_program(d: Draw, unsupported: collections.Counter) -> Program:
    """A program of up to 7 steps; counts the operations that have no rule yet."""
    inputs, steps = draw_inputs(d), []
    d.shapes = [shape for shape, _ in inputs]
    d.uncertain = [kind != "known" for _, kind in inputs]
    d.inputs, wanted = len(inputs), d.integer(1, 7)
    # Programs of affine steps alone would be rare.
    names = list(AFFINE if d.chance(0.15) else OPERATIONS)
    while len(steps) < wanted:
        name = d.among(names)
        try:
            fn, operands = OPERATIONS[name](d)
            arrays = [spec(d.shapes[i], False) for i in operands]
            out = jax.eval_shape(fn, *arrays)
        except (Unfit, ValueError, TypeError, IndexError, ZeroDivisionError):
            continue
        if not 0 < out.size <= LARGEST or out.dtype != jnp.float32 or out.ndim > 4:
            continue
        args = [spec(d.shapes[i], d.uncertain[i]) for i in operands]
        try:
            jax.eval_shape(functools.partial(jb.ibp, fn), *args)
        except jb.UnsupportedPrimitiveError as error:
            unsupported.update([f"{name}: {', '.join(error.primitives)}"])
            continue
        steps.append(Step(name, fn, operands))
        d.shapes.append(out.shape)
        d.uncertain.append(True)
    last = len(d.shapes) - 1
    outputs = (last, d.value()) if d.chance(0.2) else (last,)
    return Program(inputs, tuple(steps), outputs)


# ---------------------------------------------------------------- regions and their points

KINKS = (-6.0, -3.0, -1.0, -0.5, -0.125, 0.0, 0.0, 0.5, 1.0, 3.0, 6.0)
RADII = {
    "degenerate": (0, 0),
    "tiny": (-6, -5),
    "small": (-2, -1),
    "moderate": (-1, 0),
    "wide": (0, 1),
    "large": (1, 3),
    "huge": (3, 6),
    "vast": (8, 36),  # these two: of centres as far out, or as near to 0
    "minute": (-36, -8),
}
FAR = 1e6  # where points lie if an end is infinite
BOXES = (*RADII, "moderate", "wide", "kinks", "kinks", "one-sided", "fixed", "half-line")


def draw_box(d: Draw, shape, kind: str):
    """Ends that are numbers of float32."""
    center = d.rng.normal(size=shape) * d.among((0.3, 1.0, 3.0))
    low, high = RADII.get(kind, (-1, 1))
    if kind in ("vast", "minute"):
        center = center * 10 ** d.rng.uniform(low, high, shape)
    radius = 10 ** d.rng.uniform(low, high, shape) * (kind != "degenerate")
    lower, upper = center - radius * d.rng.uniform(size=shape), center + radius
    if kind == "one-sided":
        lower, upper = d.among(((0 * lower, radius), (-radius, 0 * upper)))
    if kind == "kinks":
        lower, upper = np.sort(d.rng.choice(KINKS, (2, *shape)), axis=0)
    if kind == "fixed" or (kind in RADII and d.chance(0.2)):
        fixed = d.rng.uniform(size=shape) < 0.5
        lower, upper = np.where(fixed, center, lower), np.where(fixed, center, upper)
    if kind == "half-line":
        lower, upper = d.among(((lower, np.inf + upper), (-np.inf + lower, upper)))
    lower, upper = np.asarray(lower, np.float32), np.asarray(upper, np.float32)
    return np.minimum(lower, upper), np.maximum(lower, upper)


def draw_regions(d: Draw, program: Program):
    """Per input a known array, or a region with a leading axis for every kind of box."""
    kinds = BOXES if d.chance(0.3) else BOXES[:-1]
    args = []
    for shape, p in program.inputs:
        boxes = [draw_box(d, shape, kind) for kind in kinds]
        lower, upper = (np.stack(ends) for ends in zip(*boxes, strict=True))
        if p == "known":
            args.append(np.asarray(d.array(*shape), np.float32))
        elif p == "box":
            args.append(jb.Interval(lower, upper))
        else:
            center = np.nan_to_num(lower, neginf=-1.0)
            radius = [10 ** d.rng.uniform(*RADII.get(k, (-1, 1))) for k in kinds]
            radius = np.where(np.array(kinds) == "degenerate", 0, radius).astype(np.float32)
            clip = draw_clip(d, center) if d.chance(0.3) else None
            args.append(jb.LpBall(center, radius, p, clip))
    return args


def draw_clip(d: Draw, center):
    """A box around the centres, some at its ends, some elements fixed, some without an end."""
    ends = []
    for sign in (-1, 1):
        away = 10 ** d.rng.uniform(-1, 1, center.shape) * (d.rng.uniform(size=center.shape) < 0.8)
        away = np.where(d.rng.uniform(size=center.shape) < 0.1, np.inf, away)
        ends.append(np.asarray(center + sign * away, np.float32))
    return jb.Interval(np.minimum(ends[0], center), np.maximum(ends[1], center))


def near(end):
    """The end, or where it is infinite, a number that is far out."""
    xp = jnp if isinstance(end, jax.Array) else np
    return xp.where(xp.isinf(end), xp.clip(end, -FAR, FAR), end)


def clipped(points, clip: jb.Interval | None, xp=np):
    """Moves towards the centre only: what was in the ball stays there."""
    return points if clip is None else xp.clip(points, clip.lower, clip.upper)


def unit_ball(rng, size: int, count: int, p: float):
    """Points ``[count, size]`` of the ball around 0, most of them on its sphere."""
    some = rng.uniform(size=(count, size)) < rng.uniform(size=(count, 1))
    directions = np.concatenate(
        [np.eye(size), -np.eye(size), rng.normal(size=(count, size)) * some]
    )
    norms = np.linalg.norm(directions, p, axis=1, keepdims=True)
    points = directions / np.where(norms > 0, norms, 1)
    points[3::4] *= rng.uniform(size=points[3::4].shape)
    return rng.permutation(points)[:count] * (1 - 1e-12)


def draw_points(seed: int, args, count=96):
    """Points of all regions together, ``[boxes, count, *shape]`` in float64; known arrays as they are."""
    rng = np.random.default_rng(seed)
    size = sum(math.prod(a.lower.shape[1:]) for a in args if isinstance(a, jb.Interval))
    joint = corners((size,), 32) if size else np.zeros((0, 0))
    points, start = [], 0
    for arg in args:
        if isinstance(arg, jb.LpBall):
            shape = arg.center.shape[1:]
            unit = unit_ball(rng, math.prod(shape), count, arg.p).reshape(1, count, *shape)
            radius = np.asarray(arg.radius, float).reshape(-1, *[1] * (unit.ndim - 1))
            clip = jax.tree.map(lambda end: end.astype(float)[:, None], arg.clip)
            points.append(clipped(arg.center.astype(float)[:, None] + radius * unit, clip))
        elif isinstance(arg, jb.Interval):
            shape = arg.lower.shape[1:]
            parts = rng.uniform(size=(count, *shape))
            at_ends = rng.uniform(size=parts.shape) < rng.uniform(size=(count, *[1] * len(shape)))
            parts = np.where(at_ends, np.round(parts), parts)
            parts[0] = 0.5
            chosen = joint[:, start : start + math.prod(shape)].reshape(-1, *shape)
            parts[1 : 1 + len(chosen)] = chosen
            start += math.prod(shape)
            lower, upper = (near(np.asarray(e, float))[:, None] for e in (arg.lower, arg.upper))
            points.append(np.clip(lower + parts * (upper - lower), lower, upper))
        else:
            points.append(arg.astype(float))
    return points


def vertex(region, slope):
    """The point of a region where the linear function of a slope is largest, or one near it."""
    if isinstance(region, jb.Interval):
        lower, upper = map(near, (region.lower, region.upper))
        return jnp.where(slope > 0, upper, lower)
    if region.p == 1:
        largest = jnp.argmax(jnp.abs(slope).ravel())
        way = nn.one_hot(largest, slope.size).reshape(slope.shape) * jnp.sign(slope)
    elif region.p == math.inf:
        way = jnp.sign(slope)
    else:
        size = jnp.abs(slope) / jnp.maximum(jnp.abs(slope).max(), 1e-300)
        way = size ** (1 / (region.p - 1)) * jnp.sign(slope)
        way = way / jnp.maximum((jnp.abs(way) ** region.p).sum() ** (1 / region.p), 1e-300)
    return clipped(region.center + region.radius * (1 - 1e-12) * way, region.clip, jnp)


def explored(program: Program, args, points, targets):
    """Values at the points of one region and on the way to the targets' extremes, and those points.

    The way of Frank and Wolfe: towards the vertex that the gradient shows, so it stays in the region.
    """
    axes = [None if kind == "known" else 0 for _, kind in program.inputs]
    moving = [i for i, axis in enumerate(axes) if axis == 0]

    def ascent(start, target, sign):
        def value(*xs):
            full = list(start)
            for i, x in zip(moving, xs, strict=True):
                full[i] = x
            return sign * jnp.concatenate([jnp.ravel(out) for out in program(*full)])[target]

        def step(xs, rate):
            slopes = jax.jacfwd(value, tuple(range(len(xs))))(*xs)
            ends = [
                vertex(args[i], jnp.nan_to_num(slope))
                for i, slope in zip(moving, slopes, strict=True)
            ]
            new = [x + rate * (end - x) for x, end in zip(xs, ends, strict=True)]
            return new, new

        return lax.scan(step, [start[i] for i in moving], jnp.array([1.0, 0.5, 0.2]))[1]

    starts = [p[:2] if axis == 0 else p for p, axis in zip(points, axes, strict=True)]
    ways = jax.vmap(jax.vmap(ascent, (None, 0, None)), (None, None, 0))
    ways = jax.vmap(ways, (axes, None, None))
    visited = ways(starts, targets, jnp.array([1.0, -1.0]))
    points = list(points)
    for i, found in zip(moving, visited, strict=True):
        points[i] = jnp.concatenate([points[i], found.reshape(-1, *points[i].shape[1:])])
    return points, jax.vmap(program.values, axes)(*points)


def truth(program: Program, args, seed: int):
    """Points ``[boxes, n, *shape]`` of all inputs and the values of all steps there, in float64."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        batched = [None if kind == "known" else 0 for _, kind in program.inputs]
        args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), args)
        points = [jnp.asarray(p) for p in draw_points(seed, args)]
        targets = jnp.asarray(rng.integers(0, 2**31, 3))
        size = sum(
            out.size
            for out in jax.eval_shape(
                program,
                *(p if b is None else p[0, 0] for p, b in zip(points, batched, strict=True)),
            )
        )
        walk = jax.vmap(functools.partial(explored, program), (batched, batched, None))
        return jax.tree.map(np.asarray, jax.jit(walk)(args, points, targets % size))


# ---------------------------------------------------------------- calls, and what must hold


def draw_calls(d: Draw) -> dict[str, tuple[Callable[..., Any], str]]:
    """Intervals, one other method, and the linear bounds of one, with random options; and what they are."""
    calls = {}
    other = d.among((*LINEAR, *LINEAR, jb.alpha_crown))
    for method, linear in (jb.ibp, False), (other, False), (d.among(LINEAR), True):
        options: dict[str, Any] = {"chunk_size": d.among((None, None, None, 1, 2, 5))}
        if method is not jb.ibp:
            options["relaxation"] = d.among((*KINDS, "alphas"))
        if method is jb.alpha_crown:
            options |= {"steps": 3, "relaxation": "adaptive"}
        if method is jb.crown:
            options["capacity"] = d.among((None, None, 1, 3))
        first = d.among(METHODS) if d.chance(0.1) else None
        text = ", ".join(f"{k}={v!r}" for k, v in options.items())
        text = f"{method.__name__}({text}{', given those of ' + first.__name__ if first else ''})"
        if linear:
            options, text, method = (
                options | {"method": method},
                f"lines of {text}",
                jb.linear_bounds,
            )
        calls[text.partition("(")[0]] = functools.partial(call, method, first, options), text
    return calls


def call(method, first, options, fn, *args):
    given = jb.intermediate_bounds(fn, *args, method=first) if first else None
    if options.get("relaxation") == "alphas":  # anywhere
        share = lambda alpha: jnp.arange(alpha.size, dtype=alpha.dtype) * 0.618 % 1
        alphas = jb.alphas(fn, *args, method=jb.crown_ibp)
        alphas = jax.tree.map(lambda alpha: share(alpha).reshape(alpha.shape), alphas)
        options = options | {"relaxation": alphas}
    return method(fn, *args, intermediates=given, **options)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A bound that does not hold."""

    call: str
    box: int
    what: str
    beyond: float = math.inf


def bounded(program: Program, args, calls, dtype: str, how: str):
    """The results of all calls for all boxes, and the magnitudes."""
    batched = [None if kind == "known" else 0 for _, kind in program.inputs]

    def every(*args):
        found = {name: bound(program, *args) for name, (bound, _) in calls.items()}
        return found, magnitude(program, *jax.tree.map(near, args))

    with precision(dtype):
        args = jax.tree.map(lambda x: jnp.asarray(x, dtype), args)
        if how == "vmap":
            return jax.tree.map(np.asarray, jax.jit(jax.vmap(every, batched))(*args))
        one = every if how == "plain" else jax.jit(every)
        each = [one(*nth(args, batched, b)) for b in range(boxes_of(args))]
        return jax.tree.map(lambda *found: np.stack(list(map(np.asarray, found))), *each)


def nth(args, batched, b: int):
    return [
        a if axis is None else jax.tree.map(lambda x: x[b], a)
        for a, axis in zip(args, batched, strict=True)
    ]


def boxes_of(args) -> int:
    return next(
        len(jax.tree.leaves(a)[0]) for a in args if not isinstance(a, np.ndarray | jax.Array)
    )


def line_values(linear: jb.LinearBounds, points) -> jb.Interval:
    """Both affine maps at all points, ``[boxes, n, *shape]``."""

    def at(coeffs, offset):
        total = offset[:, None].astype(float)
        for c, x in zip(coeffs, points, strict=True):
            boxes, count = x.shape[:2]
            flat = c.reshape(boxes, -1, math.prod(x.shape[2:])).astype(float)
            with np.errstate(invalid="ignore"):
                total = total + np.einsum(
                    "bki,bni->bnk", flat, x.reshape(boxes, count, -1)
                ).reshape(boxes, count, *offset.shape[1:])
        return total

    return jb.Interval(
        at(linear.lower_coeffs, linear.lower_offset), at(linear.upper_coeffs, linear.upper_offset)
    )


def check(program: Program, args, calls, dtype: str, seed: int, how: str) -> list[Alarm]:
    """What of the calls' results does not hold."""
    points, values = truth(program, args, seed)
    results, size = bounded(program, args, calls, dtype, how)
    slack = ULPS * float(jnp.finfo(dtype).eps) * np.asarray(size, float)
    # Undefined is what any step leaves undefined: a comparison would hide it.
    defined = np.all([np.isfinite(v).reshape(*v.shape[:2], -1).all(-1) for v in values], axis=0)
    alarms = []
    uncertain = [p for p, (_, kind) in zip(points, program.inputs, strict=True) if kind != "known"]
    for name, (_, text) in calls.items():
        for k, found in enumerate(results[name]):
            true = values[program.outputs[k]]
            if isinstance(found, jb.LinearBounds):
                bad = [
                    np.isnan(leaf).reshape(len(leaf), -1).any(1) for leaf in jax.tree.leaves(found)
                ]
                alarms += [Alarm(name, b, f"{text}: NaN") for b in np.nonzero(np.any(bad, 0))[0]]
                found = line_values(found, uncertain)
            else:
                lower, upper = (np.asarray(e, float) for e in (found.lower, found.upper))
                alarms += disorder(name, text, lower, upper, slack)
                found = jb.Interval(lower[:, None], upper[:, None])
            alarms += violations(name, text, found, true, defined, slack)
            if isinstance(results[name][k], jb.Interval):
                alarms += looser(
                    name, text, results.get("ibp", results[name])[k], results[name][k], slack
                )
        if program.affine and name != "ibp":
            alarms += inexact(name, text, program, args, results[name], slack)
    return alarms


def disorder(name, text, lower, upper, slack):
    flat = lambda x: x.reshape(len(x), -1)
    wrong = flat(np.isnan(lower) | np.isnan(upper)).any(1)
    with np.errstate(invalid="ignore"):
        wrong |= (flat(lower - upper) > slack[:, None]).any(1)
    wrong |= flat((lower == np.inf) | (upper == -np.inf)).any(1)
    return [
        Alarm(name, int(b), f"{text}: NaN or empty, {lower[b]} {upper[b]}")
        for b in np.nonzero(wrong)[0]
    ]


def looser(name, text, cheap, found, slack):
    """Where a linear method is looser than intervals alone."""
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(cheap.lower - found.lower, found.upper - cheap.upper)
    beyond = np.asarray(beyond, float).reshape(len(beyond), -1).max(1, initial=-np.inf)
    return [
        Alarm(name, int(b), f"{text}: looser than ibp by {beyond[b]:.3g}, slack {slack[b]:.3g}")
        for b in np.nonzero(beyond > 4 * slack)[0]
    ]


def violations(name, text, found, true, defined, slack):
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(found.lower - true, true - found.upper).reshape(*true.shape[:2], -1)
    beyond = np.where(defined[..., None], beyond, -np.inf)
    alarms = []
    for b in np.nonzero((beyond > slack[:, None, None]).any((1, 2)))[0]:
        n, i = np.unravel_index(np.nanargmax(beyond[b]), beyond[b].shape)
        what = f"{text}: element {i} violated by {beyond[b, n, i]:.3g}, slack {slack[b]:.3g}, value {true[b, n].ravel()[i]}"
        alarms.append(Alarm(name, int(b), what, float(beyond[b, n, i])))
    return alarms


def inexact(name, text, program: Program, args, results, slack):
    """Where an affine function's bounds are not its range."""
    with jax.enable_x64(True):
        batched = [None if kind == "known" else 0 for _, kind in program.inputs]
        args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), args)
        moving = [i for i, axis in enumerate(batched) if axis == 0]

        def exact(*args):
            full = [jnp.zeros(a.shape) if i in moving else a for i, a in enumerate(args)]

            def of(*xs):
                for i, x in zip(moving, xs, strict=True):
                    full[i] = x
                return program(*full)

            zeros = [full[i] for i in moving]
            offsets, coeffs = of(*zeros), jax.jacfwd(of, tuple(range(len(moving))))(*zeros)
            regions = [args[i] for i in moving]
            return [
                jb.concretize(jb.LinearBounds(c, o, c, o), *regions)
                for c, o in zip(coeffs, offsets, strict=True)
            ]

        ranges = jax.tree.map(np.asarray, jax.jit(jax.vmap(exact, batched))(*args))
    alarms = []
    for found, true in zip(results, ranges, strict=True):
        if isinstance(found, jb.LinearBounds):
            continue
        for end, want in ((found.lower, true.lower), (found.upper, true.upper)):
            with np.errstate(invalid="ignore"):
                off = (
                    np.where(np.isfinite(want), np.abs(end - want), 0).reshape(len(want), -1).max(1)
                )
            alarms += [
                Alarm(name, int(b), f"{text}: not exact, off by {off[b]:.3g}, slack {slack[b]:.3g}")
                for b in np.nonzero(~(off <= slack))[0]
            ]
    return alarms


# ---------------------------------------------------------------- one seed, and its report


def case(seed: int, short: bool, unsupported: collections.Counter):
    """What a seed makes: a program, its regions, calls, a type, and how they are called."""
    d = Draw(seed)
    program = draw_program(d, unsupported)
    args, calls = draw_regions(d, program), draw_calls(d)
    dtype = d.among(("float32", "float64"))
    how = d.among(["vmap"] * 8 + ["each", "plain"])
    if short:  # intervals, and the method or the linear bounds
        del calls[list(calls)[1 + seed % 2]]
        how = "vmap"
    return program, args, calls, dtype, how


def conditioned(program: Program, args, seed: int, dtype: str):
    """How much rounding moves the program itself, per box."""
    if dtype == "float64":
        return np.zeros(boxes_of(args))
    points, values = truth(program, args, seed)
    axes = [None if kind == "known" else 0 for _, kind in program.inputs]
    few = jax.tree.map(lambda x: jnp.asarray(x, dtype), points)
    fn = jax.vmap(jax.vmap(program, axes), axes)
    rounded = jax.jit(fn)(*[p[0] if a is None else p for p, a in zip(few, axes, strict=True)])
    return np.max(
        [
            np.nan_to_num(np.abs(np.asarray(r, float) - values[o]), nan=0, posinf=np.inf)
            .reshape(len(r), -1)
            .max(1)
            for r, o in zip(rounded, program.outputs, strict=True)
        ],
        axis=0,
    )


def run(seed: int, unsupported: collections.Counter, short=False) -> str:
    """An empty text, or what a seed found."""
    program, args, calls, dtype, how = case(seed, short, unsupported)
    head = f"seed {seed}, {dtype}, {how}\n{program}"
    try:
        alarms = check(program, args, calls, dtype, seed, how)
    except Exception as error:
        return f"{head}\n{''.join(traceback.format_exception(error)[-4:])}"
    if alarms and dtype == "float32":
        alarms = [alarm for alarm in alarms if not ill_conditioned(program, args, seed, alarm)]
    if not alarms:
        return ""
    return "\n".join(
        [
            head,
            *(f"box {a.box}: {a.what}" for a in alarms),
            shortest(program, args, calls, dtype, seed, alarms[0]),
        ]
    )


def ill_conditioned(program: Program, args, seed: int, alarm: Alarm) -> bool:
    return alarm.beyond < 64 * conditioned(program, args, seed, "float32")[alarm.box]


def shortest(program: Program, args, calls, dtype: str, seed: int, alarm: Alarm) -> str:
    """The first value of the program that is wrong in the box of the alarm."""
    batched = [None if kind == "known" else 0 for _, kind in program.inputs]
    args = [
        a if axis is None else jax.tree.map(lambda x: x[alarm.box : alarm.box + 1], a)
        for a, axis in zip(args, batched, strict=True)
    ]
    calls = {alarm.call: calls[alarm.call]}
    for last in range(len(program.inputs), len(program.inputs) + len(program.steps)):
        part = program.ending(last)
        found = check(part, args, calls, dtype, seed, "vmap")
        if found:
            avals = [
                a if axis is None else jax.tree.map(lambda x: x[0], a)
                for a, axis in zip(args, batched, strict=True)
            ]
            plain = [
                a if kind == "known" else np.zeros(shape, dtype)
                for a, (shape, kind) in zip(avals, program.inputs, strict=True)
            ]
            with precision(dtype):
                jaxpr = jax.make_jaxpr(part)(*plain)
            return f"shortest:\n{part}\n{found[0].what}\nargs: {avals}\n{jaxpr}"
    return "each value alone is right"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=20)
    options.add_argument("--first", type=int, default=int(time.time()))
    options.add_argument("--seed", type=int)
    options = options.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "raise")  # as in the tests: the same programs
    unsupported: collections.Counter = collections.Counter()
    if options.seed is not None:
        print(run(options.seed, unsupported) or "nothing found")
        return
    end, ran, wrong = time.time() + 60 * options.minutes, 0, 0
    for seed in itertools.count(options.first):
        if time.time() > end:
            break
        found = run(seed, unsupported)
        ran, wrong = ran + 1, wrong + bool(found)
        if found:
            print(found, flush=True)
        jax.clear_caches()
    print(
        f"{ran} programs from seed {options.first} on, {wrong} wrong; no rule for {dict(unsupported)}"
    )


if __name__ == "__main__":
    main()
