"""Splits work into chunks: decides how much to do at once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._program.graph import Graph, shape_of

# How many elements the rows of one chunk may have, together, in the largest value they meet: on a CPU what its
# cache holds, elsewhere enough to keep the device busy.
CHUNK_ELEMENTS = {"cpu": 2**18}
MOST_ELEMENTS = 2**23
# Forward bounds keep all coefficients of all values for later use if the inputs make at most so many chunks.
KEPT_CHUNKS = 16


def rows_at_once(graph: Graph, examples: int) -> int:
    """Returns how many rows keep the largest value they meet small, for all examples of a batch together.

    Small is no less than a quarter of the largest known operand, which every chunk reads anew.
    """
    moving = [eqn for eqn in graph.equations if eqn.moving]
    largest = max((var.size for eqn in moving for var in eqn.outputs), default=1)
    known = [var for eqn in moving for var in eqn.inputs if not var.uncertain]
    weights = max((math.prod(shape_of(atom)) for atom in known), default=1)
    elements = CHUNK_ELEMENTS.get(jax.default_backend(), MOST_ELEMENTS)
    return max(1, max(elements, weights // 4) // max(1, largest * examples))


def map_chunks(fn: Callable[[Any], Any], limit: int, count: int):
    """Maps ``fn(indices [C])`` over the indices below ``count``, at most ``limit`` at once: leaves ``[count, ...]``."""
    if not count:
        one = jax.eval_shape(fn, jnp.arange(1))
        return jax.tree.map(lambda of: jnp.zeros((0, *of.shape[1:]), of.dtype), one)
    chunks = math.ceil(count / limit)
    chunk = math.ceil(count / chunks)
    if chunks == 1:
        return fn(jnp.arange(chunk))
    # The last index fills up the last chunk; its repeated results are cut off.
    starts = chunk * jnp.arange(chunks)
    stacked = lax.map(lambda start: fn(jnp.minimum(start + jnp.arange(chunk), count - 1)), starts)
    return jax.tree.map(lambda x: x.reshape(chunks * chunk, *x.shape[2:])[:count], stacked)


def add_chunks(fn: Callable[[Any], Any], add: Callable[[Any, Any], Any], limit: int, count: int):
    """Adds up ``fn(indices)`` by ``add`` over chunks of at most ``limit`` indices, starting from zeros.

    For the indices beyond ``count`` that fill up the last chunk, ``fn`` has to be 0.
    """
    chunks = max(1, math.ceil(count / limit))
    chunk = math.ceil(count / chunks)
    if chunks == 1:
        return fn(jnp.arange(chunk))
    nothing = jax.eval_shape(fn, jnp.arange(chunk))
    nothing = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), nothing)
    step = lambda total, start: (add(total, fn(start + jnp.arange(chunk))), None)
    return lax.scan(step, nothing, chunk * jnp.arange(chunks))[0]


def check_fits(what: str, elements: int, dtype, instead: str) -> None:
    """Raises MemoryError before more is allocated than the device has."""
    need, have = elements * jnp.dtype(dtype).itemsize, _memory()
    if need > have:
        raise MemoryError(
            f"{what} take {need / 2**30:,.1f} GiB, but the device has {have / 2**30:,.1f} GiB: {instead}"
        )


def _memory() -> float:
    """Returns the bytes of the device (else of the host), or inf where they are unknown."""
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return found["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf
