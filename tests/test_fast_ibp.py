"""Fast IBP training (Shi et al., arXiv:2103.17268): initial weights, BatchNorm in bounds, regularisers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbound as jb
from jaxbound import networks, training


def test_ibp_init_has_mean_absolute_value_two_over_fan_in():
    weights = networks.ibp_init(jax.random.key(0), (3, 3, 16, 256))
    np.testing.assert_allclose(jnp.abs(weights).mean(), 2 / 144, rtol=0.02)


def mean_radii(model, shape, eps=0.1):
    """The mean radius of every operand of an activation under IBP; a mean over three networks."""

    def one(key):
        weights, image = jax.random.split(key)
        x = jax.random.normal(image, shape)
        variables = model.init(weights, x[None])
        fn = lambda x: model.apply(variables, x[None])[0]
        bounds = jb.intermediate_bounds(fn, jb.linf_ball(x, eps), method=jb.ibp)
        return jnp.stack([jnp.mean(b.upper - b.lower) / 2 for b in bounds.values()])

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 3)).mean(0)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (networks.ConvNet((), (256,) * 6), (128,)),
        (networks.ConvNet((networks.ConvSpec(64, 3),) * 3, (64,)), (10, 10, 16)),
    ],
)
def test_ibp_init_keeps_the_mean_radius_over_depth(model, shape):
    radii = mean_radii(model.clone(kernel_init=networks.ibp_init), shape)
    np.testing.assert_allclose(radii, radii[0], rtol=0.1)


def test_ibp_init_keeps_the_mean_radius_of_residual_networks():
    """Sums of two terms are twice as wide, and what reads them does not notice.

    Zeros around an image take about a tenth from every 3 x 3 convolution.
    """
    blocks = (networks.BlockSpec(25), networks.BlockSpec(26, bottleneck=24))
    net = networks.ResNet(24, blocks, (32,), kernel_init=networks.ibp_init)
    radii = mean_radii(net, (8, 8, 8))
    np.testing.assert_allclose(radii / radii[0], [1, 0.9, 1.8, 0.9, 0.8, 1.7, 0.8], rtol=0.1)


def test_what_reads_a_sum_is_halved():
    def one_over_fan_in(key, shape, dtype):
        return jnp.full(shape, 1 / np.prod(shape[:-1]), dtype)

    blocks = [networks.BlockSpec(5), networks.BlockSpec(5)]
    net = networks.ResNet(4, blocks, (6,), classes=3, kernel_init=one_over_fan_in)
    params = net.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))["params"]
    found = {n: layer["kernel"][..., 0].sum() for n, layer in params.items() if n != "Dense_1"}
    expected = {f"Conv_{i}": 1 for i in range(6)} | {"Conv_4": 0.5, "Dense_0": 0.5}
    assert found == pytest.approx(expected)


def test_batch_norm_bounds_are_those_of_the_folded_affine_map():
    """Centre -> w centre + (bias - w mean), radius -> |w| radius, with w = scale / sqrt(var + 1e-5)."""
    model = networks.ConvNet((networks.ConvSpec(3, 3),), classes=2, batch_norm=True)
    images = jax.random.uniform(jax.random.key(1), (6, 5, 5, 2))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    norm = {"scale": jnp.array([1.5, -2.0, 0.1]), "bias": jnp.array([0.3, -0.2, 0.0])}
    params = variables["params"] | {"BatchNorm_0": norm}
    box = jb.linf_ball(images[0], 0.02)
    conv = functools.partial(
        nn.Conv(3, (3, 3), padding="VALID").apply, {"params": params["Conv_0"]}
    )

    @jax.jit
    def found(params):
        frozen = networks.clean_pass(model, variables | {"params": params}, images).frozen
        fn = lambda x: model.apply(frozen, x[None])[0]
        (bounds,) = jb.intermediate_bounds(fn, box, method=jb.ibp).values()
        return bounds, jb.ibp(lambda x: conv(x[None])[0], box), conv(images)

    bounds, before, clean = jax.tree.map(np.asarray, found(params))
    w = np.asarray(norm["scale"]) / np.sqrt(clean.var((0, 1, 2)) + 1e-5)
    offset = np.asarray(norm["bias"]) - w * clean.mean((0, 1, 2))
    centre = w * (before.lower + before.upper) / 2 + offset
    radius = np.abs(w) * (before.upper - before.lower) / 2
    np.testing.assert_allclose(bounds.lower[0], centre - radius, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bounds.upper[0], centre + radius, rtol=1e-4, atol=1e-5)


def by_definition(bounds, boxes, tolerance=0.5):
    """The regularisers, written down as in the paper, in float64; NaN and infinite terms are skipped."""
    positive = lambda t: max(t, 0.0)
    box_radius = np.mean((boxes.upper - boxes.lower) / 2)
    tightness = balance = 0.0
    for lower, upper in bounds:
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        tightness += positive(tolerance - box_radius / max(radius.mean(), 1e-12)) / tolerance
        active, inactive = (lower > 0).astype(float), (upper < 0).astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            square = (centre - centre.mean()) ** 2
            ratios = (
                np.mean(centre * active) / -np.mean(centre * inactive),
                np.sum(square * active) / np.sum(square * inactive),
            )
            nearer = [min(t, 1 / max(t, 1e-12)) if t == t else t for t in ratios]
        term = sum(positive(tolerance - t) if t == t else t for t in nearer) / tolerance
        balance += term if np.isfinite(term) else 0.0
    return tightness / len(bounds), balance / len(bounds)


def intervals(seed, shift, scale):
    rng = np.random.default_rng(seed)
    centre = shift + rng.normal(size=(4, 5, 3)) * rng.uniform(0.2, 3, 3)
    radius = scale * rng.uniform(size=centre.shape)
    return jb.Interval(centre - radius, centre + radius)


LAYERS = {
    "mixed": intervals(0, 0.3, 0.5),
    "mostly active": intervals(1, 3.0, 0.1),
    "mostly inactive": intervals(2, -3.0, 0.1),
    "all active": intervals(3, 20.0, 0.1),
    "all inactive": intervals(4, -20.0, 0.1),
    "all unstable": intervals(5, 0.0, 1e3),
    "inactive and equal": jb.Interval(np.full((4, 2), -2.0), np.full((4, 2), -1.0)),
    "a point": intervals(6, 0.0, 0.0),
}


@pytest.fixture(scope="module")
def regularizers():
    """Compiled, with the gradient of the sum for the bounds."""

    def total(bounds, boxes):
        terms = training.bound_regularizers(bounds, boxes)
        return sum(terms), terms

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("names", [[name] for name in LAYERS] + [list(LAYERS)], ids=" ".join)
def test_regularizers_by_definition(regularizers, names):
    layers = {name: LAYERS[name] for name in names}
    boxes = jb.linf_ball(np.zeros((4, 2)), 0.2)
    in_float32 = jax.tree.map(np.float32, (layers, boxes))
    (_, terms), grads = regularizers(*in_float32)
    expected = by_definition([(b.lower, b.upper) for b in layers.values()], boxes)
    np.testing.assert_allclose(terms, expected, rtol=1e-4, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def net():
    """A network with BatchNorm as `loss(params, eps) -> regularisers, bounds, boxes`, and its params."""
    model = networks.ConvNet((networks.ConvSpec(4, 3, 2),), (6,), classes=3, batch_norm=True)
    images = jax.random.uniform(jax.random.key(1), (5, 7, 7, 1))
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, eps):
        frozen = networks.clean_pass(model, variables | {"params": params}, images).frozen
        boxes = jb.linf_ball(images, eps, clip=(0, 1))
        fn = lambda x: model.apply(frozen, x[None])[0]
        bounds = jax.vmap(lambda box: jb.intermediate_bounds(fn, box, method=jb.ibp))(boxes)
        terms = training.bound_regularizers(bounds, boxes)
        return sum(terms), (terms, bounds, boxes)

    return loss, variables["params"]


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_regularizers_of_a_network(net, eps):
    loss, params = net
    (_, (terms, bounds, boxes)), grads = loss(params, eps)
    layers = [tuple(np.float64(end) for end in (b.lower, b.upper)) for b in bounds.values()]
    assert len(layers) == 2
    np.testing.assert_allclose(terms, by_definition(layers, boxes), rtol=1e-3, atol=1e-6)
    slopes = jax.tree.leaves(grads)
    assert all(jnp.isfinite(leaf).all() for leaf in slopes)
    assert any(leaf.any() for leaf in slopes)


def test_regularizers_need_a_layer():
    with pytest.raises(ValueError, match="empty"):
        training.bound_regularizers({}, jb.linf_ball(jnp.zeros((1, 2)), 0.1))


def test_regularizer_weight_falls_with_eps():
    eps = jnp.array([0.0, 0.1, 0.4, 0.5])
    np.testing.assert_allclose(
        training.regularizer_weight(eps, 0.4, initial=0.2), [0.2, 0.15, 0, 0], rtol=1e-6, atol=1e-9
    )


def test_kernel_l1_counts_kernels_only():
    net = networks.ConvNet((networks.ConvSpec(2, 3),), (4,), classes=3, batch_norm=True)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 5, 5, 1)))
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, -2.0), shapes["params"])
    assert training.kernel_l1(params) == 2 * (3 * 3 * 2 + 18 * 4 + 4 * 3)
    slopes = jax.grad(training.kernel_l1)(params)
    assert (slopes["Conv_0"]["kernel"] == -1).all()
    assert not slopes["BatchNorm_0"]["scale"].any()
    with pytest.raises(ValueError, match="Dense_0/bias"):
        training.kernel_l1({"Dense_0": {"bias": jnp.ones(3)}})


def test_micro_batches_are_one_batch():
    """`optax.MultiSteps` steps once, after the last micro-batch, with the mean of the gradients."""
    weights = jax.random.normal(jax.random.key(0), (4, 3))
    images = jax.random.uniform(jax.random.key(1), (6, 4))
    labels = jnp.arange(6) % 3

    def loss(weights, images, labels):
        def one(x, y):
            return training.ibp_loss(lambda x: jax.nn.relu(x) @ weights, x, y, jb.linf_ball(x, 0.1))

        return jax.vmap(one)(images, labels)[0].mean() + 1e-3 * training.kernel_l1(
            {"kernel": weights}
        )

    slope, adam = jax.jit(jax.grad(loss)), optax.adam(1e-2)
    update, _ = adam.update(slope(weights, images, labels), adam.init(weights))
    whole = optax.apply_updates(weights, update)

    accumulating = optax.MultiSteps(adam, every_k_schedule=3)
    state, parts = accumulating.init(weights), weights
    for i in range(0, 6, 2):
        assert (parts == weights).all()
        update, state = accumulating.update(
            slope(parts, images[i : i + 2], labels[i : i + 2]), state, parts
        )
        parts = optax.apply_updates(parts, update)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
