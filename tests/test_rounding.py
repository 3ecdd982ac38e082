"""Bounds under ``rounding="real"`` hold for the function in real arithmetic, whatever the device rounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbound as jb
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.interval_rules import interval_rules

METHODS = [jb.ibp, jb.crown_ibp, jb.crown, functools.partial(jb.alpha_crown, steps=2)]
NAMES = ["ibp", "crown_ibp", "crown", "alpha_crown"]
RNG = np.random.default_rng(0)


def network(sizes, dtype, act=np.maximum, scale=1.0):
    """Weights, and the same network for JAX in a type and for NumPy in float64."""
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    weights = [np.asarray(jnp.asarray(RNG.normal(size=s) * scale / s[0] ** 0.5, dtype)) for s in shapes]
    biases = [np.asarray(jnp.asarray(0.1 * RNG.normal(size=s[1]), dtype)) for s in shapes]

    def fn(x, exact=False):
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            if exact:
                w, b = w.astype(np.float64), b.astype(np.float64)
                x = x @ w + b
                x = act(x, True) if i < len(weights) - 1 else x
            else:
                x = x @ w + b
                x = act(x, False) if i < len(weights) - 1 else x
        return x

    return fn


def relu(x, exact):
    return np.maximum(x, 0) if exact else jax.nn.relu(x)


def tanh(x, exact):
    return np.tanh(x) if exact else jnp.tanh(x)


def inside(bounds, values):
    lower, upper = (np.asarray(end).astype(np.float64) for end in (bounds.lower, bounds.upper))
    assert (lower <= values).all(), (lower - values).max()
    assert (values <= upper).all(), (values - upper).max()


def points(box, count=200):
    """Corners, and points inside, in float64."""
    low, high = (np.asarray(end).astype(np.float64) for end in (box.lower, box.upper))
    share = RNG.uniform(size=(count, *low.shape)).round(RNG.integers(0, 3))
    return low + share * (high - low)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("act", [relu, tanh])
def test_points_are_bounded(method, dtype, act):
    """A box of a point: all that there is between the bounds is rounding. Without slack, the values lie outside."""
    fn = network((24, 16, 16, 4), dtype, act)
    x = jnp.asarray(RNG.normal(size=24), dtype)
    value = fn(np.asarray(x).astype(np.float64), exact=True)
    inside(method(fn, jb.Interval(x, x), rounding="real"), value)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_affine_functions_reach_their_bounds(method):
    """Exact bounds are attained: a planted margin of a few units is decided by the slack alone."""
    fn = network((300, 6), "float32")
    x = RNG.normal(size=300).astype(np.float32)
    box = jb.linf_ball(jnp.asarray(x), 0.01, rounding="real")
    w = np.asarray(jax.jacobian(fn)(jnp.zeros(300)), np.float64)
    low, high = (np.asarray(end, np.float64) for end in (box.lower, box.upper))
    bounds = method(fn, box, rounding="real")
    zero = fn(np.zeros(300), exact=True)
    for end, order in ((bounds.lower, (low, high)), (bounds.upper, (high, low))):
        extreme = zero + np.maximum(w, 0) @ order[0] + np.minimum(w, 0) @ order[1]
        outside = (extreme - np.asarray(end, np.float64)) * (1 if end is bounds.lower else -1)
        assert (outside >= 0).all()
        assert (outside < 1e-3).all()
