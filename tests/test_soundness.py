"""Random networks by every method, as they are and under jit of vmap: samples stay inside."""

import functools

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from interpreter import each_by_numpy
from oracle import (
    METHODS,
    assert_contains,
    box,
    by_every,
    by_every_of_a_batch,
    magnitude,
    precision,
    samples,
    tolerance,
    values,
)

import jaxbound as jb

ACTIVATIONS = (nn.relu, nn.leaky_relu, nn.elu, nn.softplus, nn.sigmoid, nn.tanh, jnp.arctan, nn.gelu, nn.silu, jnp.abs,
               lambda x: jb.param_ramp(x, 0.3, 0.01), lambda x: jnp.clip(x, -0.5, 0.5))  # fmt: skip
IMAGE, VECTOR = (4, 4, 2), (4,)


class Dense(nn.Module):
    first: int

    @nn.compact
    def __call__(self, x):
        for act in ACTIVATIONS[self.first :: 4]:
            x = act(nn.Dense(4, bias_init=nn.initializers.normal(0.3))(x))
        return nn.Dense(3)(x)


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), strides=2)((x - 0.4) / 0.3))
        x = nn.gelu(nn.Conv(4, (2, 2), padding="VALID", feature_group_count=1)(x))
        return nn.Dense(3)(x.reshape(-1))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(2, (3, 3), use_bias=False)(x)))
        x = nn.relu(x + nn.Conv(2, (3, 3))(y))
        x = jnp.concatenate([x, nn.avg_pool(x, (3, 3), (1, 1), "SAME")], -1)
        return nn.Dense(3)(x.mean((0, 1)))


class Pooling(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.tanh(nn.Conv(2, (2, 2))(x)), (2, 2), (1, 1), "SAME")
        x = nn.avg_pool(x, (2, 2), (2, 2))
        return jb.margins(nn.Dense(4)(nn.max_pool(x, (2, 2)).reshape(-1)), 1)


def linen(module, shape):
    model = module()
    variables = model.init(jax.random.key(1), jnp.zeros(shape))
    if "batch_stats" in variables:
        shift = lambda s: s + 0.3 * jnp.abs(jax.random.normal(jax.random.key(2), s.shape))
        variables = variables | {"batch_stats": jax.tree.map(shift, variables["batch_stats"])}
    return functools.partial(model.apply, variables)


def twin(shape):
    """A network of nnx modules."""
    rngs = nnx.Rngs(3)
    first, norm = (
        nnx.Conv(2, 3, (2, 2), rngs=rngs),
        nnx.BatchNorm(3, use_running_average=True, rngs=rngs),
    )
    last = nnx.Linear(48, 3, rngs=rngs)
    return lambda x: last(nnx.elu(norm(first(x))).reshape(-1))


def product(shape):
    """Control: two uncertain factors, a quotient, a maximum of two."""
    return lambda x: jnp.maximum(x[:2] * x[2:], x[1:3] / (2 + jnp.tanh(x[:2]))) - x[::3]


NETWORKS = {
    **{
        f"dense {i}": (functools.partial(linen, functools.partial(Dense, i)), VECTOR)
        for i in range(4)
    },
    "conv": (functools.partial(linen, Conv), IMAGE),
    "residual": (functools.partial(linen, Residual), IMAGE),
    "pooling": (functools.partial(linen, Pooling), IMAGE),
    "nnx": (twin, IMAGE),
    "product": (product, VECTOR),
}


@functools.cache
def network(name):
    make, shape = NETWORKS[name]
    return make(shape), shape


def regions(shape, dtype="float32"):
    """Boxes of radius 0, tiny, moderate, large and huge, the last with mixed sides."""
    rng = np.random.default_rng(7)
    center = rng.uniform(size=(5, *shape))
    radius = np.array([0, 1e-4, 0.05, 1, 50]).reshape(5, *[1] * len(shape))
    radius = np.where(rng.uniform(size=center.shape) < 0.8, radius, 0)
    return box(center - radius, center + radius, dtype)


