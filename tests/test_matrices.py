"""Solutions, inverses, determinants and factors of small uncertain matrices."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from interpreter import each_by_numpy
from jax import lax
from oracle import assert_contains, box, samples, values

import jaxbound as jb


def near(x, scale=4):
    return scale * jnp.eye(x.shape[-1], dtype=x.dtype) + x


def triangular(**options):
    return lambda x: lax.linalg.triangular_solve(near(x), x, **options)


def positive(x):
    return x @ x.T + 2 * jnp.eye(len(x), dtype=x.dtype)


CASES = {  # name: (function, shape of its operand)
    "inverse": (lambda x: jnp.linalg.inv(near(x)), (2, 2)),
    "inverse of three": (lambda x: jnp.linalg.inv(near(x)), (3, 3)),
    "inverse that needs pivots": (lambda x: jnp.linalg.inv(near(x)[::-1]), (2, 2)),
    "solution": (lambda x: jnp.linalg.solve(near(x), x[0]), (3, 3)),
    "solutions": (jax.vmap(lambda x: jnp.linalg.solve(near(x), x[:, :1])), (2, 2, 2)),
    "determinant": (lambda x: jnp.linalg.det(near(x, 2)), (4, 4)),
    "sign and logarithm": (lambda x: jnp.stack(jnp.linalg.slogdet(near(x))), (4, 4)),
    "cholesky": (lambda x: jnp.linalg.cholesky(near(x)), (3, 3)),
    "positive": (lambda x: jsp.linalg.solve(positive(x), x[0], assume_a="pos"), (2, 2)),
    "lower": (triangular(left_side=True, lower=True), (3, 3)),
    "upper, transposed": (triangular(left_side=True, lower=False, transpose_a=True), (2, 2)),
    "right": (triangular(left_side=False, lower=True), (2, 2)),
    "right, ones": (
        triangular(left_side=False, lower=False, transpose_a=True, unit_diagonal=True),
        (2, 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bounds(name):
    """Of samples and corners; at a point, the value itself."""
    fn, shape = CASES[name]
    center = 0.5 * np.random.default_rng(0).normal(size=(2, *shape))
    radius = np.array([0, 0.2]).reshape(2, *[1] * len(shape))
    regions = box(center - radius, center + radius)
    found = each_by_numpy(lambda r: [jb.ibp(fn, r), jb.crown_ibp(fn, r)])(regions)
    for i in range(2):
        true = values(fn, samples(jax.tree.map(lambda end, i=i: end[i], regions), 60))
        for bounds in found:
            bounds = jax.tree.map(lambda end, i=i: end[i], bounds)
            assert_contains(bounds, true, 1e-4 * (1 + np.abs(true).max()), f"{name}, box {i}")
            width = (bounds.upper - bounds.lower).max()
            assert width <= (3 * np.ptp(true, 0).max() if i else 1e-4)


def test_a_matrix_that_may_be_singular():
    """Infinite where the determinant may be 0, never wrong."""
    found = jb.ibp(lambda x: jnp.linalg.inv(x), jb.linf_ball(jnp.eye(2), 1.0))
    assert (found.lower == -jnp.inf).all() and (found.upper == jnp.inf).all()


def test_what_depends_on_pivots():
    region = jb.linf_ball(8 * jnp.eye(7), 0.1)
    for fn in (jnp.linalg.inv, lambda x: jsp.linalg.lu(x[:3, :3])[2]):
        with pytest.raises(
            jb.UnsupportedPrimitiveError, match=r"lu with uncertain .*pivots depend"
        ):
            jb.ibp(fn, region)


def test_an_operator_of_its_own():
    """A system whose product is another than that of the factored matrix is not taken for it."""

    def fn(x):
        factors = lax.linalg.lu(x)
        twice = lambda z: 2 * (x @ z)
        right = lambda _, b: b * factors[0][0, 0]
        return lax.custom_linear_solve(twice, jnp.ones(2), right, right)

    with pytest.raises(jb.UnsupportedPrimitiveError, match="lu with uncertain"):
        jb.ibp(fn, jb.linf_ball(jnp.eye(2), 0.1))


def test_a_product_in_pieces_is_no_matrix():
    """What it multiplies by is not the matrix that was factored, however alike they are at most places."""

    def fn(a):
        factors = jax.scipy.linalg.lu_factor(a)
        product = lambda x: jnp.where(a > 100, 0, a) @ x
        solution = lambda _, b: jax.scipy.linalg.lu_solve(factors, b)
        return lax.custom_linear_solve(product, jnp.ones(2), solution)

    around = np.array([[200.0, 1.0], [0.0, 2.0]])
    with pytest.raises(jb.UnsupportedPrimitiveError):
        jb.ibp(fn, box(around, around + 0.1))
