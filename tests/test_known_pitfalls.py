"""What bound propagation is known to get wrong, by name. One program bounds all of it by all methods."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import assert_contains, box, by_every, samples, side_by_side, tolerance, values

import jaxbound as jb

METHODS = (jb.ibp, jb.lbp, jb.crown)  # one of each walk
LINEAR = METHODS[1:]

KERNEL = ((np.arange(36) * 5 % 7 - 3.0) / 2).reshape(2, 1, 3, 3, 2)[..., 0]
W = np.array([[1, -2, 0.5], [0.5, 1, -1], [-1, 0.5, 2]])
SQUARE = (-np.ones((2, 4, 3)), 2 * np.ones((2, 4, 3)))
NEAR = ([-0.5, 0.2, -2], [1.5, 0.9, -1])  # across a kink at 0, and on either side of it


def convolved(**options):
    return lambda x: lax.conv_general_dilated(
        x[None], KERNEL.astype(x.dtype), (1, 1), "SAME", **options
    )[0]


def max_pool(x):
    return nn.max_pool(x[..., None], (3, 3), (2, 2))[..., 0]


def deep(activation):
    return lambda x: W[:1] @ activation(W @ activation(3 * W @ x))


CASES = {  # name: (function, lower, upper)
    "x**2": (lambda x: x**2, [0.3], [0.7]),
    "x**4": (lambda x: x**4, [0.3], [0.7]),
    "grouped convolution": (convolved(feature_group_count=2), *SQUARE),
    "dilated convolution": (convolved(rhs_dilation=(2, 1), feature_group_count=2), *SQUARE),
    "relu": (jax.nn.relu, *NEAR),
    "maximum(0, x)": (lambda x: jnp.maximum(0, x), *NEAR),
    "relu6": (jax.nn.relu6, [-1, 1, 5, 7, -3], [2, 3, 8, 9, -1]),
    "clip": (lambda x: jnp.clip(x, 0, 6), [-1, 1, 5, 7, -3], [2, 3, 8, 9, -1]),
    "clamp, nested": (lambda x: jnp.minimum(6, jnp.maximum(0, x)), [-1, 1, 5, 7, -3], [2, 3, 8, 9, -1]),
    "tanh, deep": (deep(jnp.tanh), [-8, -1, 0], [8, 1, 0]),
    "softplus, deep": (deep(jax.nn.softplus), [-8, -1, 0], [8, 1, 0]),
    "leaky_relu": (lambda x: jax.nn.leaky_relu(x, 0.1) - jax.nn.leaky_relu(x, -0.5), *NEAR),
    "tan": (lambda x: W @ jnp.tan(x), [-1.2, 0.1, 2], [0.3, 1.2, 4]),
    "tan across a pole": (jnp.tan, [1, -1], [2, 1]),
    "where": (lambda x: jnp.where(x < 1, x + 10, x), [0], [2]),
    "sqrt": (jnp.sqrt, [-1, 1], [4, 4]),
    "log": (jnp.log, [-1, 1], [4, 4]),
    "max of min": (lambda x: jnp.maximum(jnp.minimum(x[0], x[1]), x[2] - x[0]), [[-1], [-2], [0]], [[2], [1], [0.5]]),
    "overlapping max-pool": (max_pool, -np.eye(5, 3), np.arange(15).reshape(5, 3) % 7),
    "gelu": (lambda x: jax.nn.gelu(x) - x, [-3, -1, 0.5], [3, 2, 4]),
    "softplus": (lambda x: jax.nn.softplus(x) - x, [-3, -1, 0.5], [3, 2, 4]),
    "max-pool": (lambda x: max_pool(x + 9) - 9, -np.eye(5, 3), np.eye(5, 3)),
    "max-pool of a stable relu": (lambda x: max_pool(jax.nn.relu(x + 9)) - 9, -np.eye(5, 3), np.eye(5, 3)),
}  # fmt: skip


def boxes():
    return {name: box(*ends) for name, (_, *ends) in CASES.items()}


@functools.cache
def found():
    """Per method, the bounds of all cases."""
    functions = {name: fn for name, (fn, *_) in CASES.items()}
    return dict(zip(METHODS, side_by_side(functions, boxes(), METHODS), strict=True))


def alike(name, other, methods=METHODS):
    """Whether two cases have the same bounds, by every method."""
    for method in methods:
        one, two = found()[method][name], found()[method][other]
        np.testing.assert_allclose(one.lower, two.lower, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one.upper, two.upper, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_no_sample_escapes(name):
    """Every value at a sample or a corner lies inside the bounds of every method."""
    fn, points = CASES[name][0], samples(boxes()[name])
    inside = values(fn, points)
    inside = inside[np.isfinite(inside.reshape(len(inside), -1)).all(1)]
    size = np.abs(inside).max(initial=1)
    for method in METHODS:
        slack = tolerance("float32", size)
        assert_contains(found()[method][name], inside, slack, f"{method.__name__} {name}")


@pytest.mark.parametrize(("name", "power"), [("x**2", 2), ("x**4", 4)])
def test_powers_lie_between_tangent_and_chord(name, power):
    """Linear methods: the upper end is exact, the lower one no worse than the tangent at the centre."""
    for method in LINEAR:
        bounds = found()[method][name]
        np.testing.assert_allclose(bounds.upper, 0.7**power, rtol=1e-5)
        assert bounds.lower >= 0.5**power - power * 0.5 ** (power - 1) * 0.2 - 1e-6


@pytest.mark.parametrize("name", ["grouped convolution", "dilated convolution"])
def test_convolutions_are_exact(name):
    """Groups and dilation: the image of a box by a linear map, ``W c +- |W| r``, by every method."""
    fn, region = CASES[name][0], boxes()[name]
    weights = np.asarray(jax.jacobian(fn)(jnp.zeros(region.shape, jnp.float32)), np.float64)
    center = np.tensordot(weights, region.center, region.center.ndim)
    radius = np.tensordot(np.abs(weights), region.radius, region.center.ndim)
    for bounds in (by[name] for by in found().values()):
        np.testing.assert_allclose(bounds.lower, center - radius, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(bounds.upper, center + radius, rtol=1e-5, atol=1e-5)


def test_a_maximum_is_a_relu():
    """The order of its operands changes nothing."""
    alike("maximum(0, x)", "relu")


@pytest.mark.parametrize("name", ["relu6", "clamp, nested"])
def test_a_clamp_is_a_clip(name):
    """However it is spelt; where no kink lies inside, it is exact by every method."""
    alike(name, "clip")
    for bounds in (by[name] for by in found().values()):
        for index, ends in ((1, (1, 3)), (3, (6, 6)), (4, (0, 0))):
            np.testing.assert_allclose([bounds.lower[index], bounds.upper[index]], ends, atol=1e-6)
    np.testing.assert_allclose(found()[jb.crown][name].upper[:1], 2, rtol=1e-5)


@pytest.mark.parametrize("name", ["tanh, deep", "softplus, deep"])
def test_full_crown_stays_finite(name):
    """Saturated on one side, steep on the other, as full CROWN's wide intermediate bounds have it."""
    assert all(np.isfinite([by[name].lower, by[name].upper]).all() for by in found().values())