def nth(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    """By all methods in one program: they share much of it."""
    fn, shape = network(name)
    boxes = regions(shape)
    points = np.stack([samples(nth(boxes, i)) for i in range(5)])
    found = values(jax.vmap(fn), points)
    slack = tolerance("float32", each_by_numpy(functools.partial(magnitude, fn))(boxes))
    every = by_every_of_a_batch(fn, boxes)
    for method, bounds in zip(METHODS, every, strict=True):
        for i in range(5):
            assert_contains(nth(bounds, i), found[i], slack[i], f"{method.__name__}, box {i}")
        if name != "dense 0":
            continue  # compiling every operation by itself takes long
        plain = method(fn, nth(boxes, 2))
        assert_contains(plain, found[2], slack[2], f"{method.__name__}, plain")
        np.testing.assert_allclose(plain.lower, bounds.lower[2], atol=slack[2])
        np.testing.assert_allclose(plain.upper, bounds.upper[2], atol=slack[2])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_is_the_function(name):
    fn, shape = network(name)
    region = nth(regions(shape), 2)
    np.testing.assert_allclose(
        jb.trace(fn, region).evaluate(region.lower), fn(region.lower), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_point_gives_the_value(name):
    fn, shape = network(name)
    with precision("float64"):
        point = nth(regions(shape, "float64"), 0)
        *every, value = by_every(fn, point, methods=(jb.ibp, jb.crown, lambda fn, r: fn(r.lower)))
    for found in every:
        np.testing.assert_allclose(found.lower, value, atol=1e-9)
        np.testing.assert_allclose(found.upper, value, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_linear_bounds_enclose(name):
    """At every sample; and on the region they are no looser than what the published method returns."""
    fn, shape = network(name)
    region = nth(regions(shape), 2)
    methods = [functools.partial(method, published=True) for method in (jb.lbp, jb.crown)]
    lines = [functools.partial(jb.linear_bounds, method=method) for method in methods]
    *found, size = by_every(fn, region, methods=(*methods, *lines, magnitude))
    slack, points = tolerance("float32", float(size)), samples(region)
    exact = values(fn, points)
    for method, whole, linear in zip(methods, found[:2], found[2:], strict=True):
        below, above = linear_values(linear, points.reshape(len(points), -1))
        assert (below <= exact + slack).all() and (exact <= above + slack).all()
        parts = jb.concretize(linear, region)
        assert (parts.lower >= whole.lower - slack).all()
        assert (parts.upper <= whole.upper + slack).all()
        if method.func is jb.crown:
            assert (parts.lower <= whole.lower + slack).all()
            assert (parts.upper >= whole.upper - slack).all()


@pytest.mark.parametrize(
    ("methods", "dtype", "radius"),
    [
        ((jb.ibp, jb.lbp, jb.crown), "float32", 0.02),
        ((jb.ibp, jb.crown_ibp, jb.crown_lbp), "float64", None),
    ],
)
def test_uncertain_weights(methods, dtype, radius):
    """Intervals in a Flax tree: both factors of every product may be uncertain."""
    with precision(dtype):
        model = nn.Sequential(
            [
                nn.Conv(1, (2, 2)),
                nn.LayerNorm(reduction_axes=(0, 1)),
                nn.relu,
                lambda z: z.reshape(-1),
                nn.Dense(2),
            ]
        )
        variables = model.init(jax.random.key(0), jnp.zeros((2, 3, 1)))
        variables = jax.tree.map(lambda w: w.astype(dtype), variables)
        spread = jax.tree.map(lambda w: jb.linf_ball(w, 0.01), variables)
        point = jax.random.normal(jax.random.key(1), (2, 3, 1), dtype)
        image = jb.linf_ball(point, radius) if radius else point
        every = by_every(model.apply, spread, image, methods=methods)
    rng = np.random.default_rng(0)
    draw = lambda r, count=300: (
        np.asarray(r.lower)
        + np.asarray(r.upper - r.lower) * rng.choice([0, 0.5, 1], size=(count, *r.shape))
    )
    trees = jax.tree.map(draw, spread, is_leaf=lambda r: isinstance(r, jb.Interval))
    images = draw(image) if radius else np.broadcast_to(np.asarray(point), (300, *point.shape))
    found = values(model.apply, trees, images)
    for method, bounds in zip(methods, every, strict=True):
        assert_contains(bounds, found, 1e-4, method.__name__)
    first, *linear = (
        np.sum(np.asarray(bounds.upper) - np.asarray(bounds.lower)) for bounds in every
    )
    assert max(linear) < 0.8 * first


@given(
    st.lists(
        st.tuples(st.floats(-20, 20, width=32), st.floats(0, 30, width=32)), min_size=3, max_size=3
    ),
    st.sampled_from(range(len(ACTIVATIONS))),
)
def test_any_box_any_activation(intervals, which):
    """Whatever box hypothesis finds: the lines of one activation, at its ends and inside."""
    lower = np.array([l for l, _ in intervals], np.float32)
    region = box(lower, lower + np.array([w for _, w in intervals], np.float32))
    value, bounds = compiled(which)
    points = samples(region, 50)
    with jax.enable_x64(True):
        found = np.asarray(value(points))
    linear = bounds(region)
    at = linear_values(linear, points)
    slack = tolerance("float32", max(1.0, np.abs(points).max(), np.abs(found).max()))
    assert (at[0] <= found + slack).all() and (found <= at[1] + slack).all()


@functools.cache
def compiled(which):
    """An activation at many points, and its linear bounds."""
    act = ACTIVATIONS[which]
    return jax.jit(jax.vmap(act)), jax.jit(functools.partial(jb.linear_bounds, act))


def linear_values(linear, points):
    """Both affine maps at all points, in float64."""
    lower, upper = (
        np.asarray(coeffs[0], float).reshape(-1, points.shape[-1])
        for coeffs in (linear.lower_coeffs, linear.upper_coeffs)
    )
    return points @ lower.T + np.asarray(linear.lower_offset), points @ upper.T + np.asarray(
        linear.upper_offset
    )
