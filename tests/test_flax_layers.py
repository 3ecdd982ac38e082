"""Flax layers as users write them, linen and nnx, by every method: samples and corners stay inside."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracle import METHODS, assert_contains, box, by_every, samples, values

import jaxbound as jb


class Attention(nn.Module):
    """Causal self-attention after known tokens are embedded."""

    @nn.compact
    def __call__(self, x):
        x = (
            x
            + nn.Embed(5, 4)(jnp.array([1, 4, 1]))
            + nn.Dense(4)(jax.nn.one_hot(jnp.array([2]), 5))
        )
        mask = nn.make_causal_mask(jnp.zeros(3))[0]
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=4)(x, mask=mask)
        return nn.LayerNorm()(x)


class Transformer(nnx.Module):
    """A vision transformer: patches, a class token, one block."""

    def __init__(self, rngs):
        self.patches = nnx.Conv(1, 4, (2, 2), strides=2, rngs=rngs)
        self.token = nnx.Param(jnp.ones((1, 4)))
        self.place = nnx.Param(0.1 * jnp.arange(20.0).reshape(5, 4))
        self.norms = nnx.List([nnx.LayerNorm(4, rngs=rngs) for _ in range(2)])
        self.attend = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.wide, self.narrow = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x).reshape(4, 4)
        x = jnp.concatenate([self.token[...], x]) + self.place[...]
        x = x + self.attend(self.norms[0](x))
        x = x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))
        return self.head(x[0])


class Images(nn.Module):
    """Convolutions that are circular, grouped and transposed, and their normalisations."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), padding="CIRCULAR")(x[None])
        x = nn.relu(nn.GroupNorm(num_groups=2)(x))
        x = nn.ConvTranspose(2, (2, 2), strides=(2, 2))(x)
        return nn.InstanceNorm(use_fast_variance=False)(x).mean((0, 1, 2))


