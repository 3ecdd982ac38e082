"""The networks' shapes, and BatchNorm in training against BatchNorm folded by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from oracle import METHODS, assert_contains, by_every, magnitude, samples, tolerance, values

import jaxbound as jb
from jaxbound import networks

CLEAN_PASS = jax.jit(networks.clean_pass, static_argnums=0)


def hidden_shapes(model, image_shape):
    """Output shapes of the layers with weights, one image."""
    images = jnp.zeros((1, *image_shape))

    def run(key):
        variables = model.init(key, images)
        return model.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])

    _, captured = jax.eval_shape(run, jax.random.key(0))
    layers = captured["intermediates"]
    kinds = {kind: [name for name in layers if name.startswith(kind)] for kind in ("Conv", "Dense")}
    return [
        layers[f"{kind}_{i}"]["__call__"][0].shape[1:]
        for kind, names in kinds.items()
        for i in range(len(names))
    ]


@pytest.mark.parametrize(
    ("build", "image_shape", "shapes"),
    [
        (networks.dm_small, (28, 28, 1), [(13, 13, 16), (10, 10, 32), (100,), (10,)]),
        (networks.dm_small, (32, 32, 3), [(15, 15, 16), (12, 12, 32), (100,), (10,)]),
        (
            networks.dm_medium,
            (28, 28, 1),
            [(26, 26, 32), (12, 12, 32), (10, 10, 64), (4, 4, 64), (512,), (512,), (10,)],
        ),
        (
            networks.dm_large,
            (32, 32, 3),
            [(32, 32, 64)] * 2 + [(16, 16, 128)] * 3 + [(512,), (10,)],
        ),
        (
            networks.cnn7_bn,
            (32, 32, 3),
            [(32, 32, 64)] * 2 + [(16, 16, 128)] * 3 + [(512,), (10,)],
        ),
        (
            networks.resnet2,
            (32, 32, 3),
            [(32, 32, 16)] + [(16, 16, 16)] * 3 + [(8, 8, 32)] * 3 + [(100,), (10,)],
        ),
        (
            networks.resnet4,
            (32, 32, 3),
            [(32, 32, 16)] + [(16, 16, 16)] * 5 + [(8, 8, 32)] * 5 + [(100,), (10,)],
        ),
        (
            networks.small_mnist,
            (28, 28, 1),
            [(28, 28, 16), (14, 14, 16), (14, 14, 32), (7, 7, 32), (512,), (10,)],
        ),
        (networks.small_cifar, (32, 32, 3), [(32, 32, 64), (16, 16, 64), (512,), (10,)]),
        (
            functools.partial(networks.cnn7_bn, last_stride=2, classes=200),
            (64, 64, 3),
            [(64, 64, 64)] * 2 + [(32, 32, 128)] * 2 + [(16, 16, 128), (512,), (200,)],
        ),
        (
            networks.wide_resnet8,
            (32, 32, 3),
            [(32, 32, 16)]
            + [(32, 32, 128)] * 3
            + [(16, 16, 256)] * 3
            + [(8, 8, 512)] * 3
            + [(512,), (10,)],
        ),
        (
            networks.resnext,
            (32, 32, 3),
            [(32, 32, 64)]
            + [(32, 32, 64)] * 2
            + [(32, 32, 128)] * 2
            + [(32, 32, 128), (16, 16, 128), (16, 16, 256), (16, 16, 256)]
            + [(16, 16, 256), (8, 8, 256), (8, 8, 512), (8, 8, 512)]
            + [(512,), (10,)],
        ),
    ],
)
def test_shapes_of_the_papers(build, image_shape, shapes):
    assert hidden_shapes(build(), image_shape) == shapes


def conv(size, inputs, features, groups=1):
    """Weights, biases, and BatchNorm's scale and shift."""
    return size * size * inputs // groups * features + 3 * features


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (
            networks.cnn7_bn,
            conv(3, 3, 64) + conv(3, 64, 64) + conv(3, 64, 128) + 2 * conv(3, 128, 128)
            + conv(1, 16 * 16 * 128, 512) + 512 * 10 + 10,
        ),
        (
            networks.wide_resnet8,
            conv(3, 3, 16)
            + conv(3, 16, 128) + conv(3, 128, 128) + conv(1, 16, 128)
            + conv(3, 128, 256) + conv(3, 256, 256) + conv(1, 128, 256)
            + conv(3, 256, 512) + conv(3, 512, 512) + conv(1, 256, 512)
            + conv(1, 8 * 8 * 512, 512) + 512 * 10 + 10,
        ),
        (
            networks.resnext,
            conv(3, 3, 64)
            + conv(1, 64, 64) + conv(3, 64, 64, 2) + conv(1, 64, 128) + conv(1, 64, 128)
            + conv(1, 128, 128) + conv(3, 128, 128, 2) + conv(1, 128, 256) + conv(1, 128, 256)
            + conv(1, 256, 256) + conv(3, 256, 256, 2) + conv(1, 256, 512) + conv(1, 256, 512)
            + conv(1, 8 * 8 * 512, 512) + 512 * 10 + 10,
        ),
    ],
)  # fmt: skip
def test_every_layer_but_the_last_is_normalised(build, count):
    variables = jax.eval_shape(build().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    layers = len(variables["params"]) - len(variables["batch_stats"])
    assert len(variables["batch_stats"]) == layers - 1
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.fixture(scope="module")
def residual():
    """A small residual network with both kinds of shortcut, as a function of one image."""
    blocks = (networks.BlockSpec(2), networks.BlockSpec(3, 2))
    model = networks.ResNet(2, blocks, classes=3, batch_norm=True)
    images = jax.random.uniform(jax.random.key(1), (8, 4, 4, 1))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    frozen = CLEAN_PASS(model, variables, images).frozen
    return lambda x: model.apply(frozen, x[None])[0]


@pytest.fixture(scope="module")
def grouped():
    """A small network of grouped convolutions, as a function of one image."""
    blocks = (networks.BlockSpec(3, 2, bottleneck=4, groups=2),)
    model = networks.ResNet(2, blocks, (4,), classes=3, batch_norm=True)
    images = jax.random.uniform(jax.random.key(1), (8, 4, 4, 1))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    frozen = CLEAN_PASS(model, variables, images).frozen
    return lambda x: model.apply(frozen, x[None])[0]


@pytest.mark.parametrize(
    ("name", "methods"), [("residual", METHODS), ("grouped", (jb.ibp, jb.crown_ibp))]
)
def test_a_network_by_every_method(name, methods, request):
    fn, region = request.getfixturevalue(name), jb.linf_ball(jnp.full((4, 4, 1), 0.5), 0.1)
    *every, size = by_every(fn, region, methods=(*methods, magnitude))
    found = values(fn, samples(region))
    for bounds in every:
        assert_contains(bounds, found, tolerance("float32", float(size)))


def test_residual_network_by_hand():
    model = networks.ResNet(2, (networks.BlockSpec(2), networks.BlockSpec(3, 2)), classes=3)
    images = jax.random.uniform(jax.random.key(1), (2, 5, 5, 1))
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def conv(i, x, stride=1):
        layer = variables["params"][f"Conv_{i}"]
        pad = [(layer["kernel"].shape[0] // 2,) * 2] * 2
        y = jax.lax.conv_general_dilated(
            x, layer["kernel"], (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + layer["bias"].reshape(1, 1, 1, -1)

    x = nn.relu(conv(0, images))
    x = nn.relu(x + conv(2, nn.relu(conv(1, x))))
    x = nn.relu(conv(5, x, 2) + conv(4, nn.relu(conv(3, x, 2))))
    last = variables["params"]["Dense_0"]
    expected = x.reshape(2, -1) @ last["kernel"] + last["bias"].reshape(1, -1)
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-5)


class Cap(nn.Module):
    """ParamRamp with a kink for every neuron."""

    @nn.compact
    def __call__(self, x):
        return jb.param_ramp(x, self.param("r", nn.initializers.constant(0.1), x.shape[1:]))


@pytest.mark.parametrize(
    ("net", "neurons"),
    [
        (networks.ConvNet((networks.ConvSpec(2, 3),), (4,), 3), [(3, 3, 2), (4,)]),
        (
            networks.ResNet(2, (networks.BlockSpec(3),), (4,), 3),
            [(5, 5, 2), (5, 5, 3), (5, 5, 3), (4,)],
        ),
    ],
)
def test_activation_is_a_parameter_and_may_be_a_module(net, neurons):
    net, images = net.clone(activation=lambda x: Cap()(x)), jnp.full((1, 5, 5, 1), 0.5)
    params = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    assert [params[f"Cap_{i}"]["r"].shape for i in range(len(neurons))] == neurons
    if isinstance(net, networks.ConvNet):
        variables, region = (
            jax.jit(net.init)(jax.random.key(0), images),
            jb.linf_ball(images[0], 0.1),
        )
        fn = lambda x: net.apply(variables, x[None])[0]
        bounds, size = by_numpy(lambda r: (jb.crown_ibp(fn, r), magnitude(fn, r)))(region)
        assert_contains(bounds, values(fn, samples(region)), tolerance("float32", float(size)))


@pytest.fixture(scope="module")
def normalised():
    """A small BatchNorm net with parameters that are not the initial ones, and a batch."""
    convs = (networks.ConvSpec(3, 3, 2),)
    model = networks.ConvNet(convs, (5,), classes=4, batch_norm=True)
    images = jax.random.uniform(jax.random.key(1), (6, 8, 8, 2))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: x + 0.3 * np.abs(rng.normal(size=x.shape)), variables)
    return model, jax.tree.map(np.float32, variables), images


@jax.numpy_rank_promotion("allow")
def by_hand(params, images):
    """The train-mode network in plain JAX, BatchNorm folded in; and the statistics."""
    statistics = []

    def folded(x, bn):
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes), x.var(axes)
        statistics.append((mean, var))
        w = bn["scale"] / jnp.sqrt(var + 1e-5)
        return x * w + (bn["bias"] - mean * w)

    x = jax.lax.conv_general_dilated(
        images,
        params["Conv_0"]["kernel"],
        (2, 2),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = nn.relu(folded(x + params["Conv_0"]["bias"], params["BatchNorm_0"]))
    x = x.reshape(len(x), -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    x = nn.relu(folded(x, params["BatchNorm_1"]))
    return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"], statistics


def test_clean_pass_is_batch_norm_folded_by_hand(normalised):
    model, variables, images = normalised
    expected, statistics = jax.jit(by_hand)(variables["params"], images)
    got = CLEAN_PASS(model, variables, images)
    np.testing.assert_allclose(got.logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.apply(got.frozen, images), expected, rtol=1e-4, atol=1e-5)
    one = model.apply(got.frozen, images[:1])[0]
    np.testing.assert_allclose(one, expected[0], rtol=1e-4, atol=1e-5)
    for i, (mean, var) in enumerate(statistics):
        layer = f"BatchNorm_{i}"
        for name, batch in (("mean", mean), ("var", var)):
            old = variables["batch_stats"][layer][name]
            new = got.running["batch_stats"][layer][name]
            np.testing.assert_allclose(new, 0.9 * old + 0.1 * batch, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_the_statistics(normalised):
    model, variables, images = normalised

    def ours(params):
        frozen = networks.clean_pass(model, variables | {"params": params}, images).frozen
        return jnp.sum(model.apply(frozen, images + 0.1) ** 2)

    def expected(params):
        # The statistics of `images`, applied to other points, as bounds do.
        _, statistics = by_hand(params, images)
        stats = {f"BatchNorm_{i}": {"mean": m, "var": v} for i, (m, v) in enumerate(statistics)}
        return jnp.sum(model.apply({"params": params, "batch_stats": stats}, images + 0.1) ** 2)

    got, want = (jax.jit(jax.grad(f))(variables["params"]) for f in (ours, expected))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale), got, want
    )


def test_clean_pass_without_batch_norm_changes_nothing():
    model = networks.ConvNet((), (3,), classes=2)
    images = jnp.ones((2, 2, 2, 1))
    variables = model.init(jax.random.key(0), images)
    got = networks.clean_pass(model, variables, images)
    assert got.frozen is variables
    assert got.running is variables


def test_momentum_one_is_refused():
    class Frozen(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=not train, momentum=1.0)(x)

    images = jnp.ones((2, 3))
    variables = Frozen().init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="momentum 1"):
        networks.clean_pass(Frozen(), variables, images)


def test_networks_of_cnn_cert():
    """Their hidden sizes, as published."""
    image = jnp.zeros((1, 28, 28, 1))

    def sizes(net):
        filters = lambda module, name: name == "__call__" and isinstance(module, nn.Conv)
        init = lambda x: net.init_with_output(
            jax.random.key(0), x, capture_intermediates=filters, mutable=True
        )[1]["intermediates"]
        return [int(np.prod(of.shape)) for of in jax.tree.leaves(jax.eval_shape(init, image))]

    assert sizes(networks.plain_cnn(8, 5)) == [3380, 2880, 2420, 2000, 1620, 1280, 980]
    assert sizes(networks.plain_cnn(2, 20)) == [4 * 3380]
    assert sizes(networks.LeNet()) == [28 * 28 * 6, 10 * 10 * 16]
    assert sizes(networks.LeNet(pool=False)) == [28 * 28 * 6, 24 * 24 * 16]
    # Two convolutions a block, and one for the shortcut where the size changes.
    assert sorted(sizes(networks.pooled_resnet(3))) == [7 * 7 * 16] * 3 + [14 * 14 * 8] * 5
    assert len(sizes(networks.pooled_resnet(5))) == 2 * 5 + 2
