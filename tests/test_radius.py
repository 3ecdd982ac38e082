"""The largest certified radius: against scans, closed forms and attacks, and at its ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import precision

import jaxbound as jb
from jaxbound import training
from jaxbound._walks import batch

RNG = np.random.default_rng(11)
W, V = (RNG.normal(size=n).astype("float32") for n in [(8, 5), (3, 8)])


def network(x):
    return V @ jax.nn.relu(W @ x)


def images(count):
    x = jnp.asarray(RNG.uniform(size=(count, 5)), "float32")
    return x, jax.vmap(network)(x).argmax(-1)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_a_linear_function(p):
    """Exact: the smallest margin over the dual norm of its gradient."""
    A = RNG.normal(size=(4, 5))
    with precision("float64"):
        x = jnp.asarray(RNG.normal(size=5))
        logits = A @ np.asarray(x)
        label = int(logits.argmax())
        others = np.delete(np.arange(4), label)
        dual = {1: np.inf, 2: 2, np.inf: 1}[p]
        slopes = np.linalg.norm(A[label] - A[others], dual, axis=1)
        exact = ((logits[label] - logits[others]) / slopes).min()
        find = jax.jit(
            lambda x: jb.certified_radius(lambda z: A @ z, x, label, p=p, method=jb.crown_ibp)
        )
        found = find(x)
        assert exact / 1.0005 <= found <= exact * (1 + 1e-12)


def test_against_a_scan():
    """No smaller radius fails here, and the next one does; one by one and as a batch the same."""
    x, labels = images(5)
    one = functools.partial(jb.certified_radius, network, p=2, clip=(0.0, 1.0), steps=12)
    radii = jax.jit(jax.vmap(one))(x, labels)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    @functools.partial(jax.vmap, in_axes=(None, None, 0))
    def certified(x, y, radius):
        ball = jb.lp_ball(x, radius, 2, clip=(0.0, 1.0))
        return jb.verified(jb.crown(lambda z: jb.margins(network(z), y), ball))

    inside, outside = jnp.linspace(1e-3, 1, 50), 10 ** (6 * 2.0**-12)
    assert (radii > 0).all() and (radii < 10).all()
    assert certified(x, labels, radii[:, None] * inside[None]).all()
    assert not certified(x, labels, radii[:, None] * outside * 1.0001).any()
    np.testing.assert_allclose(jax.jit(one)(x[3], labels[3]), radii[3], rtol=1e-6)


def test_no_attack_succeeds_inside():
    x, labels = images(6)
    methods = (jb.ibp, jb.crown)
    find = lambda method: jax.vmap(functools.partial(jb.certified_radius, network, method=method))
    of_ibp, of_crown = jax.jit(lambda x, y: [find(method)(x, y) for method in methods])(x, labels)
    assert (of_ibp <= of_crown * 1.0005).all() and (of_ibp < of_crown).any()

    @jax.jit
    @jax.vmap
    def attacked(x, y, radius, key):
        return training.pgd(network, jb.linf_ball(x, radius), y, key, steps=30).margins.min()

    keys = jax.random.split(jax.random.key(0), 6)
    assert (attacked(x, labels, of_crown, keys) > 0).all()
    assert (attacked(x, labels, 20 * of_crown, keys) < 0).any()


def test_ends():
    """0 where nothing is certified, the cap where that is; never in between."""
    x, radius = jnp.array([0.75, 0.25]), functools.partial(jb.certified_radius, lambda z: z)
    assert radius(x, 1) == 0  # misclassified
    assert radius(jnp.array([0.5, 0.5]), 0) == 0  # a tie
    assert radius(x, 0, limits=(1e-3, 0.1)) == np.float32(0.1)
    assert radius(x, 0, limits=(0.3, 10.0)) == 0
    assert radius(x, 0, limits=(0.2, 10.0), steps=0) == np.float32(0.2)
    assert radius(x, 0, limits=(1e-30, 1e30), steps=40) == pytest.approx(0.25, rel=1e-5)
    # In the box, nothing reaches the boundary: certified at every radius.
    assert radius(jnp.array([0.9, 0.1]), 0, clip=([0.6, 0.0], [1.0, 0.4])) == 10


def test_one_target():
    """The nearest target is what all together allow; the others allow no less."""
    x, labels = images(3)

    def against(x, y, target):
        fn = lambda z: network(z)[jnp.stack([y, target])]
        return jb.certified_radius(fn, x, 0, method=jb.crown_ibp)

    every = jax.vmap(jax.vmap(against, (None, None, 0)), (0, 0, None))
    all_others = jax.vmap(functools.partial(jb.certified_radius, network, method=jb.crown_ibp))
    found, together = jax.jit(lambda x, y: (every(x, y, jnp.arange(3)), all_others(x, y)))(
        x, labels
    )
    assert (jnp.take_along_axis(found, labels[:, None], 1) == 0).all()  # against itself
    of_others = jnp.where(jnp.arange(3)[None] == labels[:, None], jnp.inf, found)
    np.testing.assert_allclose(of_others.min(1), together, rtol=1e-5)


def test_the_chunks_of_a_batch():
    """The search is a loop, whose body a `jax.vmap` does not reach before it is traced."""
    seen = []

    def method(fn, ball):
        seen.append(batch.examples(ball))
        return jb.ibp(fn, ball)

    x, labels = images(7)
    find = functools.partial(jb.certified_radius, network, method=method)
    jax.vmap(find)(x, labels)
    jax.jit(jax.vmap(jax.vmap(find, (0, None)), (None, 0)))(x, labels[:3])
    find(x[0], labels[0])
    assert set(seen[:-1]) == {7, 21} and seen[-1] == 1


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"limits": (0.0, 1.0)}, ValueError, r"limits is \(0.0, 1.0\)"),
        ({"limits": (1.0, 0.1)}, ValueError, "limits is"),
        ({"steps": -1}, ValueError, "steps is -1"),
        ({"steps": 2.5}, ValueError, "steps is 2.5"),
        ({"p": 0.5}, ValueError, "p is 0.5"),
        ({"p": 2, "clip": (0.5, 1.0)}, ValueError, r"clip=\(0.5, 1.0\) does not hold"),
        ({"label": 7}, ValueError, "label is 7"),
        ({"x": jnp.arange(2)}, TypeError, "x is int32"),
    ],
)
def test_wrong_inputs(options, error, text):
    given = {"x": jnp.array([0.75, 0.25]), "label": 0} | options
    with pytest.raises(error, match=text):
        jb.certified_radius(lambda z: z, **given)
