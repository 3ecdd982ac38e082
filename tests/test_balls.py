"""Balls cut by a box: supports against an independent maximum, bounds against samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_contains, by_every, by_every_of_a_batch, precision, samples, values

import jaxbound as jb

RNG = np.random.default_rng(8)
W, V = RNG.normal(size=(6, 6)), RNG.normal(size=(6, 6))
RADII = (0.0, 1e-3, 0.3, 1.0, 4.0, 1e6)


def clipped(size, radius, p, dtype="float64"):
    """A ball in [0, 1], with elements at the faces and fixed ones."""
    center = np.random.default_rng(size).uniform(size=size).astype(dtype)
    center[1::4] = 0.0
    center[2::5] = 1.0
    fixed = np.arange(size) % 7 == 3
    ends = (np.where(fixed, center, end).astype(dtype) for end in (0.0, 1.0))
    return jb.LpBall(center, np.asarray(radius, dtype), p, jb.Interval(*ends))


def maximum(ball, c):
    """``max <c, x>``: filled in order of the coefficients for p = 1, else along the Lagrangian's path."""
    center, radius, p = np.asarray(ball.center), float(ball.radius), ball.p
    size = np.abs(c)
    room = np.where(c > 0, ball.clip.upper - center, center - ball.clip.lower) * (c != 0)
    if p == 1:
        order = np.argsort(-size)
        before = np.cumsum(room[order]) - room[order]
        return c @ center + size[order] @ np.clip(radius - before, 0, room[order])
    if (room**p).sum() <= radius**p:
        return c @ center + size @ room
    move = lambda factor: np.minimum(room, factor * size ** (1 / (p - 1)))
    low, high = 0.0, 1.0
    while (move(high) ** p).sum() <= radius**p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        inside = (move(middle) ** p).sum() <= radius**p
        low, high = (middle, high) if inside else (low, middle)
    return c @ center + size @ move(low)


@pytest.mark.parametrize("p", [1, 1.3, 2, 5])
def test_the_support_is_exact(p):
    sizes = (1, 5, 30)
    find = jax.jit(jax.vmap(jb.LpBall.support, (0, None)))
    for size in sizes:
        rows = np.random.default_rng(size).normal(size=(6, size))
        rows[0, ::2], rows[1], rows[2] = 0, np.round(rows[1]), 0
        rows[3] *= 1e3
        for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
            with precision(dtype):
                balls = [clipped(size, radius, p, dtype) for radius in RADII]
                stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *balls)
                found = np.asarray(find(stacked, rows.astype(dtype)), np.float64)
            for ball, of_rows in zip(balls, found, strict=True):
                exact = [maximum(ball, row.astype(dtype).astype(float)) for row in rows]
                slack = tolerance * np.maximum(1, np.abs(rows).sum(1))
                assert (np.abs(of_rows - exact) <= slack).all(), (size, ball.radius)