class Signals(nn.Module):
    """Convolutions in three dimensions and in one; inference of BatchNorm and dropout."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (2, 2, 2), padding="VALID")(x))
        x = nn.BatchNorm(use_running_average=True)(x.reshape(-1, 2))
        x = nn.Conv(2, (3,), strides=2)(nn.Dropout(0.5, deterministic=True)(x))
        return nn.DenseGeneral((2, 2), axis=(-2, -1))(x)


class Cells(nn.Module):
    """One step of an LSTM and of a GRU, and layers that are sums of products."""

    @nn.compact
    def __call__(self, x):
        _, h = nn.LSTMCell(3)((jnp.ones(3), jnp.zeros(3)), x)
        h, _ = nn.GRUCell(3)(h, x)
        return nn.Einsum((3, 2, 2), "i,ijk->jk")(h)


class Scaled(nn.Module):
    """Weights that are normalised themselves."""

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.WeightNorm(nn.Dense(4))(x))
        return nn.SpectralNorm(nn.Dense(3))(nn.RMSNorm()(x), update_stats=False)


# What compiles long: one method of each walk.
FEW = (jb.ibp, jb.lbp, jb.crown_ibp)

LAYERS = {  # name: (module, shape of its input, radius, methods)
    "attention": (Attention(), (3, 4), 0.05, FEW),
    "transformer": (Transformer, (4, 4, 1), 0.02, FEW),
    "images": (Images(), (3, 4, 1), 0.05, FEW),
    "signals": (Signals(), (2, 3, 3, 1), 0.1, METHODS),
    "cells": (Cells(), (4,), 0.2, FEW),
    "scaled": (Scaled(), (3,), 0.1, FEW),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    module, shape, radius, methods = LAYERS[name]
    if isinstance(module, nn.Module):
        variables = module.init(jax.random.key(1), jnp.ones(shape))
        fn = lambda x: module.apply(variables, x)
    else:
        fn = module(nnx.Rngs(1))
    center = np.random.default_rng(0).normal(size=shape)
    region = box(center - radius, center + radius)
    found = values(fn, samples(region))
    every, slack = by_every(fn, region, methods=methods), 1e-4 * (1 + np.abs(found).max())
    for method, bounds in zip(methods, every, strict=True):
        assert_contains(bounds, found, slack, method.__name__)
        assert np.isfinite(bounds.lower).all() and np.isfinite(bounds.upper).all()
    width = [np.sum(bounds.upper - bounds.lower) for bounds in every]
    assert min(width[1:]) < width[0], "linear bounds are no tighter than intervals"


# ---------------------------------------------------------------- what is exact

X = box([[-1, 0.3], [0.5, -2]], [[2, 0.7], [1, -1.5]])
Y = box([[-3, 1], [-1, -1]], [[1, 1.5], [4, -1]])
W = np.array([[1, -2], [3, 0.5]], np.float32)

PIECES = {  # name: (function of x and y, its exact interval)
    "x * x": (lambda x, y: x * x, ([[0, 0.09], [0.25, 2.25]], [[4, 0.49], [1, 4]])),
    "x ** 4": (lambda x, y: x**4, ([[0, 0.3**4], [0.5**4, 1.5**4]], [[16, 0.7**4], [1, 16]])),
    "einsum of squares": (lambda x, y: jnp.einsum("bi,bi->b", x, x), ([0.09, 2.5], [4.49, 5])),
    "vdot of squares": (lambda x, y: jnp.vdot(x, x), (2.59, 9.49)),
    "product": (lambda x, y: x * y, ([[-6, 0.3], [-1, 1.5]], [[3, 1.05], [4, 2]])),
    "square weights": (lambda x, y: x @ W, None),
    "centred": (lambda x, y: x - x.mean(1, keepdims=True), None),
    "softmax": (lambda x, y: jax.nn.softmax(x), None),
    "log_softmax": (lambda x, y: jax.nn.log_softmax(x, 0), None),
    "logsumexp": (lambda x, y: jax.nn.logsumexp(x, 1), None),
    "gelu": (lambda x, y: jax.nn.gelu(x), None),
    "softplus": (lambda x, y: jax.nn.softplus(x), None),
}


@pytest.fixture(scope="module")
def pieces():
    """All pieces: one program."""
    every = lambda x, y: {name: fn(x, y) for name, (fn, _) in PIECES.items()}
    return by_every(every, X, Y, methods=FEW)


@pytest.mark.parametrize("name", PIECES)
def test_exact(pieces, name):
    """What one element of each operand moves, and monotone functions: the corners decide."""
    fn, exact = PIECES[name]
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 8, indexing="ij"), -1).reshape(-1, 2, 2, 2)
    x, y = (r.lower + (r.upper - r.lower) * corners[:, i] for i, r in enumerate((X, Y)))
    ends = values(fn, x, y)
    lower, upper = (ends.min(0), ends.max(0)) if exact is None else exact
    if name == "gelu":  # its minimum lies in one of the intervals
        lower[0, 0] = -0.17004075
    for method, found in zip(FEW, pieces, strict=True):
        bounds = found[name]
        assert (bounds.lower <= np.array(lower) + 1e-5).all(), method.__name__
        assert (bounds.upper >= np.array(upper) - 1e-5).all(), method.__name__
        loose = method is jb.ibp and name in ("centred",)
        sums = method is not jb.ibp and "of squares" in name
        if not loose:
            np.testing.assert_allclose(bounds.upper, upper, atol=1e-5, err_msg=method.__name__)
        if not loose and not sums:
            np.testing.assert_allclose(bounds.lower, lower, atol=1e-5, err_msg=method.__name__)


def test_softmax_of_large_logits():
    """No overflow, and what is known of the others of a row counts: ``1 / (1 + sum exp(u_j - l_i))``."""
    logits = box([[1e30, -1e30, 0], [-np.inf, 0, 1]], [[1e30, -1e30, 0], [np.inf, 0, 1]])
    for method, found in zip(FEW, by_every(jax.nn.softmax, logits, methods=FEW), strict=True):
        e = np.exp(1.0)
        np.testing.assert_allclose(
            found.lower, [[1, 0, 0], [0, 0, 0]], atol=1e-6, err_msg=method.__name__
        )
        np.testing.assert_allclose(
            found.upper, [[1, 0, 0], [1, 1 / (1 + e), e / (1 + e)]], atol=1e-6
        )


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.exp(x) / jnp.exp(x).sum(1, keepdims=True),
        lambda x: nn.softmax(x, 1),
        lambda x: (lambda e: e / e.sum(1)[:, None])(jnp.exp(x - x.max(1, keepdims=True))),
        lambda x: x - jax.nn.logsumexp(x, 1, keepdims=True),
        lambda x: nn.log_softmax(x),
        lambda x: jnp.log(jnp.exp(x).sum(0)),
        lambda x: jax.nn.logsumexp(x, (0, 1)),
        lambda x: jax.nn.softmax(x, where=np.ones((2, 2), bool)),
        lambda x: x.var(0),
        lambda x: ((x - x.mean(0, keepdims=True)) ** 2).mean(0),
    ],
)
def test_recognised_by_structure(fn):
    (eqn,) = [eqn for eqn in jb.trace(fn, X).equations if eqn.moving]
    assert str(eqn.primitive) in ("softmax", "log_softmax", "logsumexp", "variance")
    np.testing.assert_allclose(jb.trace(fn, X).evaluate(X.lower), fn(X.lower), rtol=1e-6)
