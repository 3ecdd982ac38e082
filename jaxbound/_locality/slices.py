"""Cuts windows out of arrays, at one place."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._bounds.regions import is_region
from jaxbound._locality.windows import Span, Window, long, sizes


def first(span: Span, place: Sequence[Any]):
    """Returns where a span starts at one place."""
    return span.stride * place[cast(int, span.axis)] + span.offset


def cut(value, window: Window | None, shape, place):
    """Cuts a window out of an array or a set of arrays; beyond the edge, it repeats the edge."""
    if is_region(value):
        return value.part(functools.partial(cut, window=window, shape=shape, place=place))
    if window is None:
        return value
    return jnp.reshape(_gathered(value, window, place), shape)


def _gathered(value, window: Window, place):
    """Takes a window of an array by one gather."""
    moving = tuple(axis for axis, span in enumerate(window) if span.axis is not None)
    if not moving:
        return value
    lengths = [window[axis].size for axis in moving]

    def along(i: int, axis: int):
        start = jnp.asarray(first(window[axis], place), jnp.int32)
        steps = lax.broadcasted_iota(jnp.int32, (*lengths, 1), i)
        return lax.clamp(np.int32(0), start + steps, np.int32(value.shape[axis] - 1))

    indices = lax.concatenate(list(itertools.starmap(along, enumerate(moving))), len(lengths))
    others = tuple(axis for axis in range(len(window)) if axis not in moving)
    numbers = lax.GatherDimensionNumbers(others, moving, moving)
    block = [1 if axis in moving else n for axis, n in enumerate(value.shape)]
    return lax.gather(value, indices, numbers, block, mode="promise_in_bounds")


def inside(window: Window, shape: Sequence[int], place):
    """Returns a mask of the elements of a window that lie in a value of this shape."""
    found = jnp.ones(sizes(window), bool)
    for axis, (span, n) in enumerate(zip(window, shape, strict=True)):
        if span.axis is not None:
            at = first(span, place) + lax.broadcasted_iota(int, found.shape, axis)
            found &= (at >= 0) & (at < n)
    return found


def moved(x, *starts, window: Window, of: Window):
    """Returns a window out of the elements of another, with zeros where that does not reach.

    ``starts``: where those spans of ``of`` start that ``window`` replaces by all of an axis.
    """
    x, start = lax.reshape(x, sizes(of)), iter(starts)
    for axis, (new, old) in enumerate(zip(window, of, strict=True)):
        if new.axis != old.axis:
            at = jnp.arange(new.size, dtype=jnp.int32) - next(start)
            others = [i for i in range(x.ndim) if i != axis]
            there = lax.expand_dims((at >= 0) & (at < old.size), others)
            x = jnp.take(x, jnp.clip(at, 0, old.size - 1), axis, mode="clip")
            x = x * there.astype(x.dtype)
    edges = [
        (old.offset - new.offset, new.offset + new.size - old.offset - old.size, 0)
        if new.axis == old.axis
        else (0, 0, 0)
        for new, old in zip(window, of, strict=True)
    ]
    return lax.reshape(lax.pad(x, jnp.zeros((), x.dtype), edges), long(window))


def joined(x, counts: Sequence[int], block: Sequence[int]):
    """Joins blocks side by side: ``[places, elements of a block, ...]`` -> ``[*counts * block, ...]``."""
    n, rest = len(counts), x.shape[2:]
    split = x.reshape(*counts, *block, *rest)
    axes = [axis for i in range(n) for axis in (i, n + i)]
    full = [c * b for c, b in zip(counts, block, strict=True)]
    return split.transpose(*axes, *range(2 * n, split.ndim)).reshape(*full, *rest)
