"""Gradients of bounds are finite: for every rule, at points, at kinks, and in boxes of almost no width."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax.extend.core import primitives as jp
from oracle import KINDS, box
from test_rules import SHAPED, UNARY, batch, primitives

import jaxbound as jb
from jaxbound._rules.elementwise import is_kinked
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_rules
from jaxbound._rules.relaxations import relaxations

# Few cases that use all rules together: see the last test.
OF_ONE = """where or not|clip|hard silu|five pieces|leaky_relu -0.5|elu 1|softplus|arctan|arcsinh|erf|erfc|sin|cos|tan
arcsin|arctanh|erf_inv|arccosh|cosh|log cosh|entr|x log x|lgamma|digamma|gelu|gelu tanh|silu|soft_sign|mish|exp|expm1
sinh|log|log1p|sqrt|cbrt|x * x|ramp|ceil|round|reduce_precision|copy|name|where ==|where finite
relu|tanh|sigmoid|abs|i1e|x ** 3|x ** -2|x ** 2.5|reciprocal|rsqrt"""
OF_ARRAYS = """written at an index|integers by uncertain|maximum, gradient|any, all, one of two|dot with itself|cumprod
layer norm|sort|signs|log_softmax, logsumexp|glu|max, min at|max_pool, transposed|bits counted|total order|powers
conv of a known image|global maximum|cumsum|cumlogsumexp|cummax|tile|dynamic_slice|set, known
triangular solve|softmax, spelt|value in a table|add at|unstack|place in a table|dynamic_update_slice
max-pool, derivative|avg_pool|angle of a point|absolute values|order|max of two|quotient|softmax|norm"""
OF_ONE, OF_ARRAYS = (names.replace("\n", "|").split("|") for names in (OF_ONE, OF_ARRAYS))

KEPT = np.array([False, True, True])
AT_ZERO = {  # what has no slope at 0, or no value beside it; masks
    "root of abs": lambda x: jnp.sqrt(jnp.abs(x)),
    "root": lambda x: jnp.abs(x) ** 0.5,
    "norm": lambda x: jnp.linalg.norm(x) - x,
    "over its norm": lambda x: x / jnp.linalg.norm(x),
    "standardised": lambda x: (x - x.mean()) / x.std(),
    "cosine": lambda x: x @ x[::-1] / (jnp.linalg.norm(x) * jnp.linalg.norm(x[::-1])),
    "arccosh": lambda x: jnp.arccosh(1 + x**2),
    "angle": lambda x: jnp.arctan2(x, x[::-1]),
    "whole powers": lambda x: x ** jnp.arange(3),
    "clip, one side": lambda x: jnp.clip(x, -jnp.inf, 1),
    "masked maximum": lambda x: jnp.where(KEPT, x, -jnp.inf).max() - x,
    "masked softmax": lambda x: jax.nn.softmax(jnp.where(KEPT, x, -jnp.inf)),
    "masked logsumexp": lambda x: jax.nn.logsumexp(jnp.where(KEPT, x, -jnp.inf)),
}


def assert_finite(fn, region, methods=(jb.ibp, jb.crown)):
    """The slopes of finite ends by both ends of the box and by factors before and behind the function.

    Those by a radius are sums of slopes by the ends.
    """
    shape = jax.eval_shape(fn, region.lower[0]).shape
    factors = jnp.ones(region.shape[1:]), jnp.ones(shape)

    def total(lower, upper, before, behind):
        known = jb.Interval(lower, upper)
        found = [method(lambda x: behind * fn(before * x), known) for method in methods]
        ends = jnp.stack([end for b in found for end in (b.upper, -2 * b.lower)])
        return jnp.where(jnp.isfinite(ends), ends, 0).sum()

    gradient = jax.vmap(jax.grad(total, (0, 1, 2, 3)), (0, 0, None, None))
    slopes = by_numpy(gradient)(region.lower, region.upper, *factors)
    for name, slope in zip(("lower", "upper", "before", "behind"), slopes, strict=True):
        bad = ~np.isfinite(slope.reshape(len(slope), -1)).all(1)
        i = bad.argmax()
        assert not bad.any(), f"by {name}: [{region.lower[i]}, {region.upper[i]}]"


@pytest.mark.parametrize("name", OF_ONE)
def test_functions_of_one_variable(name):
    """The intervals of its tests (ends of domains and kinks are their ends), their ends, and 1e-9 beside these."""
    fn, intervals = UNARY[name]
    ends = np.array(intervals, float)
    narrow, points = np.stack([ends[:, 0], ends[:, 0] + 1e-9], -1), np.repeat(ends[:, 1:], 2, 1)
    parts = [batch(e, "float32") for e in (ends, narrow, points)]
    region = jax.tree.map(lambda *e: np.concatenate(e), *parts)
    moving = primitives(fn, jax.tree.map(lambda e: e[0], region))
    kinds = KINDS if any(map(is_kinked, moving)) else KINDS[:1]
    crowns = [functools.partial(jb.crown, relaxation=kind) for kind in kinds]
    assert_finite(fn, region, (jb.ibp, *crowns))


def edges(shape) -> jb.Interval:
    """Boxes ``[8, *shape]``: points, some of equal elements; l == 0, u == 0; almost no width."""
    center, some = np.resize([1.0, -1, 0.5, 0, 2], shape), np.resize([1.0, 0], shape)
    wide, zero = np.abs(center) + np.resize([0, 1.0, 0], shape), np.zeros(shape)
    lower = [center, zero, zero + 1, zero, -wide, center, zero, -some]
    upper = [center, zero, zero + 1, wide, zero, center + 1e-9, zero + 1e-9, 1 - some]
    return box(np.stack(lower), np.stack(upper))


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_functions_of_arrays(name):
    assert_finite(SHAPED[name][0], edges(SHAPED[name][1]))


@pytest.mark.parametrize("name", AT_ZERO)
def test_at_zero(name):
    assert_finite(AT_ZERO[name], edges((3,)), (jb.ibp, jb.lbp, jb.crown))


def test_every_rule_has_a_case():
    seen = set()
    for name in OF_ONE:
        seen |= primitives(UNARY[name][0], box(*np.full((2, 3), UNARY[name][1][0][0])))
    for name in OF_ARRAYS:
        fn, shape = SHAPED[name]
        seen |= primitives(fn, box(np.zeros(shape), np.ones(shape)))
    tables = (interval_rules, linear_rules, relaxations)
    without = {jp.scatter_mul_p, jp.nextafter_p}  # JAX does not differentiate them
    assert {str(p) for table in tables for p in table.keys() - seen - without} == set()


def test_chords_of_almost_no_width():
    """The square of the width underflowed: the gradient of a chord's slope was NaN."""
    region = jb.Interval(*np.array([[-1e-30], [2e-30]], "float32"))
    fns = (jax.nn.relu, jnp.exp, jnp.tanh, lambda x: jnp.maximum(x, -0.5 * x), jax.nn.hard_tanh)
    total = lambda r: sum((b := jb.crown(fn, r)).upper.sum() - b.lower.sum() for fn in fns)
    found = jax.jit(jax.grad(total))(region)
    assert np.isfinite([found.lower, found.upper]).all()


@pytest.mark.parametrize("method", [jb.lbp, jb.crown_ibp, jb.crown_lbp, jb.crown])
def test_at_points_of_networks(method):
    """Both ends have the function's derivative, though rounding leaves most of them beside its value."""
    rng = np.random.default_rng(0)
    weights = list(jnp.asarray(rng.normal(0, 0.5, (3, 8, 8)), "float32"))
    x = jnp.asarray(rng.normal(0, 1, (16, 8)), "float32")

    def fn(x, weights):
        first, second, last = weights
        return last @ jax.nn.relu(second @ jax.nn.relu(first @ x))

    def ends(weights, x):
        found = method(fn, jb.Interval(x, x), weights)
        return found.lower, found.upper

    true = jax.vmap(jax.jacrev(lambda w, x: fn(x, w)), (None, 0))(weights, x)
    for slopes in jax.vmap(jax.jacrev(ends), (None, 0))(weights, x):
        for slope, expected in zip(slopes, true, strict=True):
            np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5)
