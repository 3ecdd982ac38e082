"""Defines the transpose of a convolution, written as an ordinary convolution.

The transposes of `jax.vjp` leave XLA:CPU's fast path in loops and in kernel gradients. Here rows go
backward through ``conv(x, W)`` as an NHWC/HWIO convolution of dilated rows with the flipped, channel-swapped
kernel, and the kernel's gradient is also an ordinary convolution, of images by rows.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

CHUNK = 256  # rows in one step of the loop for a kernel's gradient
TAP_ELEMENTS = 2**21  # limit to the elements of the products of rows with all taps, at once


class Window(NamedTuple):
    """Holds the static parameters of a convolution, channels last."""

    size: tuple[int, ...]  # spatial shape of the input
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]  # of the input
    spread: tuple[int, ...]  # of the kernel
    groups: int
    precision: Any


def transpose_convolution(
    rows, shape: Sequence[int], kernel, *, dimension_numbers, batch_group_count, **params
):
    """Pulls rows ``[K, *output_shape]`` of ``conv(x, kernel)`` back to rows ``[K, *shape]``; None if not covered."""
    if batch_group_count != 1:
        return None
    lhs, rhs, out = dimension_numbers
    window = Window(
        size=tuple(shape[i] for i in lhs[2:]),
        strides=tuple(params["window_strides"]),
        padding=tuple(params["padding"]),
        dilation=tuple(params["lhs_dilation"]),
        spread=tuple(params["rhs_dilation"]),
        groups=params["feature_group_count"],
        precision=params["precision"],
    )
    last = (0, *out[2:], out[1])[1:]
    rows = jnp.transpose(rows, (0, 1 + out[0], *(1 + i for i in last)))
    kernel = jnp.transpose(kernel, (*rhs[2:], rhs[1], rhs[0]))
    merged = _transposed_p.bind(rows.reshape(-1, *rows.shape[2:]), kernel, window=window)
    walked = merged.reshape(*rows.shape[:2], *merged.shape[1:])
    # Back to the layout of x: batch, spatial..., feature are axes 1, 2..., -1.
    order = [0] * len(lhs)
    for position, axis in enumerate((lhs[0], *lhs[2:], lhs[1])):
        order[axis] = 1 + position
    return jnp.transpose(walked, (0, *order))


# (rows [N, *output_size, O], kernel [*k, I/groups, O]) -> [N, *size, I]. It is a primitive because only a batching
# rule can merge examples and rows into one axis *before* differentiation: so the kernel's gradient is one
# convolution for the whole batch.
_transposed_p = Primitive("transposed_convolution")


def _rows_cotangent(cotangent, rows, kernel, *, window: Window):
    return lax.conv_general_dilated(
        cotangent, kernel, window.strides, window.padding, window.dilation, window.spread,
        dimension_numbers=_channels_last(cotangent.ndim), feature_group_count=window.groups, precision=window.precision,
    )  # fmt: skip


def _kernel_cotangent(cotangent, rows, kernel, *, window: Window):
    """Returns the kernel's gradient: a convolution with the images as features.

    It runs in a loop, so that its transposes join no other computation.
    """
    shape = kernel.aval.shape
    padding = []
    for axis, size in enumerate(window.size):
        before = window.padding[axis][0]
        span = (rows.shape[1 + axis] - 1) * window.strides[axis] + 1
        wanted = (shape[axis] - 1) * window.spread[axis] + span
        padding.append((before, wanted - before - (size - 1) * window.dilation[axis] - 1))

    def of(start, count):
        images, filters = (lax.dynamic_slice_in_dim(a, start, count) for a in (cotangent, rows))
        found = lax.conv_general_dilated(
            jnp.swapaxes(images, 0, -1), jnp.moveaxis(filters, 0, -2),
            window.spread, padding, window.dilation, window.strides,
            dimension_numbers=_channels_last(rows.ndim), batch_group_count=window.groups, precision=window.precision,
        )  # fmt: skip
        return jnp.moveaxis(found, 0, -2)

    chunks, rest = divmod(len(rows), CHUNK)
    total = of(chunks * CHUNK, rest) if rest else jnp.zeros(shape, rows.dtype)
    if chunks:
        add = lambda i, sums: sums + of(i * CHUNK, CHUNK)
        total = lax.fori_loop(0, chunks, add, total)
    return total


def _merge_examples(args, axes, *, window: Window):
    """Merges a batch axis of rows into their first axis; a batch of kernels is walked by `jax.vmap` instead."""
    (rows, kernel), (of_rows, of_kernel) = args, axes
    if of_kernel is not None:
        return jax.vmap(lambda r, k: _walk(r, k, window=window), axes)(rows, kernel), 0
    rows = jnp.moveaxis(rows, of_rows, 0)
    out = _transposed_p.bind(rows.reshape(-1, *rows.shape[2:]), kernel, window=window)
    return out.reshape(*rows.shape[:2], *out.shape[1:]), 0


def _transposed_abstract(rows, kernel, *, window: Window):
    groups = window.groups
    return ShapedArray((rows.shape[0], *window.size, kernel.shape[-2] * groups), rows.dtype)


def _walk(rows, kernel, *, window: Window):
    """Returns ``[N, *size, I]`` for rows ``[N, *output_size, O]``, in the way that is fastest for their shapes."""
    if window.groups > 1 or set(window.dilation) != {1}:
        return _by_convolution(rows, kernel, window)
    if set(rows.shape[1:-1]) == {1}:
        return _from_one_place(rows, kernel, window)
    # Measured on XLA:CPU: a convolution wins where it has many features and meets few zeros.
    zeros = math.prod(window.size) / math.prod(rows.shape[1:-1]) - 1
    if zeros < 0.25 and kernel.shape[-2] >= 16:
        return _by_convolution(rows, kernel, window)
    ways = {"cpu": _by_taps, "default": _by_convolution}
    return lax.platform_dependent(
        rows,
        kernel,
        **{place: functools.partial(way, window=window) for place, way in ways.items()},
    )


def _by_convolution(rows, kernel, window: Window):
    """Walks by a convolution of the dilated rows with the flipped, channel-swapped kernel."""
    *size, fan_in, fan_out = kernel.shape
    # [*k, I/G, (G, O/G)] -> [*k, O/G, (G, I/G)]
    split = kernel.reshape(*size, fan_in, window.groups, fan_out // window.groups)
    swapped = jnp.swapaxes(split, -1, -3).reshape(
        *size, fan_out // window.groups, window.groups * fan_in
    )
    padding = []
    for axis, taps in enumerate(size):
        reach = (taps - 1) * window.spread[axis]
        before = reach - window.padding[axis][0]
        dilated = (rows.shape[1 + axis] - 1) * window.strides[axis] + 1
        wanted = (window.size[axis] - 1) * window.dilation[axis] + 1
        padding.append((before, wanted + reach - dilated - before))
    return lax.conv_general_dilated(
        rows, jnp.flip(swapped, tuple(range(len(size)))), window.dilation, padding, window.strides, window.spread,
        dimension_numbers=_channels_last(rows.ndim), feature_group_count=window.groups, precision=window.precision,
    )  # fmt: skip


def _by_taps(rows, kernel, window: Window):
    """Walks by one product with all of the kernel, whose taps are added up where they belong.

    On XLA:CPU this is up to seven times as fast as a convolution: it multiplies no zeros, and few
    features are no loss. Position ``place`` of the rows and ``tap`` of the kernel belong at position
    ``place * stride + tap * spread - padding`` of the input. Positions of one remainder modulo the stride
    are summed in one array.
    """
    *size, fan_in, _ = kernel.shape
    places = rows.shape[1:-1]
    counts = [  # 0, where negative padding cuts all of the input away
        -(-max(0, n + before) // stride)
        for n, (before, _), stride in zip(window.size, window.padding, window.strides, strict=True)
    ]
    last = ((rows.ndim - 2,), (kernel.ndim - 1,))

    def walk(row):
        taken = lax.dot_general(row, kernel, (last, ((), ())), precision=window.precision)
        reach = [
            (n - 1) * spread // stride
            for n, spread, stride in zip(size, window.spread, window.strides, strict=True)
        ]
        room = [(r, max(0, n - m), 0) for r, n, m in zip(reach, counts, places, strict=True)]
        edges = [*room, *[(0, 0, 0)] * (kernel.ndim - 1)]
        taken = lax.pad(taken, jnp.zeros((), row.dtype), edges)
        sums: dict[tuple[int, ...], Any] = {}
        for tap in itertools.product(*map(range, size)):
            moves = [t * spread for t, spread in zip(tap, window.spread, strict=True)]
            quotient, rest = zip(*map(divmod, moves, window.strides), strict=True)
            # Position n of the sums takes position n - quotient of the product.
            there = [
                slice(r - q, r - q + n) for r, q, n in zip(reach, quotient, counts, strict=True)
            ]
            moved = taken[(*there, *tap)]
            sums[rest] = sums[rest] + moved if rest in sums else moved
        return _interleave(sums, window, jnp.zeros((*counts, fan_in), row.dtype))

    at_once = max(1, TAP_ELEMENTS // (math.prod(places) * kernel.size // kernel.shape[-1]))
    chunks = next(
        n for n in range(1, len(rows) + 2) if len(rows) <= n * at_once and not len(rows) % n
    )
    if chunks == 1:
        return jax.vmap(walk)(rows)
    found = lax.map(jax.vmap(walk), rows.reshape(chunks, -1, *rows.shape[1:]))
    return found.reshape(len(rows), *found.shape[2:])


def _interleave(sums: dict[tuple[int, ...], Any], window: Window, nothing):
    """Interleaves the arrays of each remainder modulo the strides to one of all positions, without the padding."""

    def merged(rest: tuple[int, ...]):
        axis = len(rest)
        if axis == len(window.strides):
            return sums.get(rest, nothing)
        return jnp.stack([merged((*rest, r)) for r in range(window.strides[axis])], axis + 1)

    shape = [n * stride for n, stride in zip(nothing.shape, window.strides, strict=False)]
    ends = zip(shape, window.size, window.padding, strict=True)
    edges = [(-before, before + size - n, 0) for n, size, (before, _) in ends]
    full = merged(()).reshape(*shape, nothing.shape[-1])
    return lax.pad(full, jnp.zeros((), full.dtype), [*edges, (0, 0, 0)])


def _from_one_place(rows, kernel, window: Window):
    """Walks rows at the only place of the output: each becomes a weighted sum of kernels."""
    last = ((rows.ndim - 1,), (kernel.ndim - 1,))
    taken = lax.dot_general(rows, kernel, (last, ((), ())), precision=window.precision)
    edges = [(0, 0, 0)]
    for i, size in enumerate(window.size):
        before, spread = window.padding[i][0], window.spread[i]
        edges.append((-before, size + before - (kernel.shape[i] - 1) * spread - 1, spread - 1))
    found = taken.reshape(len(rows), *kernel.shape[:-1])
    return lax.pad(found, jnp.zeros((), found.dtype), [*edges, (0, 0, 0)])


def _channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    spatial = tuple(range(1, ndim - 1))
    return lax.ConvDimensionNumbers(
        (0, ndim - 1, *spatial),
        (ndim - 1, ndim - 2, *(i - 1 for i in spatial)),
        (0, ndim - 1, *spatial),
    )


_transposed_p.def_impl(jax.jit(_walk, static_argnames="window"))
_transposed_p.def_abstract_eval(_transposed_abstract)
mlir.register_lowering(_transposed_p, mlir.lower_fun(_walk, multiple_results=False))
batching.primitive_batchers[_transposed_p] = _merge_examples
ad.defbilinear(_transposed_p, _rows_cotangent, _kernel_cotangent)
