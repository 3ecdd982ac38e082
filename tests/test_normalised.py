"""Values divided by the root of a mean square that they are part of: their limits, found by structure."""

import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from interpreter import by_numpy, each_by_numpy
from jax import lax
from oracle import METHODS, assert_contains, box, precision, samples, values

import jaxbound as jb
from jaxbound._program import activations

mean_square = lambda x, axis: (x**2).mean(axis, keepdims=True)
deviation = lambda x, axis: x - x.mean(axis, keepdims=True)


def linen(module, shape=(2, 6)):
    variables = module.init(jax.random.key(0), jnp.ones(shape))
    return lambda x: module.apply(variables, x)


def scaled(x):
    """Known factors on both sides, as an array and as a number."""
    scale = np.linspace(-1, 2, 6, dtype="float32")[None].astype(x.dtype)
    return (deviation(x, 1) * scale) * (2 * lax.rsqrt(x.var(1, keepdims=True) + 0.1))


def rearranged(x):
    return x.T.reshape(3, 2, 2) * lax.rsqrt(mean_square(x, 1) + 0.1).reshape(1, 1, 2)


# Functions of arrays [2, 6], and their limits (of the product without known factors).
LIMITS = {
    "layer norm": (linen(nn.LayerNorm()), 5),
    "layer norm, slow variance": (linen(nn.LayerNorm(use_fast_variance=False)), 5),
    "layer norm, nnx": (nnx.LayerNorm(6, rngs=nnx.Rngs(0)), 5),
    "layer norm of all": (linen(nn.LayerNorm(reduction_axes=(0, 1))), 11),
    "rms norm": (linen(nn.RMSNorm()), 6),
    "rms norm, nnx": (nnx.RMSNorm(6, rngs=nnx.Rngs(0)), 6),
    "group norm": (linen(nn.GroupNorm(num_groups=2)), 2),
    "batch norm in training": (lambda x: deviation(x, 0) / jnp.sqrt(x.var(0) + 1e-5)[None], 1),
    "standard deviation": (lambda x: deviation(x, 1) / (x.std(1, keepdims=True) + 0.1), 5),
    "of a sample": (
        lambda x: deviation(x, 1) / jnp.sqrt((deviation(x, 1) ** 2).sum(1, keepdims=True) / 5),
        25 / 6,
    ),
    "unit length": (lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), 1),
    "at most unit length": (
        lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1), 0.1)[:, None],
        1,
    ),
    "power": (lambda x: x * (mean_square(x, 1) + 0.1) ** -0.5, 6),
    "rearranged": (rearranged, 6),
    "scaled": (scaled, 5),
}  # fmt: skip


def limits(fn, shape=(2, 6)):
    x = jnp.zeros(shape)
    equations = jb.trace(fn, jb.Interval(x, x)).equations
    return [
        eqn.params["limit"] ** 2 for eqn in equations if eqn.primitive is activations.normalised
    ]


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name):
    fn, limit = LIMITS[name]
    assert limits(fn) == pytest.approx([limit])
    x = np.asarray(np.random.default_rng(0).normal(size=(2, 6)), "float32")
    np.testing.assert_allclose(jb.trace(fn, box(x, x)).evaluate(x), fn(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (x - x.mean(0, keepdims=True)) * lax.rsqrt(x.var(1, keepdims=True) + 0.1),
        lambda x: deviation(x, 1) * lax.rsqrt(x.var(1, keepdims=True) - 0.1),
        lambda x: (
            (x - jnp.flip(x.mean(1, keepdims=True))) * lax.rsqrt(x.var(1, keepdims=True) + 0.1)
        ),
        lambda x: (x - 2 * x.mean(1, keepdims=True)) * lax.rsqrt(x.var(1, keepdims=True) + 0.1),
        lambda x: x * lax.rsqrt(x.var(1, keepdims=True) + 0.1),
        lambda x: x.reshape(6, 2).T * lax.rsqrt(mean_square(x, 1) + 0.1),
        lambda x: 2 * x * lax.rsqrt(mean_square(x[:, :3], 1) + 0.1),
        lambda x: x * lax.rsqrt(mean_square(x + 1, 1) + 0.1),
        lambda x: x * lax.rsqrt(mean_square(x.astype(int).astype(x.dtype), 1) + 0.1),
        lambda x: x * (mean_square(x, 1) + 0.1) ** -1,
        lambda x: x * (lax.rsqrt(mean_square(x, 1) + 0.1) / 0.01),
        lambda x: deviation(x, 1) * ((x.var(1, keepdims=True) + 0.1) ** -0.5 / 0.1 / 0.5),
        lambda x: x * lax.rsqrt(mean_square(x.astype(jnp.float16).astype(x.dtype), 1) + 1e-30),
        lambda x: x * lax.rsqrt((x**4).mean(1, keepdims=True) + 0.1),
        lambda x: x * lax.rsqrt(mean_square(x, 1) / -2 + 8.0),
        lambda x: (x - jnp.sqrt(x.mean(1, keepdims=True) ** 2)) * lax.rsqrt(x.var(1) + 1)[:, None],
    ],
)
def test_others_have_none(fn):
    assert limits(fn) == []


