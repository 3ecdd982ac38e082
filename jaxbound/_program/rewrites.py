"""Lists the calls that are replaced by their bodies, and rewrites some primitives in simpler terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Case(NamedTuple):
    """Describes an equation that may be rewritten.

    Attributes:
      primitive: of the equation.
      uncertain: per operand.
      params: of the primitive.
      itself: the number of axes if both operands are one value, else None.
      value: returns the array of the operand at a position if constants alone decide it, else None.
    """

    primitive: Any
    uncertain: tuple[bool, ...]
    params: dict[str, Any]
    itself: int | None = None
    value: Callable[[int], np.ndarray | None] = lambda position: None


def rewrite(case: Case) -> Callable[..., Any] | None:
    """Returns an equal function in terms of fewer primitives, or None."""
    rule = REWRITES.get(case.primitive) or BY_NAME.get(case.primitive.name)
    return rule(case) if rule else None


def _always(fn: Callable[..., Any]) -> Callable[[Case], Callable[..., Any] | None]:
    return lambda case: fn


def _of_itself(case: Case):
    """Returns the sum of squares that a product of a value with itself is, if the axes line up."""
    (one, other), (batch, along) = case.params["dimension_numbers"]
    lined_up = (one, batch) == (other, along) and len(one) + len(batch) == case.itself
    return _sum_of_squares if lined_up else None


def _whole_power(case: Case):
    power = None if case.uncertain[1] else whole_number(case.value(1))
    return None if power is None else lambda x, _: lax.integer_pow(x, power)


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


def _factors(x, indices, updates, **params):
    """Returns the product of x and of all factors that are scattered to it."""
    return lax.mul(x, _scatter(lax.scatter_mul, jnp.ones_like(x), indices, updates, params))


def _minimum(x, y, **_):
    return mirrored(lax.max(mirrored(x), mirrored(y)))


def _truth(x, **_):
    return lax.ne(x, jnp.zeros_like(x))


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


# Each returns an equal function for a case, or None where it does not apply.
REWRITES: dict[Any, Callable[[Case], Callable[..., Any] | None]] = {
    jp.dot_general_p: _of_itself,
    jp.pow_p: _whole_power,
    jp.mul_p: lambda case: _wide_product if case.params.get("out_dtype") is not None else None,
    jp.min_p: lambda case: _minimum if all(case.uncertain) else None,
    jp.convert_element_type_p: lambda case: (
        _truth if case.params["new_dtype"] == np.dtype(bool) else None
    ),
    jp.scatter_mul_p: lambda case: _factors if case.uncertain[0] else None,
    jp.square_p: _always(lambda x, **_: lax.integer_pow(x, 2)),
    jp.eq_to_p: _always(lambda x, y, **_: jp.le_to_p.bind(x, y) & jp.le_to_p.bind(y, x)),
    jp.clamp_p: _always(lambda low, x, high, **_: clamp(low, x, high)),
    jp.exp2_p: _always(lambda x, **_: lax.exp(lax.mul(x, jnp.asarray(jnp.log(2.0), x.dtype)))),
    jp.acos_p: _always(lambda x, **_: lax.sub(jnp.full_like(x, jnp.pi / 2), lax.asin(x))),
    jp.reduce_prod_p: _always(_product),
    jp.cumprod_p: _always(
        lambda x, *, axis, reverse, **_: lax.associative_scan(lax.mul, x, reverse, axis)
    ),
    jp.linear_solve_p: _always(_solve),
    lax.scatter_sub_p: _always(
        lambda x, i, u, **params: _scatter(lax.scatter_add, x, i, lax.neg(u), params)
    ),
    jp.cummin_p: _always(lambda x, **params: mirrored(jp.cummax_p.bind(mirrored(x), **params))),
    jp.stop_gradient_p: _always(lambda x, **_: x),
    jp.reduce_window_min_p: _always(
        lambda x, **params: mirrored(jp.reduce_window_max_p.bind(mirrored(x), **params))
    ),
    jp.reduce_min_p: _always(lambda x, *, axes, **_: mirrored(jnp.max(mirrored(x), axis=axes))),
}
# By name: not every JAX version has them, or has them in public.
BY_NAME: dict[str, Callable[[Case], Callable[..., Any] | None]] = {
    # These say where values lie and when they are computed: they are the identity.
    **dict.fromkeys(
        ("optimization_barrier", "sharding_constraint", "device_put"), _always(lambda *xs, **_: xs)
    ),
    **dict.fromkeys(AS_IT_RUNS, lambda case: case.primitive.impl),
    "bcoo_todense": _always(sparse.todense),
    "bcoo_dot_general": _always(sparse.dot_general(sparse.todense)),
    "bcoo_transpose": _always(sparse.transpose),
    "bcsr_todense": _always(sparse.rows_todense),
    "bcsr_dot_general": _always(sparse.dot_general(sparse.rows_todense)),
    "ragged_dot_general": lambda case: (
        sparse.ragged_dot if sparse.is_plain(**case.params) else None
    ),
    "one_minus_square": _always(lambda x, **_: lax.sub(jnp.ones_like(x), lax.integer_pow(x, 2))),
}
