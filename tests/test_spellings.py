# ruff: noqa: E501 -- a case is one line
"""The same function spelt otherwise has the same bounds; what only looks like one keeps its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import assert_contains, box, by_every, samples, values

import jaxbound as jb
from jaxbound._rules.linear_rules import linear_operands

softmax = functools.partial(jax.nn.softmax, axis=-1)
exp, log = jnp.exp, jnp.log
positive = lambda x: jax.nn.sigmoid(x)


def rows(x):
    """Three rows, of which the last axis is not the sum's alone."""
    return jnp.stack([x, 2 * x[::-1], x**2])


def e_over_sum(x):
    e = exp(rows(x) - rows(x).max(-1, keepdims=True))
    return (e.T / e.sum(-1)[None]).T


def cross_entropy(x):
    labels = jax.nn.one_hot(jnp.arange(3), 3, dtype=x.dtype)
    return -(labels * log(softmax(rows(x)))).sum(-1)


def quadratic_by_abs(z):
    return jnp.where(jnp.abs(z) < 0.5, z * z, jnp.abs(z) - 0.25)


def quadratic_by_min(z):
    least = jnp.minimum(jnp.abs(z), 0.5)
    return least**2 + (jnp.abs(z) - least)


TWICE = {  # name: (spelling, reference)
    "relu by where": (lambda z: jnp.where(z > 0, z, 0), jax.nn.relu),
    "relu by where, >=": (lambda z: jnp.where(z >= 0, z, jnp.zeros_like(z)), jax.nn.relu),
    "relu by product": (lambda z: z * (z > 0), jax.nn.relu),
    "relu by abs": (lambda z: (z + jnp.abs(z)) / 2, lambda z: 1.0 * jax.nn.relu(z)),
    "abs by where": (lambda z: jnp.where(z >= 0, z, -z), jnp.abs),
    "abs by max": (lambda z: jnp.maximum(z, -z), jnp.abs),
    "abs by sign": (lambda z: z * jnp.sign(z), jnp.abs),
    "hard tanh": (jax.nn.hard_tanh, lambda z: jnp.clip(z, -1, 1)),
    "clip by where": (lambda z: jnp.where((z > -1) & (z < 1), z, jnp.sign(z)), lambda z: jnp.clip(z, -1, 1)),
    "clip by relus": (lambda z: jax.nn.relu(z) - jax.nn.relu(z - 1), lambda z: jnp.clip(z, 0, 1)),
    "hard sigmoid by where": (lambda z: jnp.where(z < -3, 0, jnp.where(z > 3, 1, z / 6 + 0.5)), jax.nn.hard_sigmoid),
    "leaky relu by max": (lambda z: jnp.maximum(z, 0.1 * z), lambda z: jax.nn.leaky_relu(z, 0.1)),
    "leaky relu by two": (lambda z: jax.nn.relu(z) - 0.1 * jax.nn.relu(-z), lambda z: jax.nn.leaky_relu(z, 0.1)),
    "huber": (quadratic_by_abs, quadratic_by_min),
    "relu squared": (lambda z: jnp.where(z > 0, z * z, 0), lambda z: jax.nn.relu(z) ** 2),
    "sigmoid": (lambda z: 1 / (1 + exp(-z)), jax.nn.sigmoid),
    "sigmoid, large": (lambda z: exp(z) / (exp(z) + 1), jax.nn.sigmoid),
    "tanh": (lambda z: (exp(z) - exp(-z)) / (exp(z) + exp(-z)), jnp.tanh),
    "tanh by one": (lambda z: (1 - exp(-2 * z)) / (1 + exp(-2 * z)), jnp.tanh),
    "softplus": (lambda z: jnp.log1p(exp(z)), jax.nn.softplus),
    "softplus by log": (lambda z: log(1 + exp(z)), jax.nn.softplus),
    "softplus, flat": (lambda z: jax.nn.relu(z) + jnp.log1p(exp(-jnp.abs(z))), jax.nn.softplus),
    "silu": (lambda z: z / (1 + exp(-z)), jax.nn.silu),
    "mish": (lambda z: z * jnp.tanh(log(1 + exp(z))), jax.nn.mish),
    "gelu": (lambda z: z * (1 + lax.erf(z / 2**0.5)) / 2, lambda z: jax.nn.gelu(z, approximate=False)),
    "gelu tanh": (lambda z: 0.5 * z * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (z + 0.044715 * z**3))), jax.nn.gelu),
    "elu": (lambda z: jnp.where(z < 0, exp(z) - 1, z), jax.nn.elu),
    "binary cross-entropy": (
        lambda z: -0.3 * log(1 / (1 + exp(-z))) - 0.7 * log(1 - 1 / (1 + exp(-z))),
        lambda z: -0.3 * jax.nn.log_sigmoid(z) - 0.7 * jax.nn.log_sigmoid(-z),
    ),
    "square": (lambda z: z * z[:, None].reshape(z.shape), lambda z: z * z),
    "softmax without keepdims": (e_over_sum, lambda x: softmax(rows(x))),
    "log softmax": (lambda x: log(softmax(rows(x))), lambda x: jax.nn.log_softmax(rows(x))),
    "an entry": (lambda x: log(softmax(x)[1]), lambda x: jax.nn.log_softmax(x)[1]),
    "entries": (
        lambda x: log(jnp.take_along_axis(softmax(rows(x)), np.array([[1], [0], [2]]), -1)),
        lambda x: jnp.take_along_axis(jax.nn.log_softmax(rows(x)), np.array([[1], [0], [2]]), -1),
    ),
    "cross-entropy": (cross_entropy, lambda x: -jnp.diag(jax.nn.log_softmax(rows(x)))),
    "clipped cross-entropy": (lambda x: log(jnp.clip(softmax(x), 1e-7, 1)), lambda x: jnp.clip(jax.nn.log_softmax(x), np.log(1e-7), 0)),
    "eps in the logarithm": (
        lambda x: log(softmax(x) + 1e-6),
        lambda x: jax.nn.softplus(jax.nn.log_softmax(x) - np.log(1e-6)) + np.log(1e-6),
    ),
    "entr": (lambda x: -positive(x) * log(positive(x)), lambda x: jax.scipy.special.entr(positive(x))),
}  # fmt: skip

