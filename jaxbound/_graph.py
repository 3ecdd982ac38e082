"""From a function to one flat graph of primitives and recognised activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxbound._inline import flatten
from jaxbound._program import Graph
from jaxbound._recognise import recognise
from jaxbound._regions import check_region, is_region


def trace(fn: Callable[..., Any], *args) -> Graph:
    """Traces ``fn`` to a flat graph of primitives: ``trace(fn, *args).evaluate(*x) == fn(*x)``.

    Args:
      fn: a function of one example.
      *args: pytrees; every `Interval` or `LpBall` leaf is uncertain, all else is known.

    Raises:
      ValueError, TypeError: an uncertain leaf is not a valid input set.

    Example:
      >>> import jax, jaxbound as jb
      >>> graph = jb.trace(jax.nn.silu, jb.linf_ball(jax.numpy.zeros(3), 1.0))
      >>> [eqn.primitive for eqn in graph.equations]
      [silu]
    """
    leaves, tree = jax.tree.flatten(args, is_leaf=is_region)
    for path, leaf in jax.tree_util.tree_leaves_with_path(args, is_leaf=is_region):
        if is_region(leaf):
            check_region(leaf, "args" + jax.tree_util.keystr(path))
    avals = [jax.ShapeDtypeStruct(x.shape, x.dtype) if is_region(x) else x for x in leaves]
    return trace_flat(
        lambda *xs: fn(*jax.tree.unflatten(tree, xs)), avals, list(map(is_region, leaves))
    )


def trace_flat(fn: Callable[..., Any], avals: Sequence[Any], uncertain: Sequence[bool]) -> Graph:
    """`trace` for a function of arrays, given their shapes and which of them are uncertain."""
    return recognise(flatten(fn, avals, uncertain))
