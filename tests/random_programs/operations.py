# ruff: noqa: E501, B008 -- an operation is one line, and its defaults are drawn when it is made
"""The operations that programs are made of, a line each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn

import jaxbound as jb
from random_programs.program import Draw, fit, like

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
    "i1e": lax.bessel_i1e,
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
