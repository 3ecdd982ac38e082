"""Counts how many examples run side by side under `jax.vmap`."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class _Sizes(list[int]):
    """Holds batch sizes: the batching rule appends them while a function is traced. Hashes by identity."""

    __hash__ = object.__hash__  # pyright: ignore
    __eq__ = object.__eq__


def examples(values: Any) -> int:
    """Returns how many examples `jax.vmap` runs side by side here, in a function of ``values``."""
    sizes = _Sizes()
    _probe_p.bind(*jax.tree.leaves(values), sizes=sizes)
    return math.prod(sizes) * _outside_of_loops.get()


@contextlib.contextmanager
def inside_a_loop(count: int) -> Iterator[None]:
    """Tells `examples` that ``count`` of them run side by side outside of a loop.

    The body of a loop is traced before `jax.vmap` batches it, so nothing can be counted there.
    """
    token = _outside_of_loops.set(count)
    try:
        yield
    finally:
        _outside_of_loops.reset(token)


_outside_of_loops = contextvars.ContextVar("outside of loops", default=1)


def _note(args, axes, *, sizes: _Sizes):
    """Notes the size of one `jax.vmap`, and binds again for those around it."""
    sizes.append(next(x.shape[i] for x, i in zip(args, axes, strict=True) if i is not None))
    return _probe_p.bind(*args, sizes=sizes), []


_probe_p = Primitive("examples")
_probe_p.multiple_results = True
_probe_p.def_impl(lambda *_, sizes: [])
_probe_p.def_abstract_eval(lambda *_, sizes: [])
batching.primitive_batchers[_probe_p] = _note
ad.primitive_jvps[_probe_p] = lambda primals, _, sizes: (_probe_p.bind(*primals, sizes=sizes), [])
mlir.register_lowering(_probe_p, lambda ctx, *_, sizes: [])