@pytest.mark.parametrize("name", ["leaky_relu", "tan"])
def test_forward_lines(name):
    """In forward mode as in backward mode: finite, whatever the sign of the outer slope or the branch."""
    bounds = found()[jb.lbp][name]
    assert np.isfinite([bounds.lower, bounds.upper]).all()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.lax.cummax(x) - x,
        lambda x: jax.lax.cummin(x, reverse=True) - x,
        lambda x: jax.lax.cumlogsumexp(x) - 0.5 * x,
        lambda x: jnp.arctan2(x, 2 + x[::-1]) - 0.5 * x,
        lambda x: jnp.arctan2(x, 2.0) - 0.5 * x,
    ],
)
def test_lines_of_prefixes_and_angles(fn):
    """Linear bounds know what the value shares with its operand."""
    region = box([-0.1, 0.2, 0.1], [0.3, 0.6, 0.2])
    of_interval, *others = by_every(fn, region)
    for bounds in others:
        assert (bounds.upper - bounds.lower).sum() < 0.75 * (
            of_interval.upper - of_interval.lower
        ).sum()


def test_the_gradient_of_a_maximum():
    """One entry is the largest: between 0 and 1, and decided where an entry is ahead of all others."""
    grad = jax.grad(lambda x: x.max() + 3 * x[:2].min())
    found = jb.ibp(grad, box([0, 1, 4, 3.0], [2, 3, 6, 5.0]))
    np.testing.assert_allclose(found.lower, [0, 0, 0, 0])
    np.testing.assert_allclose(found.upper, [3, 3, 1, 1])
    found = jb.ibp(grad, box([0, 2, 4, 3.0], [1, 3, 6, 3.5]))
    np.testing.assert_allclose([found.lower, found.upper], 2 * [[3, 0, 1, 0]])


