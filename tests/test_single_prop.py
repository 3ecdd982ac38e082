"""SingleProp: golden radii, what a layer costs, and why it certifies nothing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import precision
from test_golden import ACTIVATIONS, W3, b3, hidden, net

import jaxbound as jb
from jaxbound import networks, training

# Layer-1 values (.3, .3, -.2) and radii |W1| .2 = (.4, .3, .3). Corrected CROWN map: v where z >= 0 (unstable, or
# alive), (z + v) / 2 where z < 0, hence (.4, .3, .05). Then |W2| (.4, .3, .05) = (.575, .75, .4).
GOLDEN = [
    ("constant", (0.525, 0.7, 0.375), (0.83125, 0.75625)),
    ("tight", (0.525, 0.7, 0.375), (0.83125, 0.75625)),
    ("parallel", (0.589583, 0.785417, 0.438542), (1.307979, 1.218609)),
    ("adaptive", (0.575, 0.75, 0.4), None),
]


@pytest.mark.parametrize("kind, second, out", GOLDEN)
def test_golden_radii(kind, second, out):
    with precision("float64"):
        x, relu = jnp.array([0.6, 0.4]), ACTIVATIONS["relu"]
        prop = lambda fn: jax.jit(lambda x: jb.single_prop(fn, x, 0.2, relaxation=kind))(x)
        first, last = prop(lambda x: hidden(x, relu)), prop(lambda x: net(x, relu))
    np.testing.assert_allclose(first.value, (0.15, 0.1, 0), atol=1e-9)
    np.testing.assert_allclose(first.radius, second, atol=1e-5)
    np.testing.assert_allclose(last.value, (0.1, -0.025), atol=1e-9)
    if out is not None:  # the map of CROWN jumps at the value 0 of the third neuron
        np.testing.assert_allclose(last.radius, out, atol=1e-5)


def test_golden_radii_of_the_crown_map():
    # With the third neuron of layer 2 at -.05, its radius becomes (-.05 + .4) / 2 = .175, and
    # |W3| (.575, .75, .175) = (.575 + .75 + .0875, .2875 + .75 + .175).
    def moved(x):
        relu = ACTIVATIONS["relu"]
        return W3 @ relu(hidden(x, relu) - jnp.array([0, 0, 0.05])) + b3

    with precision("float64"):
        prop = jax.jit(lambda x: jb.single_prop(moved, x, 0.2, relaxation="adaptive"))
        found = prop(jnp.array([0.6, 0.4]))
    np.testing.assert_allclose(found.radius, (1.4125, 1.2125), atol=1e-9)


def paper_map(z, v, kind):
    """The maps of the paper for one ReLU, CROWN's corrected, with division where it is defined."""
    unstable = {
        "constant": (z + v) / 2,
        "parallel": 0.75 * v + z / 2 - z**2 / (4 * v),
        "adaptive": np.where(z > 0, v, (z + v) / 2),
    }[kind]
    return np.where(z - v >= 0, v, np.where(z + v <= 0, 0, unstable))


@pytest.mark.parametrize("kind", ["constant", "parallel", "adaptive"])
def test_maps_of_the_paper(kind):
    rng = np.random.default_rng(0)
    z, v = rng.normal(size=200), rng.uniform(0.01, 2, 200)
    z[:2], v[:2] = [1, -1], 1  # where unstable begins
    with precision("float64"):
        for act in (jax.nn.relu, lambda z: jb.param_ramp(z, 1e3)):
            prop = jax.jit(lambda z, v, act=act: jb.single_prop(act, z, v, relaxation=kind))
            found = prop(jnp.asarray(z), jnp.asarray(v))
            np.testing.assert_allclose(found.radius, paper_map(z, v, kind), atol=1e-12)


def test_other_functions_by_their_image():
    x, r = jnp.array([0.5, -2.0]), jnp.array([1.0, 0.25])

    def both(x):
        return jnp.tanh(x), x**2 - 3.0, jnp.where(x > 0, x, 10.0), jnp.ones(3)

    prop = jax.jit(lambda x, r: jb.single_prop(both, x, r, relaxation="parallel"))
    (tanh, square, choice, known), radius = prop(x, r)
    np.testing.assert_allclose(radius[0], (jnp.tanh(x + r) - jnp.tanh(x - r)) / 2, rtol=1e-5)
    np.testing.assert_allclose(radius[1], [1.5**2 / 2, (2.25**2 - 1.75**2) / 2], rtol=1e-5)
    np.testing.assert_allclose(radius[2], [10.5 / 2, 0], rtol=1e-5)  # from -.5 to 10
    np.testing.assert_allclose(radius[3], np.zeros(3))
    np.testing.assert_allclose([tanh, square, choice], both(x)[:3], rtol=1e-6)
    assert known.shape == (3,)