# Not the reference's equations, but as tight.
OTHERWISE = (
    "relu by abs",
    "hard sigmoid by where",
    "clipped cross-entropy",
    "eps in the logarithm",
)

BEFORE = np.array([[1.0, -0.5, 0.2], [0.4, 1.0, 0.3], [0.5, -0.3, 1.0]])
AFTER = np.array([1.0, -2.0, 0.5])


def net(fn):
    def between(x):
        found = fn(BEFORE.astype(x.dtype) @ x)
        found = found.reshape(len(found), -1).sum(1) if found.ndim else found
        return (found * AFTER[: found.size].astype(x.dtype)).sum()

    return between


REGION = box([-0.8, 0.2, -0.1], [0.5, 1.1, 0.4])


def nonlinear(graph):
    """What decides how wide bounds are: equations that are not affine."""
    equations = [eqn for eqn in graph.equations if eqn.moving and linear_operands(eqn) is None]
    return [(eqn.primitive, sorted(map(str, eqn.params.items()))) for eqn in equations]


@pytest.mark.parametrize("name", sorted({*TWICE} - {*OTHERWISE}))
def test_it_is_the_reference(name):
    spelt, plain = (jb.trace(net(fn), REGION) for fn in TWICE[name])
    assert nonlinear(spelt) == nonlinear(plain)


def test_what_is_recognised_is_the_function():
    graphs = [jb.trace(net(fn), REGION) for fn, _ in TWICE.values()]
    points = samples(REGION, 50).astype("float32")
    found = jax.jit(jax.vmap(lambda x: jnp.stack([graph.evaluate(x) for graph in graphs])))(points)
    exact = values(lambda x: jnp.stack([net(fn)(x) for fn, _ in TWICE.values()]), points)
    for name, mine, right in zip(TWICE, np.asarray(found).T, exact.T, strict=True):
        np.testing.assert_allclose(mine, right, atol=2e-5, err_msg=name)


def test_as_tight_as_the_reference():
    """Those that are no equation of the reference's, and sound; the two of a pair on the same box, as one program."""
    spelt, plain = ([net(TWICE[name][i]) for name in OTHERWISE] for i in range(2))

    def all_of(x):
        return jnp.stack([fn(x) for fn in [*spelt, *plain]])

    exact = values(all_of, samples(REGION))[:, : len(spelt)]
    methods = (jb.ibp, jb.lbp, jb.crown)
    for method, found in zip(methods, by_every(all_of, REGION, methods=methods), strict=True):
        mine, theirs = np.split(np.asarray(found.upper - found.lower), 2)
        for name, width, other in zip(OTHERWISE, mine, theirs, strict=True):
            assert width <= 1.02 * other + 1e-5, f"{name}, {method.__name__}: {width} > {other}"
        bounds = jb.Interval(found.lower[: len(spelt)], found.upper[: len(spelt)])
        assert_contains(bounds, exact, 1e-4, method.__name__)