@pytest.mark.parametrize("scale", [1e-34, 1e-19, 1.0, 1e19, 3e37])
def test_angles_of_any_length(scale):
    """Squares of lengths overflow and vanish: their ratios count."""
    ends = np.array([[[1, 1], [1, 2.5]], [[-2.38, -0.85], [-1.37, 0.91]], [[-0.1, 1e-3], [0.1, 9]]])
    region = box(ends[:, 0] * scale, ends[:, 1] * scale)
    fn = lambda z: jnp.arctan2(z[:, 0], z[:, 1])
    # In float64, of the ends as float32 has them.
    lower, upper = (np.asarray(end, np.float64) for end in (region.lower, region.upper))
    shares = samples(box(np.zeros((3, 2)), np.ones((3, 2))))
    points = lower + shares * (upper - lower)
    inside = np.arctan2(points[..., 0], points[..., 1])
    for bounds in by_every(fn, region):
        assert_contains(bounds, inside, 1e-5, scale)


def test_where_the_largest_is_of_another_type():
    """Only what has the type of its operand is recognised."""
    for before, after in (("float32", "bfloat16"), ("int32", "float32")):
        fn = lambda x, a=before, b=after: (
            (x.astype(a) == x.astype(a).max().reshape(1)).astype(b) * jnp.asarray(2, b)
        ).astype("float32")
        for bounds in by_every(fn, box([0, 1, 4], [2, 3, 6]), methods=(jb.ibp, jb.crown)):
            assert (bounds.lower <= fn(jnp.array([0, 1, 4.0]))).all()
            assert (bounds.upper >= fn(jnp.array([2, 1, 4.0]))).all()


def test_a_pole_inside_is_unbounded():
    """Across a pole of tan, the ends' values mean nothing."""
    for bounds in (by["tan across a pole"] for by in found().values()):
        assert bounds.lower[0] == -np.inf and bounds.upper[0] == np.inf
        assert np.isfinite([bounds.lower[1], bounds.upper[1]]).all()


def test_both_branches_of_a_where():
    """``where(x < 1, x + 10, x)`` on [0, 2] takes [1, 2] and [10, 11]: not the ends' values 10 and 2."""
    for bounds in (by["where"] for by in found().values()):
        assert 0 - 1e-5 <= bounds.lower <= 1 and 11 <= bounds.upper <= 12 + 1e-5


@pytest.mark.parametrize("name", ["sqrt", "log"])
def test_below_a_domain(name):
    """No lower bound of an element that leaves the domain, no harm to its neighbour."""
    for bounds in (by[name] for by in found().values()):
        assert bounds.lower[0] == -np.inf and np.isfinite(bounds.upper[0])
        assert np.isfinite([bounds.lower[1], bounds.upper[1]]).all()


def test_a_stable_relu_costs_nothing():
    """Before a max-pool, a ReLU that is always active is the identity."""
    alike("max-pool of a stable relu", "max-pool")


def test_overlapping_windows_with_one_winner():
    """Where one entry of a (3, stride 2) window surely wins, its bounds are the window's."""

    def pooled(x):
        return max_pool(jnp.zeros((5, 3), x.dtype).at[2, 2].set(x[0] + 5))

    region = box([-1], [1])
    for bounds in by_every(pooled, region, methods=METHODS):
        np.testing.assert_allclose(bounds.lower, 4, rtol=1e-6)
        np.testing.assert_allclose(bounds.upper, 6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "softplus"])
def test_lines_see_the_difference(name):
    """``f(x) - x``: linear methods know that both share x, intervals do not."""
    for method in LINEAR:
        bounds, by_intervals = found()[method][name], found()[jb.ibp][name]
        width = bounds.upper - bounds.lower
        assert (width < by_intervals.upper - by_intervals.lower).all(), method.__name__
