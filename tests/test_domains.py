"""Outside of a domain and beyond the range of floats: infinite, never NaN, never empty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from oracle import (
    METHODS,
    assert_contains,
    box,
    by_every_of_a_batch,
    once,
    side_by_side,
    tolerance,
    values,
)

import jaxbound as jb

INF = np.inf
W = np.array([[1, -2], [0, 1], [-1, 0]], np.float32)

CASES = {  # name: (function, boxes that leave its domain or its range)
    "log": (jnp.log, [(-1, 2), (0, 1), (-2, -1), (0, 0), (1, INF)]),
    "log1p": (jnp.log1p, [(-2, 1), (-1, 1)]),
    "sqrt": (jnp.sqrt, [(-1, 4), (-2, -1), (0, INF)]),
    "rsqrt": (lax.rsqrt, [(-1, 4), (0, 1), (0, 0), (-2, -1), (1, INF)]),
    "reciprocal": (jnp.reciprocal, [(-1, 2), (0, 1), (-1, 0), (0, 0), (-INF, INF)]),
    "quotient": (lambda x: x[::-1] / x, [(-1, 2), (0, 1), (0, 0)]),
    "x ** -2": (lambda x: x**-2, [(-1, 2), (0, 1), (0, 0)]),
    "x ** 1.5": (lambda x: x**1.5, [(-1, 2), (-2, -1)]),
    "x ** -1.5": (lambda x: x**-1.5, [(-1, 2), (0, 2), (0, 0)]),
    "exp": (jnp.exp, [(0, 100), (100, 200), (-INF, 1), (-INF, INF)]),
    "expm1": (jnp.expm1, [(0, 100), (-200, 200)]),
    "softplus": (jax.nn.softplus, [(-INF, 1), (0, INF), (-3e38, 3e38)]),
    "x ** 3": (lambda x: x**3, [(-1e20, 1e20), (0, INF)]),
    "square": (jnp.square, [(-1e30, 1), (-INF, INF)]),
    "product": (lambda x: x[0] * x[::-1], [(-1e30, 1e30), (0, INF), (-INF, 0)]),
    "relu": (jax.nn.relu, [(-INF, INF), (-INF, 1), (-1, INF), (-3e38, 3e38)]),
    "leaky_relu": (jax.nn.leaky_relu, [(-INF, INF), (-1, INF)]),
    "elu": (jax.nn.elu, [(-INF, INF), (-1, INF)]),
    "gelu": (jax.nn.gelu, [(-INF, INF), (-1, INF), (-3e38, 3e38)]),
    "silu": (jax.nn.silu, [(-INF, INF), (-1, INF), (-3e38, 3e38)]),
    "tanh": (jnp.tanh, [(-INF, INF), (-1, INF), (-3e38, 3e38)]),
    "sigmoid": (jax.nn.sigmoid, [(-INF, INF), (-1, INF), (-3e38, 3e38)]),
    "abs": (jnp.abs, [(-INF, INF), (-INF, -1)]),
    "clip": (lambda x: jnp.clip(x, -1, 1), [(-INF, INF), (0, INF)]),
    "ramp": (lambda x: jb.param_ramp(x, 1.0, 0.1), [(-INF, INF), (0, INF)]),
    "max of two": (lambda x: jnp.maximum(x, x[::-1] * 2), [(-INF, INF), (0, INF), (-3e38, 3e38)]),
    "max": (lambda x: x.max()[None] * jnp.ones(2), [(-INF, INF), (0, INF)]),
    "where": (lambda x: jnp.where(x > 0, x, -1), [(-INF, INF), (0, INF)]),
    "where finite": (lambda x: jnp.where(jnp.isfinite(x), x, -1), [(-INF, INF), (0, INF), (1, 2)]),
    "softmax": (jax.nn.softmax, [(-INF, INF), (0, INF), (-INF, 0), (-3e38, 3e38)]),
    "log_softmax": (jax.nn.log_softmax, [(-INF, INF), (0, INF), (-INF, 0), (-3e38, 3e38)]),
    "standardised": (lambda x: x / jnp.sqrt(x.var() + 1), [(-INF, INF), (0, INF), (-3e38, 3e38)]),
    "dense": (lambda x: W.T @ (W @ x), [(-INF, INF), (0, INF), (-3e38, 3e38)]),
    "square of a sum": (lambda x: (x + 1) ** 2 - x, [(-1e30, 1e30)]),
}

LATER = {
    "alone": lambda z: z,
    "relu": lambda z: jax.nn.relu(z - 1),
    "network": lambda z: W.T @ jax.nn.relu(W @ jnp.tanh(W.T @ jax.nn.relu(W @ z))) + z,
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("name", CASES)
def test_infinite_and_sound(name, later):
    fn, intervals = CASES[name]
    both = lambda x: LATER[later](fn(x))
    intervals = np.resize(np.array(intervals, float), (4, 2))
    # The second element stays inside the domain: the first must not spoil it.
    lower = jnp.array([(l, 0.5) for l, _ in intervals], jnp.float32)
    upper = jnp.array([(u, 0.75) for _, u in intervals], jnp.float32)
    points = np.linspace(np.clip(lower, -1e6, None), np.clip(upper, None, 1e6), 41)
    with jax.enable_x64(True):
        values = np.asarray(jax.vmap(jax.vmap(both))(jnp.asarray(points)))
    every = by_every_of_a_batch(both, jb.Interval(lower, upper))
    for method, found in zip(METHODS, every, strict=True):
        low, high = np.asarray(found.lower, float), np.asarray(found.upper, float)
        what = f"{method.__name__} {intervals.tolist()}"
        assert not np.isnan(low).any() and not np.isnan(high).any(), what
        assert (low <= high).all() and (low < INF).all() and (high > -INF).all(), what
        size = np.max(np.abs(np.stack([low, high])), initial=1, where=np.isfinite([low, high]))
        inside = (low - 1e-5 * size <= values) & (values <= high + 1e-5 * size)
        assert (inside | ~np.isfinite(values)).all(), what


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["log", "sqrt", "exp", "relu", "tanh"])
def test_the_rest_stays_finite(name, method):
    fn, intervals = CASES[name]
    for l, u in intervals:
        found = once(method)(fn, box([l, 0.5], [u, 0.75]))
        assert np.isfinite([found.lower[1], found.upper[1]]).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_infinite_end_of_one_input(method):
    """Half-lines through a network that bounds them: finite where tanh is."""
    box = jb.Interval(jnp.array([-INF, 0.0]), jnp.array([1.0, INF]))
    found = method(lambda x: W @ jnp.tanh(x), box)
    assert np.isfinite([found.lower, found.upper]).all()
    assert (found.lower >= -3 - 1e-6).all() and (found.upper <= 3 + 1e-6).all()


@pytest.mark.parametrize("method", [jb.lbp, jb.crown_ibp])  # both walks
def test_linear_bounds_have_no_nan(method):
    boxes = {
        name: jb.Interval(jnp.array([l, 0.5], "float32"), jnp.array([u, 0.75], "float32"))
        for name, (_, [(l, u), *_]) in CASES.items()
    }
    bound = lambda name, box: jb.linear_bounds(CASES[name][0], box, method=method)
    every = by_numpy(lambda boxes: {name: bound(name, box) for name, box in boxes.items()})
    for name, found in every(boxes).items():
        assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found)), name


CURVES = {  # name: (function, boxes of its elements)
    "sin": (jnp.sin, [(-INF, INF), (0, INF), (-3e38, 3e38), (1e9, 1e9), (0, 1)]),
    "cos": (jnp.cos, [(-INF, INF), (0, INF), (-3e38, 3e38), (1e9, 1e9), (0, 1)]),
    "tan": (jnp.tan, [(-INF, INF), (-2, 2), (1, 2), (1e9, 1e9), (0, 1)]),
    "arcsin": (jnp.arcsin, [(-2, 0.5), (-1, 3), (2, 3), (1, 1), (0, 1)]),
    "arccos": (jnp.arccos, [(-2, 0.5), (-1, 3), (2, 3), (1, 1), (0, 1)]),
    "arctanh": (jnp.arctanh, [(-1, 1), (-2, 0), (2, 3), (1, 1), (0, 0.5)]),
    "erf_inv": (lax.erf_inv, [(-1, 1), (-2, 0), (2, 3), (1, 1), (0, 0.5)]),
    "arccosh": (jnp.arccosh, [(0, 3), (-3, -2), (1, INF), (1, 1), (1, 2)]),
    "lgamma": (lax.lgamma, [(-1, 1), (0, 1), (-2.6, -1.4), (1, INF), (1, 2)]),
    "digamma": (lax.digamma, [(-1, 1), (0, 1), (-2.6, -1.4), (1, INF), (1, 2)]),
    "sinh": (jnp.sinh, [(0, 100), (-200, 200), (-INF, INF), (-INF, 0), (0, 1)]),
    "cosh": (jnp.cosh, [(0, 100), (-200, 200), (-INF, INF), (-INF, 0), (0, 1)]),
    "cbrt": (jnp.cbrt, [(-INF, INF), (0, INF), (0, 0), (-3e38, 3e38), (0, 1)]),
    "mish": (jax.nn.mish, [(-INF, INF), (-1, INF), (-INF, 1), (-3e38, 3e38), (0, 1)]),
    "soft_sign": (jax.nn.soft_sign, [(-INF, INF), (-1, INF), (-INF, 1), (-3e38, 3e38), (0, 1)]),
    "angle": (
        lambda x: jnp.arctan2(x, x[::-1]),
        [(-INF, INF), (0, INF), (0, 0), (-1, 1), (0.5, 1)],
    ),
    "prod": (lambda x: x.prod()[None], [(-1e30, 1e30), (0, INF), (-INF, 0), (0, 0), (0, 1)]),
    "mul at": (
        lambda x: jnp.ones(2, x.dtype).at[np.array([0, 0, 0, 0, 1])].mul(x),
        [(-1, INF), (3, 4), (-1e30, 1e-30), (1, 2), (0, 1)],
    ),
}


@functools.cache
def bounds_of_curves():
    boxes = {name: box(*np.array(ends, float).T) for name, (_, ends) in CURVES.items()}
    functions = {name: fn for name, (fn, _) in CURVES.items()}
    return boxes, side_by_side(functions, boxes, (jb.ibp, jb.crown))


@pytest.mark.parametrize("name", CURVES)
def test_infinite_where_it_must_be(name):
    """Values that exist lie inside, and the last element, well inside the domain, stays bounded."""
    boxes, found = bounds_of_curves()
    region, fn = boxes[name], CURVES[name][0]
    parts = np.random.default_rng(0).uniform(size=(99, 5))
    ends = np.clip([region.lower, region.upper], -1e6, 1e6).astype(float)
    points = np.concatenate([ends, ends[0] + parts * (ends[1] - ends[0])])
    inside = values(fn, points)
    for bounds in (each[name] for each in found):
        lower, upper = np.asarray(bounds.lower, float), np.asarray(bounds.upper, float)
        assert (lower < INF).all() and (upper > -INF).all()
        seen = np.where(
            np.isfinite(inside), inside, np.where(lower > -INF, lower, np.minimum(upper, 0))
        )
        assert_contains(bounds, seen, tolerance("float32", np.abs(seen).max()), name)
        assert name == "prod" or np.isfinite([lower[-1], upper[-1]]).all()


def test_gradients_of_curves_are_finite():
    """At l == u, at turns, bends and ends of a period, and beside an element that has no bound."""
    functions = [
        jnp.sin,
        jnp.cos,
        lambda x: jnp.tan(x / 2),
        jax.nn.mish,
        jax.nn.soft_sign,
        jnp.cosh,
        jnp.sinh,
    ]
    functions += [lambda x: jnp.arcsin(x / 8), lambda x: lax.lgamma(x + 4)]
    lower = jnp.array([1.0, -1, 0, 0, -np.pi / 2, -2, 0, -INF])
    upper = jnp.array([1.0, -1, 0, 1, np.pi / 2, 2, 2 * np.pi, INF])

    def total(l, u):
        found = jb.crown(
            lambda x: jnp.concatenate([fn(x) + 0.5 * x for fn in functions]), jb.Interval(l, u)
        )
        ends = jnp.stack([found.lower, -found.upper])
        return jnp.where(jnp.isfinite(ends), ends, 0).sum()

    for slope in by_numpy(jax.grad(total, (0, 1)))(lower, upper):
        assert np.isfinite(slope[:-1]).all()