def test_what_only_a_run_knows():
    """An offset that may be negative, and one that is not."""
    fn = lambda x, offset: x * lax.rsqrt(mean_square(x, 1) + offset)
    found = by_numpy(lambda x, offset: jb.ibp(lambda x: fn(x, offset), jb.linf_ball(x, 0.5)))(
        jnp.ones((2, 6)), -0.125
    )
    assert (found.upper > 6**0.5).all()


NAMES = ("layer norm", "rms norm, nnx", "group norm", "at most unit length", "scaled")


RADII = np.array([0.0, 1e-6, 0.3, 3.0, 1e5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds(dtype):
    """Samples and corners stay inside; intervals, and on wide boxes all, end at the limits."""
    center, radius = np.random.default_rng(1).normal(size=(2, 6)), RADII[:, None, None]
    both = lambda x: [LIMITS[name][0](x) for name in NAMES]
    methods = METHODS if dtype == "float32" else (jb.ibp, jb.lbp, jb.crown_ibp)
    with precision(dtype):
        boxes = box(center - radius, center + radius, dtype)
        every = each_by_numpy(lambda x: [method(both, x) for method in methods])(boxes)
    every = jax.tree.map(np.asarray, every)
    for i, r in enumerate(RADII):
        region, bounds = jax.tree.map(operator.itemgetter(i), (boxes, every))
        found = values(both, samples(region))
        for method, of_method in zip(methods, bounds, strict=True):
            for name, one, value in zip(NAMES, of_method, found, strict=True):
                slack = (1e-3 if dtype == "float32" else 1e-9) * (1 + np.abs(value).max())
                assert_contains(one, value, slack, (method.__name__, name, r))
                if name != "scaled" and (method is jb.ibp or r > 10):
                    most = max(np.abs(one.lower).max(), np.abs(one.upper).max())
                    assert most <= LIMITS[name][1] ** 0.5 + slack


@pytest.mark.parametrize("name", ["standard deviation", "rms norm", "unit length"])
def test_limits_are_reached(name):
    """By one entry that is far from all others."""
    fn, limit = LIMITS[name]
    assert fn(jnp.zeros((2, 6)).at[0, 0].set(1e6))[0, 0] == pytest.approx(limit**0.5, rel=1e-5)


def test_half_precision():
    """Statistics in float32 of values in bfloat16, as Flax computes them."""
    fn = linen(nn.LayerNorm(dtype=jnp.bfloat16))
    assert limits(fn) == pytest.approx([5])


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 100.0])
def test_planes_or_intervals(radius):
    """On wide boxes, where a variance may vanish, linear bounds are not far beyond intervals."""
    fn = linen(nn.Sequential([nn.Dense(8), nn.LayerNorm(), nn.relu, nn.Dense(3)]), (4,))
    find = by_numpy(lambda x: [method(fn, x) for method in (jb.ibp, jb.crown)])
    of_interval, of_lines = find(jb.linf_ball(jnp.ones(4), radius))
    width = [(bounds.upper - bounds.lower).sum() for bounds in (of_interval, of_lines)]
    assert width[1] < (0.2 if radius == 0.01 else 1.5) * width[0]


def test_a_transformer_on_a_wide_box():
    """Every block starts anew: without limits, the bounds of four would be beyond float32."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.Dense(4)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
            z = nn.LayerNorm()(x)
            return x + nn.MultiHeadDotProductAttention(num_heads=2)(z, z)

    fn = linen(nn.Sequential([Block() for _ in range(4)]), (3, 4))
    found = by_numpy(lambda x: jb.ibp(fn, jb.linf_ball(x, 10.0)))(jnp.ones((3, 4)))
    assert np.abs(found.upper).max() < 200
