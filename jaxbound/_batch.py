"""How many examples a function is mapped over."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class _Sizes(list[int]):
    """Written by the batching rule, which runs while a function is traced. Hashes by identity."""

    __hash__ = object.__hash__  # pyright: ignore
    __eq__ = object.__eq__


def examples(values: Any) -> int:
    """How many examples `jax.vmap` runs side by side here, in a function of ``values``."""
    sizes = _Sizes()
    _probe_p.bind(*jax.tree.leaves(values), sizes=sizes)
    return math.prod(sizes)


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