@pytest.mark.parametrize("p", [1, 1.3, 2])
def test_gradients_of_the_support(p):
    """Finite everywhere; by the coefficients, the point of the region where the maximum is."""
    with precision("float64"):
        gradient = jax.jit(jax.vmap(jax.grad(jb.LpBall.support, (0, 1)), (0, None)))
        balls = [clipped(9, radius, p) for radius in RADII]
        stacked, row = (
            jax.tree.map(lambda *x: jnp.stack(x), *balls),
            jnp.asarray(RNG.normal(size=9)),
        )
        of_region, points = gradient(stacked, row)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_region))
        zero = gradient(stacked, jnp.zeros(9))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(zero))
    row = np.asarray(row)
    for ball, x in zip(balls, np.asarray(points), strict=True):
        assert (ball.clip.lower - 1e-9 <= x).all() and (x <= ball.clip.upper + 1e-9).all()
        assert np.linalg.norm(x - ball.center, p) <= ball.radius * (1 + 1e-6) + 1e-9
        np.testing.assert_allclose(row @ x, maximum(ball, row), atol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_bounds_of_clipped_balls_contain(p):
    """All methods on a deep function, as a batch of two radii."""
    fn = lambda x: V[:3] @ jnp.tanh(W @ jax.nn.relu(V @ x)) + x[:3] ** 2
    with precision("float64"):
        balls = [clipped(6, radius, p) for radius in (0.4, 1.5)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *balls)
        every = by_every_of_a_batch(fn, stacked)
    for i, ball in enumerate(balls):
        found = values(fn, samples(ball, 4000))
        for bounds in every:
            at = jb.Interval(bounds.lower[i], bounds.upper[i])
            assert_contains(at, found, 1e-12, f"ball {i}")


def test_both_beat_each():
    """The ball in the box is bounded tighter than the ball and than the box."""
    affine = lambda x: W @ (x - x.mean())
    with precision("float64"):
        ball = clipped(6, 0.9, 2)
        regions = (ball, jb.LpBall(ball.center, ball.radius, 2), ball.clip)
        both, alone, box = (by_every(affine, r, methods=[jb.crown_ibp])[0] for r in regions)
    upper = [np.asarray(bounds.upper) for bounds in (both, alone, box)]
    least = np.minimum(*upper[1:])
    assert (upper[0] <= least + 1e-12).all() and (upper[0] < least - 1e-3).any()


def test_a_huge_ball_is_its_clip():
    fn = lambda x: V[:3].astype(x.dtype) @ jax.nn.relu(W.astype(x.dtype) @ x)
    balls = [clipped(6, radius, 2, "float32") for radius in (1e9, np.inf)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *balls)
    (found,) = by_every_of_a_batch(fn, stacked, methods=[jb.crown])
    (box,) = by_every(fn, balls[0].clip, methods=[jb.crown])
    for i in range(2):
        np.testing.assert_allclose(found.lower[i], box.lower, rtol=1e-5)
        np.testing.assert_allclose(found.upper[i], box.upper, rtol=1e-5)


def test_forward_bounds_in_parts():
    """Where only shares of the coefficients are seen: sound, no looser than the ball or the box."""
    fn = lambda x: W[:2] @ jax.nn.relu(V @ x)
    lbp = jax.jit(functools.partial(jb.lbp, fn), static_argnames="chunk_size")
    with precision("float64"):
        ball = clipped(6, 0.8, 2)
        lone = jb.LpBall(ball.center, ball.radius, 2)
        whole, parts = lbp(ball), lbp(ball, chunk_size=4)
        hidden = jax.jit(lambda r: r.support(jnp.asarray(V)))
        assert (parts.lower <= whole.lower + 1e-12).all() and (
            whole.upper <= parts.upper + 1e-12
        ).all()
        assert (hidden(ball) <= hidden(lone)).all()
    assert_contains(parts, values(fn, samples(ball, 4000)), 1e-12)


def test_regions_of_different_kinds_together():
    """A box with radii of its own, a clipped ball, an l1 ball, and an affine image of a box."""
    turn = jnp.asarray(RNG.normal(size=(6, 2)))

    def fn(a, b, c, z):
        return jax.nn.relu(V[:3] @ (a + turn.astype(a.dtype) @ z)) * b[:3] - W[:3] @ jnp.tanh(c)

    with precision("float64"):
        a = jb.linf_ball(jnp.zeros(6), jnp.array([0, 0.1, 0.2, 0, 1, 0.5]))
        b, c = clipped(6, 0.7, 2), jb.lp_ball(jnp.ones(6), 0.4, 1)
        z = jb.linf_ball(jnp.zeros(2), 0.3)
        every = by_every(fn, a, b, c, z)
    points = [samples(r, 3000)[-3000:] for r in (a, b, c, z)]
    found = values(fn, *points)
    for bounds in every:
        assert_contains(bounds, found, 1e-12)


def test_an_affine_image_of_a_box_by_composition():
    """A rotated box: exact for an affine function of it, as no box around it is."""
    turn = jnp.array([[1.0, -1.0], [1.0, 1.0]])
    found = jb.crown(lambda z: (turn @ z)[0] + (turn @ z)[1], jb.linf_ball(jnp.zeros(2), 1.0))
    assert found.upper == 2  # 4 over the box around the image


def test_lp_ball_by_hand():
    x = jnp.array([0.9, 0.5])
    assert isinstance(jb.lp_ball(x, 0.2, np.inf, clip=(0.0, 1.0)), jb.Interval)
    assert jb.lp_ball(x, 0.2, 2).clip is None
    many = jax.vmap(lambda x, eps: jb.crown(jnp.sum, jb.lp_ball(x, eps, 1, clip=(0.0, 1.0))))
    found = many(jnp.stack([x, x]), jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(found.upper, [1.4, 1.9], rtol=1e-6)
    np.testing.assert_allclose(found.lower, [1.4, 0.9], rtol=1e-6)