def test_it_certifies_nothing():
    found = jb.single_prop(jax.nn.relu, jnp.zeros(()), 1.0)
    assert (found.value, found.radius) == (0, 0.5)
    assert jax.nn.relu(1.0) > found.value + found.radius  # 1 is within the radius of the input


class Net(nn.Module):
    """Convolutions, BatchNorm, a residual sum, both poolings, a reshape."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(3, (3, 3))(x))
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = nn.relu(x + nn.Conv(3, (3, 3))(nn.leaky_relu(x - 0.5)))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(4)(x)


@pytest.fixture(scope="module")
def trained():
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1))
    variables = jax.jit(Net().init)(jax.random.key(0), images)
    frozen = jax.jit(networks.clean_pass, static_argnums=0)(Net(), variables, images).frozen
    return lambda v, x: Net().apply(v, x[None])[0], frozen, images


@pytest.mark.parametrize("kind", ["constant", "parallel"])
def test_network_under_jit_vmap_and_grad(trained, kind):
    apply, variables, images = trained
    labels = jnp.arange(5) % 4

    @jax.jit
    def loss(variables, eps):
        one = lambda x, y: training.single_prop_loss(
            functools.partial(apply, variables), x, y, eps, kappa=0.25, relaxation=kind
        )
        losses, terms = jax.vmap(one)(images, labels)
        radius = jax.vmap(lambda x: jb.single_prop(lambda z: apply(variables, z), x, eps).radius)
        return losses.mean(), (terms, radius(images))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for eps in (0.0, 0.1):
        (value, (terms, radius)), grads = step(variables, eps)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        assert terms.lower is None
        clean = jax.vmap(functools.partial(apply, variables))(images)
        np.testing.assert_allclose(terms.logits, clean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value, (terms.clean + 3 * terms.robust).mean() / 4, rtol=1e-5)
        if eps:
            assert (terms.robust > terms.clean).all()
            assert (radius > 0).all()
        else:
            np.testing.assert_array_equal(radius, 0)
            np.testing.assert_allclose(terms.robust, terms.clean, rtol=1e-6)


def products(fn, *args):
    """How many convolutions and matrix products are left in the compiled program."""
    compiled = jax.jit(fn).lower(*args).compile().as_text()
    return compiled.count(" convolution(") + compiled.count(" dot(")


def test_it_costs_two_passes(trained):
    apply, variables, images = trained
    nominal = products(apply, variables, images[0])
    found = products(
        lambda v, x, r: jb.single_prop(functools.partial(apply, v), x, r),
        variables,
        images[0],
        images[0],
    )
    assert (nominal, found) == (3, 6)


def test_golden_loss():
    with precision("float64"):
        x, relu = jnp.array([0.6, 0.4]), ACTIVATIONS["relu"]
        loss, terms = training.single_prop_loss(lambda x: net(x, relu), x, 0, 0.2, kappa=0.0)
    # The logits (.1, -.025) move by their radii (.83125, .75625), the label's down.
    np.testing.assert_allclose(terms.robust, np.log1p(np.exp(0.73125 + 0.73125)), atol=1e-9)
    assert loss == terms.robust


def test_errors():
    with pytest.raises(jb.UnsupportedPrimitiveError, match="igamma"):
        jb.single_prop(lambda x: lax.igamma(jnp.ones(3), x), jnp.ones(3), 0.1)
    with pytest.raises(ValueError, match="radius >= 0"):
        jb.single_prop(jnp.sum, jnp.ones(3), -0.1)
    with pytest.raises(ValueError, match="'zero'"):
        jb.single_prop(jnp.sum, jnp.ones(3), 0.1, relaxation="zero")


def test_adaptive_kappa():
    np.testing.assert_allclose(training.adaptive_kappa(0.5, 5.0), 0.5)
    np.testing.assert_allclose(training.adaptive_kappa(0.0, 0.0), 1.0)
