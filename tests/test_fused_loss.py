"""Loss fusion: one backward row bounds the cross-entropy over the box."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import precision, samples, values
from test_golden import ACTIVATIONS, net

import jaxbound as jb
from jaxbound import networks, training


def cross_entropy(fn, label):
    return lambda x: optax.softmax_cross_entropy_with_integer_labels(fn(x), label)


@pytest.fixture(scope="module")
def small():
    """A small network as `apply(params, x)`, images, and the fused loss as one compiled program."""
    model = networks.ConvNet((networks.ConvSpec(2, 3, 2),), (5,), classes=4)
    images = jax.random.uniform(jax.random.key(1), (3, 5, 5, 1))
    params = jax.jit(model.init)(jax.random.key(0), images)
    apply = lambda params, x: model.apply(params, x[None])[0]

    @jax.jit
    def run(params, x, eps, label, beta):
        def loss(params):
            fn, box = functools.partial(apply, params), jb.linf_ball(x, eps, clip=(0.0, 1.0))
            return training.fused_crown_ibp_loss(fn, x, label, box, kappa=0.0, beta=beta)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return apply, params, images, run


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_at_least_the_cross_entropy_everywhere_in_the_box(small, beta):
    apply, params, images, run = small
    for label, x in enumerate(images):
        exact = cross_entropy(functools.partial(apply, params), label)
        for eps in (0.0, 1e-6, 0.05, 0.3, 1.0):
            (loss, terms), grads = run(params, x, eps, label, beta)
            worst = values(exact, samples(jb.linf_ball(x, eps, clip=(0.0, 1.0)))).max()
            assert worst <= loss + 1e-5
            assert jnp.isfinite(loss)
            assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
            assert (terms.lower <= jb.margins(terms.logits, label) + 1e-5).all()
            if eps == 0:
                np.testing.assert_allclose(loss, terms.clean, rtol=1e-5, atol=1e-5)
            if eps == 0.05:  # a bound that means something
                assert loss < worst + 0.5


def test_gradient_at_radius_zero_is_the_cross_entropys(small):
    apply, params, images, run = small
    _, grads = run(params, images[0], 0.0, 2, 1.0)
    loss = lambda params: cross_entropy(functools.partial(apply, params), 2)(images[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        grads,
        jax.jit(jax.grad(loss))(params),
    )


def test_beta_zero_is_the_loss_of_ibp(small):
    _, params, images, run = small
    (loss, terms), _ = run(params, images[0], 0.1, 0, 0.0)
    np.testing.assert_allclose(loss, training.worst_case_cross_entropy(terms.lower), rtol=1e-5)


def test_large_margins_do_not_overflow(small):
    _, params, images, run = small
    params = jax.tree.map(lambda w: 300.0 * w, params)
    for eps in (0.0, 0.5):
        (loss, terms), grads = run(params, images[0], eps, 0, 1.0)
        assert float(jnp.abs(terms.lower).max()) > 1e4
        assert jnp.isfinite(loss)
        assert loss >= terms.clean * (1 - 1e-4)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_golden():
    # Two classes: IBP's elided margin z0 - z1 is in [-1.675, 1.225], CROWN-IBP's tight one above -1.509365 (rows of
    # the tables of golden numbers). One margin makes the row CROWN-IBP's own: exp(-m) lies under the
    # chord, whose value at -1.509365 bounds it.
    with precision("float64"):
        x, relu = jnp.array([0.6, 0.4]), ACTIVATIONS["relu"]
        fused = lambda x: training.fused_crown_ibp_loss(
            lambda x: net(x, relu), x, 0, jb.linf_ball(x, 0.2), kappa=0.0, relaxation="tight"
        )
        loss, terms = jax.jit(fused)(x)
    low, high = np.exp(-1.225), np.exp(1.675)
    chord = low + (high - low) * (1.225 + 1.509365) / (1.225 + 1.675)
    np.testing.assert_allclose(loss, np.log1p(chord), atol=1e-5)
    np.testing.assert_allclose(terms.lower, [-1.675], atol=1e-5)


def flops(loss, classes):
    model = networks.ConvNet((networks.ConvSpec(8, 3),) * 2, classes=classes)
    x = jnp.ones((8, 8, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), x[None])

    def run(params, x):
        return loss(lambda x: model.apply(params, x[None])[0], x, 0, jb.linf_ball(x, 0.1))[0]

    return jax.jit(run).lower(params, x).compile().cost_analysis()["flops"]


def test_one_row_walks_back():
    # Through the convolutions, which outweigh the last layer.
    few, many = (flops(training.fused_crown_ibp_loss, classes) for classes in (2, 12))
    rows_few, rows_many = (flops(training.crown_ibp_loss, classes) for classes in (2, 12))
    assert many < 1.3 * few
    assert rows_many > 2 * rows_few
