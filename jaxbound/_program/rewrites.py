"""Lists the calls that are replaced by their bodies, and rewrites some primitives in simpler terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jax.extend.core import primitives as jp

from jaxbound._program import sparse
from jaxbound._program.activations import clamp, clip

# Calls that are replaced by their bodies; names have changed between JAX versions.
CALLS = frozenset(
    [
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "custom_vmap_call",
    ]
)

MOST_FACTORS = 64  # the largest exponent of a power that is written as products

# Where they keep the number of elements, these only change the shape.
KEEP_ORDER = frozenset({jp.reshape_p, jp.squeeze_p, jp.broadcast_in_dim_p})


# Linear primitives that only rearrange elements; public, and in use, in some JAX versions only.
REARRANGE = tuple(
    getattr(lax, name)
    for name in ("split_p", "stack_p", "unstack_p", "tile_p")
    if hasattr(lax, name)
)


# Primitives whose values are elements of their operands, or sums of two: rounded once at most.
PICKS = frozenset((
    jp.add_p, jp.sub_p, jp.neg_p, jp.max_p, jp.min_p, jp.reduce_max_p, jp.cummax_p, jp.reduce_window_max_p,
    jp.select_n_p, jp.concatenate_p, jp.pad_p, jp.reshape_p, jp.transpose_p, jp.squeeze_p, jp.slice_p, jp.rev_p,
    jp.copy_p, jp.convert_element_type_p, jp.name_p, jp.broadcast_in_dim_p, jp.gather_p, jp.dynamic_slice_p,
    jp.dynamic_update_slice_p, jp.scatter_p, jp.scatter_max_p, jp.scatter_min_p, jp.sort_p, jp.top_k_p,
    clip, *REARRANGE,
))  # fmt: skip

# Equinox's helpers: they tell vmap or a loop what to do, and are replaced by what they run as, which JAX can trace.
AS_IT_RUNS = frozenset((
    "select_if_vmap", "maybe_set", "unvmap_any", "unvmap_all", "unvmap_max", "nontraceable", "nonbatchable",
    "nondifferentiable_backward",
))  # fmt: skip


def rewrite(
    primitive,
    uncertain: tuple[bool, ...],
    params: dict[str, Any],
    itself: int | None = None,
    value: Callable[[int], np.ndarray | None] = lambda position: None,
) -> Callable[..., Any] | None:
    """Returns an equal function in terms of fewer primitives, or None.

    ``uncertain`` is per operand; ``itself`` is the number of axes if both operands are one value, else None;
    ``value`` returns the array of the operand at a position if constants alone decide it, else None.
    """
    if primitive is jp.dot_general_p:
        (one, other), (batch, along) = params["dimension_numbers"]
        lined_up = (one, batch) == (other, along) and len(one) + len(batch) == itself
        return _sum_of_squares if lined_up else None
    if primitive is jp.pow_p:
        power = None if uncertain[1] else whole_number(value(1))
        return None if power is None else lambda x, _: lax.integer_pow(x, power)
    if primitive.name == "ragged_dot_general" and not sparse.is_plain(**params):
        return None
    if primitive is jp.min_p and not all(uncertain):
        return None
    if primitive is jp.scatter_mul_p and not uncertain[0]:
        return None
    if primitive is jp.mul_p:
        wide = params.get("out_dtype")
        return None if wide is None else _wide_product
    if primitive is jp.convert_element_type_p and params["new_dtype"] != np.dtype(bool):
        return None
    if primitive.name in AS_IT_RUNS:
        return primitive.impl
    return REWRITES.get(primitive) or BY_NAME.get(primitive.name)


def whole_number(exponents: np.ndarray | None) -> int | None:
    """Returns the integer that all exponents are, if it is small enough to be a number of factors, else None."""
    if exponents is None or not exponents.size:
        return None
    first = float(exponents.flat[0])
    alike = abs(first) <= MOST_FACTORS and first == int(first) and (exponents == first).all()
    return int(first) if alike else None


def _scatter(scatter, x, indices, updates, params):
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    return scatter(x, indices, updates, **{name: params[name] for name in names})


def _product(x, *, axes, **_):
    """Returns the product along axes: multiplies the first half by the second until one element is left."""
    x = jnp.moveaxis(x, axes, range(len(axes)))
    x = x.reshape(-1, *x.shape[len(axes) :])
    while len(x) > 1:
        half, odd = divmod(len(x), 2)
        pairs = x[:half] * x[half : 2 * half]
        x = jnp.concatenate([pairs, x[-1:]]) if odd else pairs
    return x[0] if len(x) else jnp.ones_like(x.sum(0))


def mirrored(x):
    """Returns ``-x``, or ``~x`` of integers and truth values: both reverse the order, and neither wraps around."""
    return lax.neg(x) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else lax.bitwise_not(x)


def _wide_product(x, y, *, out_dtype, **_):
    return lax.mul(x.astype(out_dtype), y.astype(out_dtype))


def _solve(*operands, const_lengths, jaxprs, **_):
    """Calls the solver of a linear solve; how it is transposed is left out."""
    counts = [const_lengths.matvec, const_lengths.vecmat, const_lengths.solve]
    start, stop = sum(counts[:2]), sum(counts)
    sides = operands[sum(const_lengths) :]
    return jex.jaxpr_as_fun(jaxprs.solve)(*operands[start:stop], *sides)


def _sum_of_squares(x, _, *, dimension_numbers, preferred_element_type, **params):
    """Returns the dot product of x with itself, along the same axes, as a sum of squares."""
    ((summed, _), (batch, _)) = dimension_numbers
    found = lax.integer_pow(x.astype(preferred_element_type or x.dtype), 2).sum(summed)
    return found.transpose([sorted(batch).index(axis) for axis in batch])


REWRITES: dict[Any, Callable[..., Any]] = {
    jp.square_p: lambda x, **_: lax.integer_pow(x, 2),
    jp.eq_to_p: lambda x, y, **_: jp.le_to_p.bind(x, y) & jp.le_to_p.bind(y, x),
    jp.clamp_p: lambda low, x, high, **_: clamp(low, x, high),
    jp.exp2_p: lambda x, **_: lax.exp(lax.mul(x, jnp.asarray(jnp.log(2.0), x.dtype))),
    jp.acos_p: lambda x, **_: lax.sub(jnp.full_like(x, jnp.pi / 2), lax.asin(x)),
    jp.reduce_prod_p: _product,
    jp.cumprod_p: lambda x, *, axis, reverse, **_: lax.associative_scan(lax.mul, x, reverse, axis),
    jp.linear_solve_p: _solve,
    lax.scatter_sub_p: lambda x, i, u, **params: _scatter(
        lax.scatter_add, x, i, lax.neg(u), params
    ),
    jp.scatter_mul_p: lambda x, i, u, **params: lax.mul(
        x, _scatter(lax.scatter_mul, jnp.ones_like(x), i, u, params)
    ),
    jp.min_p: lambda x, y, **_: mirrored(lax.max(mirrored(x), mirrored(y))),
    jp.cummin_p: lambda x, **params: mirrored(jp.cummax_p.bind(mirrored(x), **params)),
    jp.convert_element_type_p: lambda x, **_: lax.ne(x, jnp.zeros_like(x)),
    jp.stop_gradient_p: lambda x, **_: x,
    jp.reduce_window_min_p: lambda x, **params: mirrored(
        jp.reduce_window_max_p.bind(mirrored(x), **params)
    ),
    jp.reduce_min_p: lambda x, *, axes, **_: mirrored(jnp.max(mirrored(x), axis=axes)),
}
# By name: not every JAX version has them, or has them in public.
BY_NAME: dict[str, Callable[..., Any]] = {
    # These say where values lie and when they are computed: they are the identity.
    **dict.fromkeys(
        ("optimization_barrier", "sharding_constraint", "device_put"), lambda *xs, **_: xs
    ),
    "bcoo_todense": sparse.todense,
    "bcoo_dot_general": sparse.dot_general,
    "bcoo_transpose": sparse.transpose,
    "bcsr_todense": sparse.rows_todense,
    "bcsr_dot_general": sparse.rows_dot_general,
    "ragged_dot_general": sparse.ragged_dot,
    "one_minus_square": lambda x, **_: lax.sub(jnp.ones_like(x), lax.integer_pow(x, 2)),
}
