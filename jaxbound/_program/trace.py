"""Traces a function to one flat graph of primitives and recognised activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxbound._bounds.regions import arrays_of, is_region
from jaxbound._program.graph import Graph
from jaxbound._program.inline import flatten
from jaxbound._program.recognise import recognise


def trace(fn: Callable[..., Any], *args) -> Graph:
    """Traces ``fn`` to a flat graph of primitives: ``trace(fn, *args).evaluate(*x) == fn(*x)``.

    Args:
      fn: a function of one example.
      *args: pytrees; every `Region` leaf (`Interval`, `LpBall`, ...) is uncertain, all else is known. A truth value,
        a string or a callable is an option: it is static, as if `functools.partial` had bound it.

    Raises:
      ValueError, TypeError: an uncertain leaf is not a valid input set, or ``fn`` changes the state
        of a Flax model that it closes over.

    Example:
      >>> import jax, jaxbound as jb
      >>> graph = jb.trace(jax.nn.silu, jb.linf_ball(jax.numpy.zeros(3), 1.0))
      >>> [eqn.primitive for eqn in graph.equations]
      [silu]
    """
    return trace_with(fn, args)


def trace_with(fn: Callable[..., Any], args: Sequence[Any], joining: bool = True) -> Graph:
    """Traces as `trace` does; without ``joining``, the graph has no numbers that were rounded on the way to it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(args, is_leaf=is_region):
        if is_region(leaf):
            leaf.check("args" + jax.tree_util.keystr(path))
    leaves, restore = arrays_of(args)
    avals = [jax.ShapeDtypeStruct(x.shape, x.dtype) if is_region(x) else x for x in leaves]
    try:
        return trace_flat(
            lambda *xs: fn(*restore(xs)), avals, list(map(is_region, leaves)), joining
        )
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # raised by Flax, which is no dependency
            raise
        raise ValueError(
            "the function changes the state of a model that it closes over (statistics of a BatchNorm in training, "
            "random keys of a Dropout, ...): pass the model as an argument, or call nnx.clone(model) in the function"
        ) from error


def trace_flat(
    fn: Callable[..., Any], avals: Sequence[Any], uncertain: Sequence[bool], joining: bool = True
) -> Graph:
    """Traces a function of arrays, as `trace_with` does, given their shapes and which of them are uncertain."""
    return recognise(flatten(fn, avals, uncertain), joining)
