"""Computes solutions, determinants and factors of small uncertain matrices by recurrences of terms that have rules.

In real arithmetic they equal what JAX computes with a choice of pivots, as long as both are defined; here no
choice depends on a value. Where a divisor may be 0, bounds are infinite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

# The number of rows, at most: of larger matrices, the terms would be too many, and their bounds too wide.
LARGEST = 6


def solve(a, b):
    """Returns ``x [..., n]`` with ``a x = b`` for ``a [..., n, n]``, by Cramer's rule."""
    n = a.shape[-1]
    a = a.reshape(*a.shape[:-2], *[1] * (b.ndim + 1 - a.ndim), n, n)
    others = np.array([np.delete(np.arange(n), i) for i in range(n)], int).reshape(n, n - 1)
    minors = a[..., others[:, None, :, None], others[None, :, None, :]]
    signs = np.array((-1.0) ** np.add.outer(np.arange(n), np.arange(n)), a.dtype)
    cofactors = determinant(minors) * signs.reshape(*[1] * (a.ndim - 2), n, n)
    total = (a[..., 0, :] * cofactors[..., 0, :]).sum(-1, keepdims=True)
    return (cofactors * b[..., None]).sum(-2) / total


def determinant(a):
    """Returns the determinant by expansion along the first row, which divides by nothing."""
    n = a.shape[-1]
    if n == 0:
        return jnp.ones(a.shape[:-2], a.dtype)
    if n == 1:
        return a[..., 0, 0]
    if n == 2:
        return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    others = np.array([np.delete(np.arange(n), j) for j in range(n)])
    minors = a[..., 1:, others].swapaxes(-3, -2)
    signs = np.array((-1.0) ** np.arange(n), a.dtype).reshape(*[1] * (a.ndim - 2), n)
    return (a[..., 0, :] * determinant(minors) * signs).sum(-1)


def triangular_solve(a, b, *, left_side, lower, transpose_a, unit_diagonal, **_):
    """Solves a triangular system by substitution, starting with the row that has one unknown."""
    if not left_side:
        a, b = a.mT, b.mT
    a = a.mT if transpose_a else a
    below = lower == (transpose_a == (not left_side))
    n, found = a.shape[-1], {}
    for i in range(n) if below else range(n)[::-1]:
        rest = b[..., i, :] - sum(a[..., i, k, None] * x for k, x in found.items())
        found[i] = rest if unit_diagonal else rest / a[..., i, i, None]
    x = jnp.stack([found[i] for i in range(n)], -2)
    return x if left_side else x.mT


def cholesky(a, **_):
    """Returns the lower Cholesky factor, column by column, from the lower triangle of ``a``."""
    n, factor = a.shape[-1], jnp.zeros_like(a)
    for j in range(n):
        row = factor[..., j, :j]
        column = a[..., j:, j] - (factor[..., j:, :j] * row[..., None, :]).sum(-1)
        size = jnp.sqrt(a[..., j, j] - (row * row).sum(-1))[..., None]
        factor = factor.at[..., j:, j].set(jnp.concatenate([size, column[..., 1:] / size], -1))
    return factor


# ---------------------------------------------------------------- where they stand in programs


MOVES = "transpose", "reshape", "squeeze", "broadcast_in_dim"


def rule_of(eqn, uncertain, producer) -> Callable[..., Any] | None:
    """Returns a function that computes ``eqn``, whose first operand is an uncertain matrix; None if there is none."""
    name, params = eqn.primitive.name, eqn.params
    rows, columns = (0, 0, *eqn.invars[0].aval.shape)[-2:]
    if not (uncertain[0] and 0 < rows == columns <= LARGEST):
        return None
    if name == "triangular_solve":
        return functools.partial(triangular_solve, **params)
    if name == "cholesky":
        return functools.partial(cholesky, **params)
    if name == "custom_linear_solve":
        return _solution(params, producer)
    if name == "custom_jvp_call":
        return _determinant(str(params.get("call_jaxpr")), eqn.invars[0].aval)
    return None


def _solution(params, producer) -> Callable[..., Any] | None:
    """Returns `solve` for a system whose matrix is factored by `lu`, if ``matvec`` is the product with the matrix."""
    lengths, product = params["const_lengths"], params["jaxprs"].matvec
    if lengths.matvec != 1 or not lengths.solve or len(product.in_avals) != 2:
        return None
    if producer(lengths.matvec + lengths.vecmat) != "lu":
        return None
    steps = [eqn.primitive.name for eqn in product.jaxpr.eqns]
    if steps.count("dot_general") != 1 or set(steps) - {"dot_general", *MOVES}:
        return None
    # So it is bilinear, and two bilinear functions that agree at a random point are equal, but with probability 0.
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0))
        a, x = (jax.random.normal(k, v.shape) for k, v in zip(keys, product.in_avals, strict=True))
        (found,) = jex.jaxpr_as_fun(product)(
            *(jnp.asarray(z, v.dtype) for z, v in zip((a, x), product.in_avals, strict=True))
        )
        full = a.reshape(*a.shape[:-2], *[1] * (x.ndim + 1 - a.ndim), *a.shape[-2:])
        expected = (full * x[..., None, :]).sum(-1)
        if expected.shape != found.shape or not np.allclose(found, expected, atol=1e-4):
            return None
    return lambda a, *rest: solve(a, rest[-1])


def _determinant(body: str, aval) -> Callable[..., Any] | None:
    """Returns the rule of `jnp.linalg.det` or `jnp.linalg.slogdet` if the body is the running JAX's, else None."""
    if " lu " not in body:
        return None
    of_both = lambda a: (lambda det: (jnp.sign(det), jnp.log(jnp.abs(det))))(determinant(a))
    for reference, simpler in ((jnp.linalg.det, determinant), (jnp.linalg.slogdet, of_both)):
        if body in _bodies(reference, aval.shape, aval.dtype):
            return lambda a, simpler=simpler: simpler(a)
    return None


@functools.lru_cache(maxsize=64)
def _bodies(fn, shape, dtype) -> list[str]:
    """Returns the bodies of the outermost functions in ``fn`` that have derivatives of their own."""
    found, wanted = [], [jax.make_jaxpr(fn)(jax.ShapeDtypeStruct(shape, dtype)).jaxpr]
    for jaxpr in wanted:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "custom_jvp_call":
                found.append(str(eqn.params.get("call_jaxpr")))
            else:
                wanted += jex.jaxprs_in_params(eqn.params)
    return found
