"""Exact where interval arithmetic is exact, and tighter where it is not: found from the graph."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import (
    LINEAR,
    METHODS,
    assert_contains,
    by_every,
    by_every_of_a_batch,
    once,
    precision,
    samples,
    values,
)

import jaxbound as jb
from jaxbound._walks.exactness import BOX, EXACT, LOOSE, exactness

RNG = np.random.default_rng(4)
W, V = RNG.normal(size=(6, 6)), RNG.normal(size=(6, 6))
K, K1 = RNG.normal(size=(3, 2, 3, 3)), RNG.normal(size=(2, 2, 3, 3))
IMAGE, VECTOR = (2, 4, 4), (6,)


def conv(x, kernel, padding="SAME"):
    return lax.conv(x[None], kernel.astype(x.dtype), (1, 1), padding)[0]


def average(x):
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, (1, 2, 2), (1, 2, 2), "VALID") / 4


LOOSE_BLOCKS = {  # name: (affine block, shape of its input)
    "dense(x - mean(x))": (lambda x: W @ (x - x.mean()), VECTOR),
    "x - mean(x)": (lambda x: x - x.mean(), VECTOR),
    "dense after dense": (lambda x: V @ (W @ x), VECTOR),
    "average pooling after convolution": (lambda x: average(conv(x, K)), IMAGE),
    "x + conv(x)": (lambda x: x + conv(x, K1), IMAGE),
    "conv after conv": (lambda x: conv(conv(x, K1), K), IMAGE),
    "sum of two": (lambda x: W @ x + V @ x, VECTOR),
    "overlapping slices": (lambda x: x[1:] - x[:-1] + W[:5] @ x, VECTOR),
    "dense of repeated": (lambda x: W @ jnp.concatenate([x[:3], -x[:3]]), VECTOR),
    "cumsum after dense": (lambda x: jnp.cumsum(W @ x), VECTOR),
    "sum of gathered": (lambda x: x[np.array([0, 1, 1])] - x[np.array([1, 1, 0])], VECTOR),
    "margins of dense": (lambda x: jb.margins(W @ x, 2), VECTOR),
    "broadcast, then dense": (
        lambda x: (x[:, None] * W).T @ np.array([1.0, -1, 1, -1, 1, -1]) - x,
        VECTOR,
    ),
}
EXACT_BLOCKS = {
    "dense": (lambda x: W @ x + 1, VECTOR),
    "convolution": (lambda x: conv(x, K), IMAGE),
    "average pooling": (average, IMAGE),
    "scaled, then dense": (lambda x: W @ (2 * x - 1), VECTOR),
    "normalised, convolved": (lambda x: conv((x - 0.3) / 0.2, K) * 2 - 1, IMAGE),
    "padded, then convolved": (
        lambda x: conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1))), K, "VALID"),
        IMAGE,
    ),
    "transposed, reshaped, dense": (lambda x: W @ x.reshape(2, 3).T.reshape(-1), VECTOR),
    "disjoint halves": (lambda x: W[:3, :3] @ x[:3] + 0, VECTOR),
    "mean": (lambda x: x.mean()[None], VECTOR),
}


def box(shape):
    rng = np.random.default_rng(5)
    return jb.linf_ball(jnp.asarray(rng.normal(size=shape)), 0.3)


def ranges(fn, region):
    """The exact range of an affine function over a box or a ball, from its Jacobian."""
    zero = jnp.zeros(region.shape)
    jacobian = np.asarray(jax.jacobian(fn)(zero)).reshape(-1, zero.size)
    offset = np.asarray(fn(zero)).reshape(-1)
    if isinstance(region, jb.LpBall):
        dual = {1: np.inf, 2: 2, np.inf: 1}[region.p]
        middle, spread = (
            np.ravel(region.center),
            region.radius * np.linalg.norm(jacobian, dual, axis=1),
        )
    else:
        middle, spread = np.ravel(region.center), np.abs(jacobian) @ np.ravel(region.radius)
    middle = jacobian @ middle + offset
    return middle - spread, middle + spread


def operands(block, region, methods=METHODS):
    """The interval of a hidden block, as the ReLU that reads it sees it, by every method."""
    found = by_every(
        lambda x: jax.nn.relu(block(x)),
        region,
        methods=[functools.partial(jb.intermediate_bounds, method=method) for method in methods],
    )
    return [ends(*intervals.values()) for intervals in found]


def ends(found):
    return np.ravel(found.lower), np.ravel(found.upper)


@pytest.mark.parametrize("name", LOOSE_BLOCKS)
def test_crown_is_tighter(name):
    block, shape = LOOSE_BLOCKS[name]
    with precision("float64"):
        region = box(shape)
        graph = jb.trace(lambda x: jax.nn.relu(block(x)), region)
        levels = exactness(graph, dict(zip(graph.inputs, [region], strict=True)), restart=False)
        assert levels[graph.equations[-1].inputs[0]] == LOOSE
        exact = ranges(block, region)
        loose, *tight = operands(block, region, [jb.ibp, jb.crown, jb.lbp])
    for found in tight:
        np.testing.assert_allclose(found, exact, atol=1e-12)
    assert (loose[0] <= exact[0] + 1e-12).all() and (loose[0] < exact[0] - 1e-3).any()


@pytest.mark.parametrize("name", EXACT_BLOCKS)
def test_interval_arithmetic_is_exact(name):
    block, shape = EXACT_BLOCKS[name]
    with precision("float64"):
        region = box(shape)
        graph = jb.trace(lambda x: jax.nn.relu(block(x)), region)
        levels = exactness(graph, dict(zip(graph.inputs, [region], strict=True)), restart=False)
        assert levels[graph.equations[-1].inputs[0]] in (BOX, EXACT)
        for found in operands(block, region):
            np.testing.assert_allclose(found, ranges(block, region), atol=1e-12)


@pytest.mark.parametrize("name", LOOSE_BLOCKS | EXACT_BLOCKS)
def test_an_affine_output_is_exact(name):
    """The last affine block is one map in every method, when it is no larger than what it reads."""
    block, shape = (LOOSE_BLOCKS | EXACT_BLOCKS)[name]
    with precision("float64"):
        region = box(shape)
        for method, found in zip(METHODS, by_every(block, region), strict=True):
            if np.size(found.lower) <= np.prod(shape) or method is not jb.ibp:
                np.testing.assert_allclose(ends(found), ranges(block, region), atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, np.inf])
@pytest.mark.parametrize("name", ["dense(x - mean(x))", "dense after dense", "x + conv(x)"])
def test_balls_are_exact(name, p):
    """By the dual norm: at a hidden operand and at the output, in every method."""
    block, shape = LOOSE_BLOCKS[name]
    with precision("float64"):
        region = jb.LpBall(box(shape).center, 0.7, p)
        for found in (*operands(block, region), *map(ends, by_every(block, region))):
            np.testing.assert_allclose(found, ranges(block, region), atol=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
def test_balls_contain(p):
    """Deep networks over balls, from the sphere's points."""
    fn = lambda x: V[:3] @ jnp.tanh(W @ jax.nn.relu(V @ x)) + x[:3] ** 2
    with precision("float64"):
        region = jb.LpBall(box(VECTOR).center, 0.4, p)
        every = by_every(fn, region)
    found = values(fn, samples(region, 2000))
    for bounds in every:
        assert_contains(bounds, found, 1e-12)


