"""Computes products with sparse matrices and of ragged groups in terms of dense ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def todense(data, indices, *, spinfo, **_):
    """Returns the dense array with ``data [*batch, count, *dense]`` at ``indices [*batch, count, axes]``.

    Data at equal indices add up; data at indices outside are padding, and dropped.
    """
    axes, batch = indices.shape[-1], indices.ndim - 2
    shape = spinfo.shape[batch:]

    def one(data, indices):
        at = tuple(indices[:, i] for i in range(axes))
        return jnp.zeros(shape, data.dtype).at[at].add(data, mode="drop")

    return _batched(one, spinfo.shape[:batch])(data, indices)


def _batched(fn: Callable[..., Any], sizes: Sequence[int]) -> Callable[..., Any]:
    """Returns ``fn`` mapped along batch axes of these sizes; an operand's axis of size 1 is broadcast."""
    if not sizes:
        return fn
    inner = jax.vmap(_batched(fn, sizes[1:]))
    return lambda *xs: inner(*(jnp.broadcast_to(x, (sizes[0], *x.shape[1:])) for x in xs))


def dot_general(to_dense):
    """Returns the product of a sparse matrix, which ``to_dense`` makes dense, and a dense one."""

    def product(*operands, lhs_spinfo, dimension_numbers, preferred_element_type=None, **_):
        dense, kind = to_dense(*operands[:-1], spinfo=lhs_spinfo), preferred_element_type
        return lax.dot_general(dense, operands[-1], dimension_numbers, preferred_element_type=kind)

    return product


def transpose(data, indices, *, permutation, spinfo, **_):
    """Transposes data and indices; batch, sparse and dense axes are each permuted among themselves."""
    axes, batch = indices.shape[-1], indices.ndim - 2
    first, last = permutation[:batch], permutation[batch + axes :]
    of_indices = jnp.stack([indices[..., i - batch] for i in permutation[batch : batch + axes]], -1)
    of_data = data.transpose(*first, batch, *(i - axes + 1 for i in last))
    return of_data, of_indices.transpose(*first, batch, batch + 1)


def rows_todense(data, indices, starts, *, spinfo, **_):
    """Returns the dense matrix with ``data`` in columns ``indices``, row after row; row i ends at ``starts[i + 1]``."""

    def one(data, indices, starts):
        rows = (jnp.arange(len(indices))[:, None] >= starts[None, 1:]).sum(1)
        return jnp.zeros(spinfo.shape[batch:], data.dtype).at[rows, indices].add(data, mode="drop")

    batch = indices.ndim - 1
    return _batched(one, spinfo.shape[:batch])(data, indices, starts)


def is_plain(*, ragged_dot_dimension_numbers: object, group_offset: object = None, **_) -> bool:
    """Tells whether the parameters are those of `jax.lax.ragged_dot` itself, and not of one of its transposes."""
    numbers = ragged_dot_dimension_numbers
    (summed, batch), rows, groups = (
        getattr(numbers, name)
        for name in ("dot_dimension_numbers", "lhs_ragged_dimensions", "rhs_group_dimensions")
    )
    sides = tuple(map(tuple, summed)), tuple(map(tuple, batch)), tuple(rows), tuple(groups)
    return sides == (((1,), (1,)), ((), ()), (0,), (0,)) and group_offset is None


def ragged_dot(x, weights, sizes, *, preferred_element_type=None, **_):
    """Multiplies rows ``x [m, k]``, in groups of given sizes, by ``weights [groups, k, n]``; rows beyond are 0."""
    place, stops = jnp.arange(len(x))[:, None], jnp.cumsum(sizes)[None]
    inside = (place < stops) & (place >= stops - sizes[None])
    spread = jnp.where(inside[:, :, None], x[:, None, :], 0).reshape(len(x), -1)
    return jnp.matmul(
        spread,
        weights.reshape(-1, weights.shape[-1]),
        preferred_element_type=preferred_element_type,
    )
