"""Bounds under ``rounding="real"`` hold for the function in real arithmetic, whatever the device rounds."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbound as jb

RNG = np.random.default_rng(0)
METHODS = [jb.ibp, jb.crown_ibp, jb.crown, functools.partial(jb.alpha_crown, steps=1)]
NAMES = ["ibp", "crown_ibp", "crown", "alpha_crown"]
every_method = pytest.mark.parametrize("method", METHODS, ids=NAMES)


def double(x):
    return np.asarray(x).astype(np.float64)


def network(sizes, dtype, act, spread=0.0):
    """A network for JAX in a type; with ``np`` and ``double``, in float64. Weights spread over orders of magnitude."""
    shapes = list(itertools.pairwise(sizes))
    sizes = [
        RNG.normal(size=s) / s[0] ** 0.5 * 10 ** RNG.uniform(-spread, spread, s) for s in shapes
    ]
    weights = [np.asarray(jnp.asarray(w, dtype)) for w in sizes]
    biases = [np.asarray(jnp.asarray(0.1 * RNG.normal(size=w.shape[1]), dtype)) for w in weights]

    def fn(x, xp=jnp, cast=lambda z: z):
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            x = (act(x, xp) if i else x) @ cast(w) + cast(b)
        return x

    return fn


def outside(bounds, values):
    """How many values are not between the bounds."""
    return int(((values < double(bounds.lower)) | (values > double(bounds.upper))).sum())


def jitted(method, fn, **options):
    """Bounds of a batch of boxes."""
    return jax.jit(jax.vmap(lambda l, u: method(fn, jb.Interval(l, u), **options)))


def boxes(dtype, count, size):
    """Boxes from points to wide ones, and points and corners of each, in float64."""
    center = RNG.normal(size=(count, size))
    radius = 10 ** RNG.uniform(-8, -1, (count, 1)) * (RNG.uniform(size=(count, 1)) > 0.3)
    low, high = jnp.asarray(center - radius, dtype), jnp.asarray(center + radius, dtype)
    share = RNG.uniform(size=(40, count, size))
    share[20:] = share[20:].round()
    return low, high, double(low) + share * (double(high) - double(low))


ACTS = {
    "relu": lambda x, xp: xp.maximum(x, 0),
    "residual": lambda x, xp: xp.maximum(x, 0) - x * xp.asarray(0.75, x.dtype),
    "tanh": lambda x, xp: xp.tanh(x),
}


@pytest.mark.parametrize("method", METHODS[:3], ids=NAMES[:3])
@pytest.mark.parametrize("dtype, act", [("bfloat16", "residual"), ("float32", "tanh")])
def test_values_in_double_precision_lie_inside(method, dtype, act):
    """Up to rounding, thousands of them do not."""
    fn = network((10, 8, 8, 3), dtype, ACTS[act])
    low, high, points = boxes(dtype, 16, 10)
    values = fn(points, np, double)
    assert outside(jitted(method, fn)(low, high), values) > 100
    assert outside(jitted(method, fn, rounding="real")(low, high), values) == 0


@every_method
def test_a_margin_within_rounding_is_decided_by_the_slack(method):
    """Affine functions attain their bounds: the exact ends lie outside of the computed ones by rounding alone."""
    fn = network((300, 6), "float32", None, spread=3.0)
    low, high, _ = boxes("float32", 8, 300)
    slopes, start = (
        fn(np.eye(300), np, double) - fn(np.zeros(300), np, double),
        fn(np.zeros(300), np, double),
    )
    up, down = np.maximum(slopes, 0), np.minimum(slopes, 0)
    ends = [double(a) @ up + double(b) @ down + start for a, b in ((low, high), (high, low))]
    found = jitted(method, fn, rounding="real")(low, high)
    assert outside(found, ends[0]) == outside(found, ends[1]) == 0
    size = np.abs(slopes).T @ np.abs(double(high)).max(0)
    assert (ends[0] - double(found.lower) < 1e-4 * size).all()
    assert outside(jitted(method, fn)(low, high), ends[0]) > 0


CANCELLING = jnp.asarray(RNG.permutation(np.repeat([1e4, -1e4, 1.0], 33_333)), "float32")


@every_method
def test_sums_that_cancel(method):
    """Of 1e5 terms, in whatever order they are added."""
    x = jnp.asarray(1 + 1e-6 * RNG.normal(size=CANCELLING.size), "float32")
    for fn in (lambda z: z @ CANCELLING, lambda z: (z * CANCELLING).sum()):
        found = jax.jit(lambda x, fn=fn: method(fn, jb.Interval(x, x), rounding="real"))(x)
        assert outside(found, double(x) @ double(CANCELLING)) == 0


def test_fifty_layers():
    fn = network((8,) * 51, "float32", ACTS["relu"])
    low, high, points = boxes("float32", 1, 8)
    found = jb.crown_ibp(fn, jb.Interval(low[0], high[0]), rounding="real")
    assert outside(found, fn(points[:, 0], np, double)) == 0


UNDERFLOW = {  # a function in any precision, and a box
    "product": (lambda x, c: x * c(1e-20) * c(1e-20), (1e36, 2e36)),
    "after": (lambda x, c: x * c(1e-20) * c(1e-20) * c(1e10), (1e36, 2e36)),
    "square": (lambda x, c: x * x * c(1e30), (1e-25, 2e-25)),
    "sum": (lambda x, c: (x - c(1.5e-38)) * c(1e38), (1.6e-38, 2e-38)),
    "subnormal": (lambda x, c: x * c(1e38), (1e-39, 2e-39)),
    "negative": (lambda x, c: x * c(1e38), (-1e-39, -5e-40)),
    "weight": (lambda x, c: x * c(1e-39), (1e38, 2e38)),
    "quotient": (lambda x, c: x / c(1e20) / c(1e20), (1e35, 1e36)),
    "overflow": (lambda x, c: x * c(1e20) * c(1e-20), (1e19, 2e19)),
}


@every_method
@pytest.mark.parametrize("name", UNDERFLOW)
def test_underflow(method, name):
    fn, ends = UNDERFLOW[name]
    low, high = (np.asarray(end, "float32") for end in ends)
    single, whole = (
        (lambda x: fn(x, np.float32)),
        (lambda x: fn(x, lambda c: double(np.float32(c)))),
    )
    for run in (lambda f: f, jax.jit):
        found = run(lambda l, u: method(single, jb.Interval(l, u), rounding="real"))(low, high)
        assert outside(found, np.sort([whole(double(low)), whole(double(high))])) == 0


def test_boxes_around_a_point_are_rounded_outward():
    x = jnp.asarray(RNG.normal(size=1000), "float32")
    box, eps = jb.linf_ball(x, 0.1, rounding="real"), double(np.float32(0.1))
    assert (double(box.lower) <= double(x) - eps).all()
    assert (double(box.upper) >= double(x) + eps).all()
    assert (double(jb.linf_ball(x, 0.1).lower) > double(x) - eps).any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_limits_of_a_domain_are_rounded_outward(dtype):
    x = jnp.array([0.5], dtype)
    for region in (
        jb.linf_ball(x, 0.5, clip=(0.1, 0.9), rounding="real"),
        jb.lp_ball(x, 0.5, 2, clip=(0.1, 0.9), rounding="real").clip,
        jax.jit(lambda: jb.linf_ball(x, 0.5, clip=(0.1, 0.9), rounding="real"))(),
    ):
        assert Fraction(float(region.lower[0])) <= Fraction(1, 10)
        assert Fraction(float(region.upper[0])) >= Fraction(9, 10)
        assert 0.09 < region.lower[0] < region.upper[0] < 0.92
    exact = jb.linf_ball(x, 0.75, clip=(0, 1), rounding="real")
    assert (exact.lower[0], exact.upper[0]) == (0, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_added_at_indices_in_half_precision(dtype):
    x, i = jnp.ones(3, dtype), jnp.array([0, 2])
    for method in (jb.ibp, jb.crown):
        found = method(lambda x: x.at[i].add(x[:2]), jb.Interval(x, x), rounding="real")
        for low, high, value in zip(
            double(found.lower), double(found.upper), (2, 1, 2), strict=True
        ):
            assert low <= value <= high and high - low < 2


def test_the_radius_is_certified():
    found = jb.certified_radius(lambda z: z, jnp.array([0.75, 0.25]), 0, rounding="real").item()
    assert 0.249 < found < 0.25


def test_linear_bounds_hold_in_double_precision():
    fn = network((10, 8, 3), "bfloat16", ACTS["relu"])
    low, high, points = boxes("bfloat16", 1, 10)
    linear = jb.linear_bounds(fn, jb.Interval(low[0], high[0]), rounding="real")
    values = fn(points[:, 0], np, double)
    for side, sign in (("lower", 1), ("upper", -1)):
        coeffs, offset = getattr(linear, f"{side}_coeffs")[0], getattr(linear, f"{side}_offset")
        assert (sign * (values - points[:, 0] @ double(coeffs).T - double(offset)) >= 0).all()


@pytest.mark.parametrize("p", [1, 2, 3])
def test_balls(p):
    """At the farthest point of a ball, an affine function attains its bound."""
    weights = jnp.asarray(RNG.normal(size=50), "float32")
    ball = jb.lp_ball(jnp.asarray(RNG.normal(size=50), "float32"), 0.1, p)
    q = np.inf if p == 1 else p / (p - 1)
    far = double(ball.radius) * np.linalg.norm(double(weights), q)
    end = double(weights) @ double(ball.center) + far
    found = jb.crown(lambda x: x @ weights, ball, rounding="real")
    assert end <= found.upper < end + 1e-3


def test_what_is_not_covered_says_so():
    box = jb.linf_ball(jnp.zeros(3), 1.0)
    with pytest.raises(jb.UnsupportedPrimitiveError, match=r"softmax(.|\n)*rounding=None"):
        jb.crown(jax.nn.softmax, box, rounding="real")
    with pytest.raises(ValueError, match="rounding is not accounted for in lbp"):
        jb.linear_bounds(jnp.sum, box, method=jb.lbp, rounding="real")
    with pytest.raises(ValueError, match="rounding is 'up'; expected"):
        jb.ibp(jnp.sum, box, rounding="up")
    corners = jb.polytope(jnp.eye(3))
    with pytest.raises(ValueError, match="Polytope, whose support states no `sizes`"):
        jb.crown(jnp.sum, corners, rounding="real")


SMOOTH = {
    "exp": (jnp.exp, np.exp, (-5, 5)),
    "tanh": (jnp.tanh, np.tanh, (-4, 4)),
    "square": (jnp.square, np.square, (-5, 5)),
    "log": (jnp.log, np.log, (0.1, 5)),
    "silu": (jax.nn.silu, lambda z: z / (1 + np.exp(-z)), (-5, 5)),
    "sin": (jnp.sin, np.sin, (-9, 9)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_lines_hold_in_double_precision(name):
    """On intervals from one number to wide ones; up to rounding, some do not."""
    fn, exact, domain = SMOOTH[name]
    low = RNG.uniform(*domain, 2000)
    high = np.minimum(low + 10 ** RNG.uniform(-7, 1, 2000), domain[1])
    low, high = (jnp.asarray(end, "float32") for end in (low, high))
    points = np.linspace(double(low), double(high), 17)

    def missed(rounding):
        lines = lambda l, u: jb.linear_bounds(fn, jb.Interval(l, u), rounding=rounding)
        found = jax.tree.map(double, jax.jit(jax.vmap(lines))(low, high))
        below = found.lower_coeffs[0] * points + found.lower_offset
        above = found.upper_coeffs[0] * points + found.upper_offset
        return int(((below > exact(points)) | (exact(points) > above)).sum())

    assert missed(None) > 0
    assert missed("real") == 0
