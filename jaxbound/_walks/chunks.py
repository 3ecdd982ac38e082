"""Work in chunks: how much at once, for how many examples side by side."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxbound._program.graph import Graph, shape_of

# Elements that the rows of one chunk may take in the largest value they meet: a CPU's cache, a GPU's hunger.
CHUNK_ELEMENTS = {"cpu": 2**18}
MOST_ELEMENTS = 2**23
# Forward bounds keep all coefficients for the layers above where that takes as many chunks at most.
KEPT_CHUNKS = 16


def rows_at_once(graph: Graph, examples: int) -> int:
    """As many as keep the largest value they meet small, for all examples of a batch together.

    But no smaller than a quarter of the largest known operand: every chunk reads that anew.
    """
    moving = [eqn for eqn in graph.equations if eqn.moving]
    largest = max((var.size for eqn in moving for var in eqn.outputs), default=1)
    known = [var for eqn in moving for var in eqn.inputs if not var.uncertain]
    weights = max((math.prod(shape_of(atom)) for atom in known), default=1)
    elements = CHUNK_ELEMENTS.get(jax.default_backend(), MOST_ELEMENTS)
    return max(1, max(elements, weights // 4) // max(1, largest * examples))


def map_chunks(fn: Callable[[Any], Any], limit: int, count: int):
    """``fn(indices [C])`` for the indices below ``count``, at most ``limit`` at a time; leaves ``[count, ...]``."""
    if not count:
        one = jax.eval_shape(fn, jnp.arange(1))
        return jax.tree.map(lambda of: jnp.zeros((0, *of.shape[1:]), of.dtype), one)
    chunks = math.ceil(count / limit)
    chunk = math.ceil(count / chunks)
    if chunks == 1:
        return fn(jnp.arange(chunk))
    # The last chunk is filled up.
    starts = chunk * jnp.arange(chunks)
    stacked = lax.map(lambda start: fn(jnp.minimum(start + jnp.arange(chunk), count - 1)), starts)
    return jax.tree.map(lambda x: x.reshape(chunks * chunk, *x.shape[2:])[:count], stacked)


def add_chunks(fn: Callable[[Any], Any], add: Callable[[Any, Any], Any], limit: int, count: int):
    """The sum by ``add`` of ``fn(indices)`` over chunks, at most ``limit`` at a time; for those beyond
    ``count``, as for what is still nothing, it has to be 0.
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
    """Bytes of the device, where it can be known."""
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return found["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


class _Sizes(list[int]):
    """Written by the batching rule, which runs while a function is traced. Hashes by identity."""

    __hash__ = object.__hash__  # pyright: ignore
    __eq__ = object.__eq__


def examples(values: Any) -> int:
    """How many examples `jax.vmap` runs side by side here, in a function of ``values``."""
    sizes = _Sizes()
    _probe_p.bind(*jax.tree.leaves(values), sizes=sizes)
    return math.prod(sizes) * _outside_of_loops.get()


@contextlib.contextmanager
def inside_a_loop(count: int) -> Iterator[None]:
    """A loop's body is traced before `jax.vmap` makes it one of many: ``count`` examples outside of it."""
    token = _outside_of_loops.set(count)
    try:
        yield
    finally:
        _outside_of_loops.reset(token)


_outside_of_loops = contextvars.ContextVar("outside of loops", default=1)


def _note(args, axes, *, sizes: _Sizes):
    sizes.append(next(x.shape[i] for x, i in zip(args, axes, strict=True) if i is not None))
    return _probe_p.bind(*args, sizes=sizes), []


_probe_p = Primitive("examples")
_probe_p.multiple_results = True
_probe_p.def_impl(lambda *_, sizes: [])
_probe_p.def_abstract_eval(lambda *_, sizes: [])
batching.primitive_batchers[_probe_p] = _note
ad.primitive_jvps[_probe_p] = lambda primals, _, sizes: (_probe_p.bind(*primals, sizes=sizes), [])
mlir.register_lowering(_probe_p, lambda ctx, *_, sizes: [])
