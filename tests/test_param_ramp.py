"""ParamRamp in Flax: golden bounds, the kinks over a training, and both kinds of module."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from oracle import precision
from test_golden import TABLE, net

import jaxbound as jb
from jaxbound import networks, training


def layer(z, r=0.25, eta=0.01):
    variables = {"params": {"r": jnp.full(z.shape, r)}, "ramps": {"eta": eta}}
    return networks.ParamRamp().apply(variables, z[None])[0]


def test_golden_rows_by_the_module():
    rows = [row for row in TABLE if row[0] == "ramp" and row[3] == "out"]

    @jax.jit
    def run(x):
        box = jb.linf_ball(x, 0.2)
        kinds = [
            {} if kind is None else {"relaxation": kind, "published": True} for _, kind, *_ in rows
        ]
        return [
            row[2](lambda x: net(x, layer), box, **kind)
            for row, kind in zip(rows, kinds, strict=True)
        ]

    with precision("float64"):
        found = run(jnp.array([0.6, 0.4]))
    assert len(found) == 4
    for bounds, (*_, lower, upper) in zip(found, rows, strict=True):
        np.testing.assert_allclose(bounds.lower, lower, atol=1e-5)
        np.testing.assert_allclose(bounds.upper, upper, atol=1e-5)


def test_an_infinite_kink_makes_it_a_leaky_relu():
    box = jb.linf_ball(jnp.array([-1.0, 0.0, 0.2, 3.0]), jnp.array([0.5, 0.0, 0.7, 0.5]))

    @functools.partial(jax.jit, static_argnums=0)
    def total(act, box, scale, eta):
        def lower(scale):
            fn = lambda x: jnp.sum(act(x * scale, eta) * jnp.array([1.0, -2.0, 3.0, -1.0]))
            bounds = [jb.crown(fn, box), jb.crown(fn, box, relaxation="tight"), jb.ibp(fn, box)]
            return jnp.stack([b.lower for b in bounds]).sum()

        return jax.value_and_grad(lower)(scale)

    def ramp(z, eta):
        return layer(z, jnp.inf, eta)

    for eta in (0.0, 0.1):
        got, expected = (total(act, box, 1.5, eta) for act in (ramp, jax.nn.leaky_relu))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def residual():
    blocks = (networks.BlockSpec(2),)
    return networks.ResNet(2, blocks, classes=3, activation=networks.ramp, batch_norm=True)


def convolutional():
    activation = functools.partial(networks.ramp, eta=0.01)
    return networks.ConvNet((networks.ConvSpec(2, 3),), (4,), classes=3, activation=activation)


@pytest.mark.parametrize(
    "build, certified",
    [(residual, training.ibp_loss), (convolutional, training.crown_ibp_loss)],
)
def test_a_training(build, certified):
    """Radius 0 with infinite kinks, kinks from the data, then bounds with projected kinks."""
    model, images = build(), jax.random.uniform(jax.random.key(1), (6, 4, 4, 1))
    labels = jnp.arange(6) % 3
    variables = jax.jit(model.init)(jax.random.key(0), images)
    state = {name: value for name, value in variables.items() if name != "params"}
    optimiser = optax.chain(optax.adam(0.05), networks.project_ramps())
    schedule = training.linear_eta(0, 4)

    def objective(params, eps, eta, key):
        full = networks.set_eta(state | {"params": params}, eta)
        frozen = networks.clean_pass(model, networks.noisy_ramps(key, full), images).frozen

        def one(x, y):
            fn = lambda x: model.apply(frozen, x[None])[0]
            return certified(fn, x, y, jb.linf_ball(x, eps), kappa=0.0)

        losses, terms = jax.vmap(one)(images, labels)
        return losses.mean(), terms

    @jax.jit
    def step(params, state, eps, eta, key):
        (loss, _), grads = jax.value_and_grad(objective, has_aux=True)(params, eps, eta, key)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def kinks(params):
        return {name: p["r"] for name, p in params.items() if name.startswith("ParamRamp")}

    params, moments, losses = variables["params"], optimiser.init(variables["params"]), []
    for i in range(2):
        params, moments, loss = step(params, moments, 0.0, schedule(i), jax.random.key(i))
        assert jnp.isfinite(loss)
    assert all(jnp.isposinf(r).all() for r in kinks(params).values())
    assert len(kinks(params)) == (3 if build is residual else 2)
    params = networks.set_ramps(model, state | {"params": params}, [images])["params"]
    first = kinks(params)
    assert all(jnp.isfinite(r).all() for r in first.values())
    moments = optimiser.init(params)
    for i in range(8):
        params, moments, loss = step(params, moments, 0.02, schedule(i), jax.random.key(i))
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    for name, r in kinks(params).items():
        assert (r >= 1e-4 - 1e-7).all()
        assert jnp.abs(r - first[name]).max() > 0.01


def test_kinks_are_the_mean_activations_of_all_images():
    model = networks.ConvNet((), (4,), classes=2, activation=networks.ramp)
    images = jax.random.normal(jax.random.key(1), (7, 1, 3, 1))
    variables = networks.set_eta(model.init(jax.random.key(0), images), 0.5)
    dense = variables["params"]["Dense_0"]
    active = jax.nn.leaky_relu(images.reshape(7, 3) @ dense["kernel"], 0.5)
    for batches in ([images], [images[:4], images[4:]]):
        found = networks.set_ramps(model, variables, batches)
        r = found["params"]["ParamRamp_0"]["r"]
        np.testing.assert_allclose(r, jnp.maximum(active.mean(0), 1e-4), rtol=1e-4)
        np.testing.assert_array_equal(found["params"]["Dense_0"]["kernel"], dense["kernel"])
    with pytest.raises(ValueError, match="batches is empty"):
        networks.set_ramps(model, variables, [])
    plain = networks.ConvNet((), (4,), classes=2)
    with pytest.raises(ValueError, match="ConvNet has no ParamRamp"):
        networks.set_ramps(plain, plain.init(jax.random.key(0), images), [images])


def test_projection_touches_kinks_alone():
    project = networks.project_ramps()
    params = {"a": {"r": jnp.array([0.5, 2e-4, jnp.inf, 1.0])}, "kernel": jnp.array([0.5])}
    updates = {"a": {"r": jnp.array([-0.75, -1.5e-4, 0.0, 0.25])}, "kernel": jnp.array([-0.75])}
    moved, _ = project.update(updates, project.init(params), params)
    after = optax.apply_updates(params, moved)
    np.testing.assert_allclose(after["a"]["r"], [1e-4, 1e-4, jnp.inf, 1.25], rtol=0, atol=3e-8)
    np.testing.assert_array_equal(after["kernel"], [-0.25])


def test_noise_is_fresh_scaled_by_the_layer_and_clamped():
    tree = {"a": {"r": jnp.full(10_000, 2.0)}, "b": {"r": jnp.full(10_000, 1e-4)}, "kernel": 1.0}
    first, second = (networks.noisy_ramps(jax.random.key(i), tree) for i in (0, 1))
    np.testing.assert_allclose(jnp.std(first["a"]["r"]), 0.02, rtol=0.05)
    np.testing.assert_allclose(jnp.mean(first["a"]["r"]), 2.0, atol=1e-3)
    assert (first["a"]["r"] != second["a"]["r"]).any()
    assert (first["b"]["r"] >= jnp.float32(1e-4)).all()
    assert first["kernel"] == 1.0
    noise = (first["a"]["r"] - 2) / 0.02, (first["b"]["r"] - 1e-4) / 1e-6
    assert abs(jnp.corrcoef(jnp.stack(noise))[0, 1]) < 0.1  # every layer its own
    slope = jax.grad(lambda r: networks.noisy_ramps(jax.random.key(0), {"r": r})["r"].sum())
    np.testing.assert_allclose(slope(jnp.full(5, 2.0)), 1.0)


class Twin(nnx.Module):
    """Two layers in nnx."""

    def __init__(self, rngs):
        self.dense, self.act = nnx.Linear(3, 4, rngs=rngs), networks.NNXParamRamp((4,), eta=0.5)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.act(self.dense(x)))


def test_nnx():
    model, x = Twin(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (7, 3))
    active = jax.nn.leaky_relu(model.dense(x), 0.5)
    networks.set_nnx_ramps(model, [x[:4], x[4:]])
    r = jnp.maximum(active.mean(0), 1e-4)
    np.testing.assert_allclose(model.act.r[...], r, rtol=1e-4)
    expected = model.last(jb.param_ramp(model.dense(x), r, 0.5))
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-6)
    bounds = jax.jit(lambda x: jb.crown(lambda x: model(x[None])[0], jb.linf_ball(x, 0.0)))(x[0])
    np.testing.assert_allclose(bounds.lower, expected[0], rtol=1e-4, atol=1e-5)

    # Kinks and slopes by name, in the state of nnx.
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    steeper = nnx.merge(graph, params, networks.set_eta(rest, 0.25))
    assert steeper.act.eta[...] == 0.25
    noisy = nnx.merge(graph, networks.noisy_ramps(jax.random.key(0), params), rest)
    assert (noisy.act.r[...] != r).any()
    np.testing.assert_array_equal(noisy.last.kernel[...], model.last.kernel[...])
    optimiser = nnx.Optimizer(
        model, optax.chain(optax.sgd(1.0), networks.project_ramps()), wrt=nnx.Param
    )
    optimiser.update(model, jax.tree.map(lambda p: jnp.full_like(p, 10.0), params))
    np.testing.assert_allclose(model.act.r[...], 1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="Linear has no ParamRamp"):
        networks.set_nnx_ramps(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), [x])


def test_linear_eta():
    schedule = training.linear_eta(10, 20, 0.04)
    found = [schedule(step) for step in (0, 10, 15, 20, 99)]
    np.testing.assert_allclose(found, [0.04, 0.04, 0.02, 0, 0], atol=1e-9)
