"""What is proved about the methods: who is tighter than whom, over many random networks at once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from oracle import LINEAR, METHODS, precision

import jaxbound as jb

NETS, SIZES = 40, (4, 6, 5, 6, 3)


def random_nets(rng):
    """Weights, biases, ramps and input boxes of many networks, stacked along the leading axis."""
    pairs = list(itertools.pairwise(SIZES))
    return {
        "weights": [jnp.asarray(rng.normal(size=(NETS, o, i)) / np.sqrt(i)) for i, o in pairs],
        "biases": [jnp.asarray(0.3 * rng.normal(size=(NETS, o))) for _, o in pairs],
        "ramps": [jnp.asarray(rng.uniform(0.05, 2, size=(NETS, o))) for _, o in pairs],
    }, jb.linf_ball(
        jnp.asarray(rng.normal(size=(NETS, SIZES[0]))), rng.uniform(0.01, 1.5, size=(NETS, 1))
    )


ACTIVATIONS = {
    "relu": lambda z, r: jax.nn.relu(z),
    "leaky_relu": lambda z, r: jax.nn.leaky_relu(z, 0.1),
    "leaky_relu traced": lambda z, r: jax.nn.leaky_relu(z, r.min() / 4),
    "ramp": lambda z, r: jb.param_ramp(z, r, 0.05),
    "ramp flat": lambda z, r: jb.param_ramp(z, r, 0.0),
    "clip": lambda z, r: jnp.clip(z, -0.5, 0.8),
    "tanh": lambda z, r: jnp.tanh(z),
    "max": lambda z, r: jnp.maximum(z, z[::-1]),
    "silu": lambda z, r: jax.nn.silu(z),
}


def network(net, x, activation):
    *hidden, last = zip(net["weights"], net["biases"], net["ramps"], strict=True)
    for w, b, r in hidden:
        x = ACTIVATIONS[activation](w @ x + b, r)
    return last[0] @ x + last[1]


def bounds(activation, kind, published=True):
    """The bounds of all networks by every method."""
    with precision("float64"):
        nets, boxes = random_nets(np.random.default_rng(3))

        def of(method, net, box):
            options = {"relaxation": kind, "published": published}
            options = {} if method is jb.ibp else options
            return method(lambda x: network(net, x, activation), box, **options)

        every = jax.vmap(lambda *args: {m.__name__: of(m, *args) for m in METHODS})
        return by_numpy(every)(nets, boxes)


ORDER = [
    ("ibp", "lbp"),
    ("ibp", "crown_ibp"),
    ("lbp", "crown_lbp"),
    ("crown_ibp", "crown_lbp"),
    ("crown_lbp", "crown"),
]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu traced", "ramp", "clip"])
def test_tight_lines_nest(activation):
    """Theorem 2 of Lyu et al., arXiv 2104.00447, elementwise and without an exception."""
    found = bounds(activation, "tight")
    for loose, tight in ORDER:
        assert (found[loose].lower <= found[tight].lower + 1e-12).all(), (loose, tight)
        assert (found[loose].upper >= found[tight].upper - 1e-12).all(), (loose, tight)


def test_adaptive_lines_do_not_nest():
    """The theorem's condition is needed: its test would notice other lines.

    LBP and CROWN-LBP share their lines, and of the same lines the walk down makes more.
    """
    found = bounds("relu", "adaptive")
    for loose, tight in ORDER:
        worse = (found[loose].lower > found[tight].lower + 1e-9).any()
        assert worse == ((loose, tight) != ("lbp", "crown_lbp")), (loose, tight)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_no_method_is_looser_than_intervals(activation):
    """By default, elementwise: adaptive lines alone are looser on many of these boxes."""
    found = bounds(activation, "adaptive", published=False)
    for method in LINEAR:
        assert (found["ibp"].lower <= found[method.__name__].lower + 1e-9).all(), method
        assert (found["ibp"].upper >= found[method.__name__].upper - 1e-9).all(), method


@pytest.mark.parametrize("activation", ["ramp flat", "tanh", "max", "silu"])
def test_constant_lines_are_intervals(activation):
    found = bounds(activation, "constant")
    for method in LINEAR:
        np.testing.assert_allclose(found[method.__name__].lower, found["ibp"].lower, atol=1e-12)
        np.testing.assert_allclose(found[method.__name__].upper, found["ibp"].upper, atol=1e-12)