def test_l1_and_l2_balls_beat_their_boxes():
    fn = lambda x: V @ jax.nn.relu(W @ x)
    with precision("float64"):
        center = box(VECTOR).center
        balls = [jb.LpBall(center, 0.5, p) for p in (1, 2, np.inf)]
        every = [by_every(fn, region) for region in (*balls, jb.linf_ball(center, 0.5))]
        for found in zip(*every, strict=True):
            one, two, most, whole = (bounds.radius for bounds in found)
            assert (one < two).all() and (two < most).all()
            np.testing.assert_allclose(most, whole, atol=1e-9)


def test_the_norm_of_a_ball():
    """Closed forms: the sum over an l2 ball is radius * sqrt(n), an entry moves by the radius."""
    ball = jb.LpBall(jnp.zeros(9), 2.0, 2)
    norms = {jnp.sum: 6.0, lambda x: x: 2.0, lambda x: x[0] + x[1]: 2 * 2**0.5}
    for fn, norm in norms.items():
        for found in by_every(fn, ball):
            np.testing.assert_allclose(found.upper, norm, rtol=1e-6)


def test_a_radius_per_example():
    center, radius = jnp.asarray(RNG.normal(size=(3, 6)), "float32"), jnp.array([0.0, 0.1, 2.0])
    fn = lambda x: jax.nn.relu(W.astype(x.dtype) @ x)
    every = by_every_of_a_batch(fn, jb.LpBall(center, radius, 2))
    for many, one in zip(every, by_every(fn, jb.LpBall(center[2], 2.0, 2)), strict=True):
        np.testing.assert_allclose(many.lower[2], one.lower, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(many.upper[0], jax.vmap(fn)(center)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_several_inputs(method):
    """Boxes and balls together, in a tree, beside known arguments."""
    fn = lambda tree, k: k * jax.nn.relu(W[:2] @ tree["a"] + tree["b"][1]) * tree["c"]
    with precision("float64"):
        tree = {
            "a": jb.LpBall(box(VECTOR).center, 0.3, 2),
            "b": [jnp.ones(2), jb.linf_ball(jnp.array([0.2, -0.4]), 0.5)],
            "c": jb.linf_ball(jnp.array(1.0), 0.1),
        }
        found = once(method)(fn, tree, jnp.array(-2.0))
    a, b, c = (samples(r, 400)[-400:] for r in (tree["a"], tree["b"][1], tree["c"]))
    inner = lambda a, b, c: fn({"a": a, "b": [jnp.ones(2), b], "c": c}, -2.0)
    assert_contains(found, values(inner, a, b, c), 1e-12)


@pytest.mark.parametrize("method", LINEAR)
def test_linear_bounds_of_several_inputs(method):
    fn = lambda x, y: jax.nn.relu(W[:3] @ x) - y * 2
    with precision("float64"):
        regions = jb.LpBall(box(VECTOR).center, 0.3, 2), jb.linf_ball(jnp.zeros(3), 0.5)
        linear = once(jb.linear_bounds, method=method)(fn, *regions)
        assert [c.shape for c in linear.lower_coeffs] == [(3, 6), (3, 3)]
        points = [samples(r, 400)[-400:] for r in regions]
        at = jax.vmap(linear)(*map(jnp.asarray, points))
        assert (at.lower <= values(fn, *points) + 1e-12).all()
        assert (at.upper >= values(fn, *points) - 1e-12).all()
        whole, parts = once(method)(fn, *regions), jb.concretize(linear, *regions)
        np.testing.assert_allclose(parts.lower, whole.lower, atol=1e-12)
        np.testing.assert_allclose(parts.upper, whole.upper, atol=1e-12)
