"""Constants that are infinite are known values: what they decide is decided, and the rest stays finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from oracle import assert_contains, box, samples, values

import jaxbound as jb

INF = np.inf
KEPT = np.array([True, True, False, True])
CAUSAL = np.tril(np.ones((4, 4), bool))
BIAS = np.where(CAUSAL, 0, -INF).astype("float32")
WALKS = (jb.ibp, jb.crown)


def scores(x):
    """Of four positions with one feature, ``[4, 4]``."""
    return x[:, None] * x[None]


def running(x):
    """A maximum, a sum of exponentials and a weighted sum that are carried on, as in flash attention."""

    def step(carry, i):
        most, total, out = carry
        z = jnp.where(CAUSAL[:, i], scores(x)[:, i], -INF)
        new = jnp.maximum(most, z)
        old, now = jnp.exp(most - new), jnp.exp(z - new)
        return (new, total * old + now, out * old + now * x[i]), None

    start = jnp.full(4, -INF, x.dtype), jnp.zeros(4, x.dtype), jnp.zeros(4, x.dtype)
    for i in range(4):
        start, _ = step(start, i)
    _, total, out = start
    return out / total


MASKED = {
    "largest": lambda x: jnp.where(KEPT, x, -INF).max(),
    "least": lambda x: jnp.where(KEPT, x, INF).min(),
    "largest, where": lambda x: jnp.max(x, where=KEPT, initial=-INF),
    "margin": lambda x: x[0] - jnp.max(jnp.where(np.arange(4) == 0, -INF, x)),
    "maximum": lambda x: jnp.maximum(x, -INF) + jnp.minimum(x, INF),
    "clip": lambda x: jnp.clip(x, -INF, 0.3) + jnp.clip(x, 0.1, INF),
    "running maximum": lambda x: lax.fori_loop(0, 4, lambda i, c: jnp.maximum(c, x[i]), -INF),
    "sorted": lambda x: jnp.sort(jnp.where(KEPT, x, -INF))[1:],
    "largest three": lambda x: lax.top_k(jnp.where(KEPT, x, -INF), 3)[0],
    "segments": lambda x: jax.ops.segment_max(x, np.array([0, 2, 2, 0]), 3)[np.array([0, 2])],
    "cumulative": lambda x: lax.cummax(jnp.where(KEPT[::-1], x, -INF)),
    "sum of exponentials": lambda x: jnp.exp(jnp.where(KEPT, x, -INF)).sum(),
    "logsumexp": lambda x: jax.nn.logsumexp(jnp.where(KEPT, x, -INF)),
    "logsumexp, where": lambda x: jax.nn.logsumexp(scores(x), 1, where=KEPT[None]),
    "sigmoid": lambda x: jax.nn.sigmoid(jnp.where(KEPT, x, -INF)),
    "softmax": lambda x: jax.nn.softmax(jnp.where(CAUSAL, scores(x), -INF), 1) @ x,
    "softmax, a bias": lambda x: jax.nn.softmax(scores(x) + BIAS, 1) @ x,
    "softmax, a large bias": lambda x: jax.nn.softmax(scores(x) + jnp.where(CAUSAL, 0, -1e9), 1),
    "softmax, least number": lambda x: jax.nn.softmax(
        jnp.where(CAUSAL, scores(x), jnp.finfo(x.dtype).min), 1
    ),
    "flash": running,
}


@pytest.fixture(scope="module")
def masked():
    """All of them by every walk, on one box, as one program."""
    region = box([0.1, -0.2, 0.3, 0.5], [0.3, 0.0, 0.4, 0.7])
    every = lambda r: {n: [walk(fn, r) for walk in WALKS] for n, fn in MASKED.items()}
    return region, by_numpy(every)(region)


@pytest.mark.parametrize("name", MASKED)
def test_masks(name, masked):
    region, found = masked
    wanted = values(MASKED[name], samples(region))
    for bounds in found[name]:
        assert np.isfinite([bounds.lower, bounds.upper]).all()
        assert_contains(bounds, wanted, 1e-4, name)


def test_a_mask_of_fewer_axes():
    """The mask of every row: what does not count is exactly 0."""
    mask = np.array([True, False, True])
    region = box(np.zeros((2, 3)), np.full((2, 3), 0.3))
    with jax.numpy_rank_promotion("allow"):
        bounds = jb.ibp(lambda x: jax.nn.softmax(x, -1, where=mask), region)
    assert (bounds.upper[:, 1] == 0).all() and (bounds.lower[:, ::2] > 0.4).all()


def test_a_decided_maximum_is_exact():
    region = box([0, 5, 1, 2.0], [1, 6, 3, 4.0])
    for walk in WALKS:
        bounds = walk(lambda x: jnp.where(KEPT, x, -INF).max() - x[1], region)
        np.testing.assert_allclose(
            [bounds.lower, bounds.upper], [-1, 1] if walk is jb.ibp else 0, atol=1e-6
        )


@pytest.mark.parametrize("walk", WALKS)
def test_a_known_value_that_is_nan_may_be_any_number(walk):
    fn = lambda x: (x[:0].mean(), jnp.array([jnp.nan, 1.0, INF]), jnp.arange(2))
    mean, known, integers = by_numpy(lambda x: walk(fn, x))(box(np.zeros(3), 1.0))
    np.testing.assert_array_equal([mean.lower, mean.upper], [-INF, INF])
    np.testing.assert_array_equal([known.lower, known.upper], [[-INF, 1, INF], [INF, 1, INF]])
    np.testing.assert_array_equal([integers.lower, integers.upper], [[0, 1], [0, 1]])


UNKNOWN = {
    "undecided": lambda x: jnp.where(x > 1, x, jnp.nan),
    "decided": lambda x: jnp.where(np.arange(3) > 0, x, jnp.nan),
    "beyond the end": lambda x: jnp.take(x, np.array([0, 7, 2]), mode="fill"),
    "beyond a table": lambda x: jnp.take(jnp.arange(3.0), x.astype(int), mode="fill") + x,
    "joined": lambda x: jnp.append(x, jnp.nan),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_gradients_beside_a_value_that_is_nan(name):
    """The other values have theirs, and what is infinite has none: 0 times NaN spoilt all of them."""

    def total(walk, region):
        found = walk(UNKNOWN[name], region)
        return sum(jnp.where(jnp.isfinite(end), end, 0).sum() for end in (found.lower, found.upper))

    region = box([0.6, 1.5, 2.5], [1.3, 1.75, 3.5])
    for slopes in (jax.grad(total, 1)(walk, region) for walk in WALKS):
        assert np.isfinite([slopes.lower, slopes.upper]).all()
        assert slopes.lower[1] == slopes.upper[1] == 1 or name == "beyond the end"
