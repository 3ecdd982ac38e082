"""Sparse matrices and ragged groups, known or uncertain, as the dense products that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from jax.experimental import sparse

import jaxbound as jb

MATRIX = np.array([[1.0, 0, -2], [0, 3, 0]], "float32")
STACK = np.array([[[0, 2.0, 0], [4, 0, 1]], [[3, 0, 2], [0, -1, 0]]], "float32")
MIDDLE = (((2,), (1,)), ((0,), (0,)))
SIZES = np.array([1, 2])


def sparse_of(matrix, data=None, kind=sparse.BCOO, **layout):
    with jax.ensure_compile_time_eval():
        found = kind.fromdense(jnp.asarray(matrix), **layout)
    rest = (found.indices,) if kind is sparse.BCOO else (found.indices, found.indptr)
    return kind((found.data if data is None else data, *rest), shape=found.shape)


def ragged(x, weights):
    """Row 0 by the first, rows 1 and 2 by the second; nothing for the last."""
    return jnp.stack(
        [x[0] @ weights[0], x[1] @ weights[1], x[2] @ weights[1], 0 * x[3] @ weights[1]]
    )


LEFT, RIGHT = np.arange(12.0).reshape(4, 3) - 5, np.arange(12.0).reshape(2, 3, 2) - 5
CASES = {  # name: (function, its equal by dense products, shape of its operand)
    "matrix, vector": (lambda x: sparse_of(MATRIX) @ x, lambda x: MATRIX @ x, (3,)),
    "vector, matrix": (lambda x: x @ sparse_of(MATRIX), lambda x: x @ MATRIX, (2,)),
    "data": (
        lambda x: sparse_of(MATRIX, x).T @ jnp.ones(2),
        lambda x: x[jnp.array([0, 2, 1])],
        (3,),
    ),
    "data, and padding": (
        lambda x: sparse.BCOO((x, jnp.array([[0], [0], [5]])), shape=(2,)).todense(),
        lambda x: jnp.array([1.0, 0]) * (x[0] + x[1]),
        (3,),
    ),
    "batches": (
        lambda x: sparse.bcoo_dot_general(sparse_of(STACK, n_batch=1), x, dimension_numbers=MIDDLE),
        lambda x: jnp.einsum("bij,bj->bi", STACK, x),
        (2, 3),
    ),
    "dense axes": (
        lambda x: sparse_of(STACK, n_dense=1).transpose((1, 0, 2)).todense() * x,
        lambda x: STACK.transpose(1, 0, 2) * x,
        (2, 2, 3),
    ),
    "rows": (lambda x: sparse_of(MATRIX, kind=sparse.BCSR) @ x, lambda x: MATRIX @ x, (3,)),
    "data of rows": (
        lambda x: sparse_of(MATRIX, x, sparse.BCSR).todense(),
        lambda x: jnp.zeros((2, 3)).at[jnp.array([0, 0, 1]), jnp.array([0, 2, 1])].set(x),
        (3,),
    ),
    "ragged": (
        lambda x: lax.ragged_dot(x, jnp.asarray(RIGHT, x.dtype), SIZES),
        lambda x: ragged(x, RIGHT.astype(x.dtype)),
        (4, 3),
    ),
    "ragged weights": (
        lambda x: lax.ragged_dot(jnp.asarray(LEFT, x.dtype), x, SIZES),
        lambda x: ragged(LEFT.astype(x.dtype), x),
        (2, 3, 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:bcoo|bcsr|BCOO|BCSR")
def test_as_dense(name):
    fn, dense, shape = CASES[name]
    center = np.random.default_rng(0).normal(size=shape).astype("float32")
    region = jb.Interval(center - 0.5, center + 0.5)
    np.testing.assert_allclose(fn(jnp.asarray(center)), dense(jnp.asarray(center)), atol=1e-5)
    found, expected = by_numpy(
        lambda region: [[m(f, region) for m in (jb.ibp, jb.crown)] for f in (fn, dense)]
    )(region)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_bits_of_numbers():
    """As integers of the same size, they order numbers of one sign; nothing else is known of them."""
    bits = lambda x: lax.bitcast_convert_type(x, jnp.int32) >> 23
    region = jb.Interval(jnp.array([1.0, -8.0, -1.0]), jnp.array([5.0, -2.0, 1.0]))
    found = jb.ibp(bits, region)
    low, high = bits(region.lower), bits(region.upper)
    assert found.lower.tolist() == [low[0], high[1], -256]
    assert found.upper.tolist() == [high[0], low[1], 255]


def test_divisors_around_0_have_no_bound():
    """Neither is a quotient of integers defined there, nor a remainder."""
    region = jb.Interval(jnp.array([-9.0, 1.0]), jnp.array([7.0, 4.0]))
    limits = jnp.iinfo(jnp.int32)

    def fn(x):
        whole = x.astype(jnp.int32)
        return lax.div(100, whole), lax.rem(100, whole), lax.rem(jnp.full(2, 100.0), x)

    quotient, remainder, rest = jb.ibp(fn, region)
    assert (quotient.lower.tolist(), quotient.upper.tolist()) == (
        [limits.min, 25],
        [limits.max, 100],
    )
    assert (remainder.lower.tolist(), remainder.upper.tolist()) == (
        [limits.min, 0],
        [limits.max, 3],
    )
    assert (rest.lower.tolist(), rest.upper.tolist()) == ([-jnp.inf, 0], [jnp.inf, 4])
