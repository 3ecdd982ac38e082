# ruff: noqa: E501 -- a case is one line
"""Functions made of straight and quadratic pieces: which equations are joined, their images and lines."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import DTYPES, KINDS, precision

import jaxbound as jb
from jaxbound._program.activations import quadratic_pieces, straight_pieces
from jaxbound._rules import piecewise
from jaxbound._rules.curves import Choice

BOX = jb.linf_ball(jnp.array([0.3, -1.2, 2.0]), 0.5)


def names(fn, region=BOX):
    return [str(eqn.primitive) for eqn in jb.trace(fn, region).equations if any(eqn.uncertain)]


JOINED = {
    "straight": (lambda z: z + jax.nn.relu(z), ["straight_pieces"]),
    "hat": (lambda z: jnp.maximum(0, 1 - jnp.abs(z)), ["straight_pieces"]),
    "soft threshold": (lambda z: jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.3, 0), ["straight_pieces"]),
    "the identity": (lambda z: jax.nn.relu(z) - jax.nn.relu(-z), ["straight_pieces"]),
    "quadratic": (lambda z: z * (1 - z), ["quadratic_pieces"]),
    "hard silu": (jax.nn.hard_silu, ["quadratic_pieces"]),
    "from its own operand on": (lambda z: jnp.where(100 * (z - 7) > 0, (100 * (z - 7)) ** 2, 0), ["sub", "mul", "quadratic_pieces"]),
    "kinks per element": (lambda z: jnp.where(z > jnp.arange(3.0), z, jnp.arange(3.0)), ["gt", "select_n"]),
    "a jump": (lambda z: jnp.where(z > 0, z + 1, z), ["gt", "add", "select_n"]),
    "a jump by rounding": (lambda z: jnp.where(z > 1 / 3, 3 * z, 1.0), ["straight_pieces"]),
    "a point": (lambda z: jnp.where(z == 0, 7.0, z), ["eq", "select_n"]),
    "a point between": (lambda z: 1.0 * (z > 0) + 1.0 * (z < 0), ["gt", "convert_element_type", "mul", "lt", "convert_element_type", "mul", "add"]),
    "a cubic": (lambda z: jnp.where(z > 0, z * z * z, 0), ["gt", "square", "mul", "select_n"]),
    "infinite": (lambda z: jnp.where(z > 0, z, -jnp.inf), ["gt", "select_n"]),
    "flushed": (lambda z: jnp.where(z > 0, 1e-30 * z, 0) * (1e-30 * (z > -1)), ["straight_pieces", "gt", "convert_element_type", "mul", "mul"]),
    "two variables": (lambda z: jnp.where(z > 0, z, z[::-1]), ["gt", "rev", "select_n"]),
    "affine": (lambda z: z + 2 * z, ["mul", "add"]),
    "many kinks": (lambda z: sum(jnp.abs(z - i) for i in range(9)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_joined(name):
    fn, expected = JOINED[name]
    found = names(fn)
    if expected is not None:
        assert found == expected
    points = jnp.array([[-2.0, -1, 0], [0, 0.5, 1], [1.5, 7.01, 3]])
    evaluated = jax.vmap(jb.trace(fn, BOX).evaluate)(points)
    np.testing.assert_allclose(evaluated, jax.vmap(fn)(points), rtol=1e-5, atol=1e-6)


def test_learned_kinks_are_not_numbers():
    """The order of break points that come in as arguments is not known."""
    by_where = lambda z, low, high: jnp.where(z < low, low, jnp.where(z > high, high, z))
    graph = jax.eval_shape(lambda t: jb.trace(lambda z: by_where(z, -t, t), BOX) and t, 1.0)
    assert graph is not None


def test_values_of_a_discontinuous_function():
    region = jb.Interval(jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.0, 0.0, 2.0]))
    for fn, lower, upper in (
        (lambda z: 1.0 * (z > 0) + 1.0 * (z < 0), [0, 0, 1], [1, 0, 1]),
        (lambda z: jnp.where(z == 0, 7.0, z), [-1, 7, 1], [7, 7, 2]),
    ):
        found = jb.ibp(fn, region)
        assert (found.lower <= jnp.array(lower)).all() and (found.upper >= jnp.array(upper)).all()


# ---------------------------------------------------------------- images and lines


def made(seed, straight, kinks):
    """Continuous pieces of all magnitudes."""
    rng = np.random.default_rng(seed)
    breaks = np.sort(rng.normal(size=kinks) * 10.0 ** rng.integers(-2, 3))
    polys = []
    for i in range(kinks + 1):
        a, b = rng.normal(size=2) * 10.0 ** rng.integers(-3, 3, size=2)
        a = 0.0 if straight or rng.integers(2) else a
        c = rng.normal()
        if i:
            z, (d, e, f) = breaks[i - 1], polys[-1]
            c = d * z * z + e * z + f - a * z * z - b * z
        polys.append((float(a), float(b), float(c)))
    return {"breaks": tuple(map(float, breaks)), "polys": tuple(polys)}


FUNCTIONS = [
    made(seed, straight, kinks)
    for seed, (straight, kinks) in enumerate([(True, 1), (True, 3), (False, 0), (False, 3)])
]


def ends_around(breaks, dtype):
    """Pairs of ends: all magnitudes, at and beside the break points, degenerate, tiny and huge."""
    points = np.array(
        [*(s * 10.0**k for s in (1, -1) for k in range(-12, 13, 4)), 0, *breaks, 0.3, -0.7]
    )
    points = np.unique(points.astype(dtype))
    beside = np.nextafter(points, np.inf, dtype=dtype)
    pairs = [
        *itertools.combinations(points, 2),
        *np.stack([points, points], 1),
        *np.stack([points, beside], 1),
    ]
    return map(np.array, zip(*pairs, strict=True))


def exact(points, breaks, polys):
    piece = np.searchsorted(breaks, points)
    a, b, c = np.moveaxis(np.array(polys)[piece], -1, 0)
    terms = np.abs(a) * points**2 + np.abs(b * points) + np.abs(c)
    return a * points**2 + b * points + c, terms


@functools.partial(jax.jit, static_argnums=(0, 1))
def bounds(breaks, polys, l, u):
    made_of = quadratic_pieces if any(a for a, _, _ in polys) else straight_pieces
    fn = lambda z: made_of.bind(z, breaks=breaks, polys=polys)
    params = {"breaks": breaks, "polys": polys}
    choices = [Choice(kind) for kind in KINDS[:3]]
    choices.append(Choice("adaptive", {"lower": 0.3 + 0 * l, "upper": 0.6 + 0 * l}))
    image = piecewise.image(fn, jb.Interval(l, u), **params)
    return image, [piecewise.lines(fn, l, u, choice, **params) for choice in choices]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("params", FUNCTIONS, ids=range(len(FUNCTIONS)))
def test_images_and_lines(params, dtype):
    l, u = ends_around(params["breaks"], dtype)
    with precision(dtype):
        image, choices = jax.tree.map(
            functools.partial(np.asarray, dtype=np.float64), bounds(*params.values(), l, u)
        )
    parts = np.linspace(0, 1, 41)[:, None]
    inner = np.clip(np.array(params["breaks"])[:, None] + 0 * l, l, u)
    l, u = l.astype(float), u.astype(float)
    points = np.concatenate([np.clip(l + parts * (u - l), l, u), inner])
    values, terms = exact(points, **params)
    reach = terms.max(0)
    room = 64 * float(jnp.finfo(dtype).eps)
    assert (image.lower - room * reach <= values).all() and (
        values <= image.upper + room * reach
    ).all()
    # Exact at the ends and the break points, and of a vertex in between near a sample.
    assert (image.lower >= values.min(0) - 0.01 * np.ptp(values, axis=0) - room * reach).all()
    for lines in choices:
        slack = room * (reach + np.maximum(*np.abs([l, u])) * np.abs(lines[0::2]).max(0))
        assert (lines[0] * points + lines[1] <= values + slack).all()
        assert (lines[2] * points + lines[3] >= values - slack).all()


def test_infinite_ends():
    hat = {"breaks": (-1.0, 0.0, 1.0), "polys": ((0.0, 0.0, 0.0), (0.0, 1.0, 1.0), (0.0, -1.0, 1.0), (0.0, 0.0, 0.0))}  # fmt: skip
    l, u = jnp.array([-jnp.inf, 0.5, -jnp.inf]), jnp.array([jnp.inf, jnp.inf, -2.0])
    found = piecewise.image(None, jb.Interval(l, u), **hat)
    np.testing.assert_array_equal([found.lower, found.upper], [[0, 0, 0], [1, 0.5, 0]])
    sides = jb.ibp(lambda z: z * (1 + z), jb.Interval(l, u))
    assert (sides.upper == jnp.inf).all() and sides.lower[1] == 0.75


def test_gradients_are_finite():
    """At kinks, at points, and just beside."""
    fn = lambda z: jnp.where(z < -1, -2 * z - 1, jnp.where(z < 0, z * z, jnp.abs(z - 1) - 1)) + z

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(x, eps):
        found = jb.crown(lambda x: fn(x).sum(), jb.linf_ball(x, eps))
        return found.upper - found.lower

    found = gradients(jnp.array([-1.0, 0.0, 1.0, 0.3]), jnp.array([0.0, 1e-9, 0.1, 3.0]))
    assert all(jnp.isfinite(leaf).all() for leaf in found)
