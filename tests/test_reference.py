"""The exact references: against brute force, samples, and the methods that they are to judge."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_contains, precision, samples
from scipy.optimize import linprog
from test_golden import FUNCTIONS, W1, W2, W3, b1, b2, b3

import jaxbound as jb
from jaxbound import reference
from jaxbound._rules.elementwise import ELEMENTWISE, is_kinked

SLACK = 1e-6  # of the solver, and of rounding


def weights(*sizes):
    draw, shapes = np.random.default_rng(sizes).normal, itertools.pairwise(sizes)
    return [(draw(size=(n, m)), 0.3 * draw(size=m)) for n, m in shapes]


def chain(act, layers):
    def fn(x):
        for kernel, bias in layers[:-1]:
            x = act(x @ kernel + bias)
        return x @ layers[-1][0] + layers[-1][1]

    return fn


def residual(layers):
    (k1, b1), (k2, b2), (k3, b3) = layers

    def fn(x):
        y = x + jax.nn.relu(x @ k1 + b1) @ k2 + b2
        return {"out": y - jax.nn.relu(y) @ k3, "known": b3}

    return fn


def convolution(x):
    kernel = np.random.default_rng(1).normal(size=(2, 2, 1, 2))
    dense = np.random.default_rng(2).normal(size=(8, 2))
    x = jax.lax.conv_general_dilated(
        x.reshape(1, 4, 4, 1), kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(jax.nn.relu(x - 0.1).reshape(8) @ dense)


SLOPES, LIMITS = np.linspace(-0.5, 1.5, 4), np.linspace(-1, 1, 4)
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.1),
    "slopes": lambda z: jax.nn.leaky_relu(z, jnp.asarray(SLOPES)),
    "abs": jnp.abs,
    "relu6": lambda z: jax.nn.relu6(8 * z) / 8,
    "clip": lambda z: jnp.clip(z, -0.5, jnp.asarray(LIMITS) + 0.6),
    "maximum": lambda z: jnp.maximum(jnp.asarray(LIMITS), z),
    "minimum": lambda z: jnp.minimum(z, 0.2),
    "ramp": lambda z: jb.param_ramp(z, 0.7, 0.1),
    "infinite ramp": lambda z: jb.param_ramp(z, jnp.array([0.0, -1.0, jnp.inf, 0.5]), 0.1),
}
LAYERS = weights(2, 4, 4, 2)
WIDE = weights(2, 8, 3, 2)


def mixed(x):
    """A layer with two activations, then relu."""
    left, right = (x @ WIDE[0][0] + WIDE[0][1]).reshape(2, 4)
    both = jnp.concatenate([ACTIVATIONS["slopes"](left), ACTIVATIONS["ramp"](right)])
    return chain(jax.nn.relu, WIDE[1:])(both)


NETS = {
    "mixed": (mixed, (2,)),
    "residual": (residual(weights(3, 5, 3, 3)), (3,)),
    "convolution": (convolution, (16,)),
}


def box_of(shape):
    return jb.linf_ball(jnp.asarray(np.random.default_rng(3).normal(size=shape)), 0.7)


def assert_within(inner, outer, slack=SLACK):
    for a, b in zip(jax.tree.leaves(inner), jax.tree.leaves(outer), strict=True):
        assert a.shape == b.shape
    pairs = zip(*(jax.tree.leaves(x, is_leaf=is_interval) for x in (inner, outer)), strict=True)
    for a, b in pairs:
        assert (a.lower >= b.lower - slack).all(), (a, b)
        assert (a.upper <= b.upper + slack).all(), (a, b)


def is_interval(x):
    return isinstance(x, jb.Interval)


@functools.partial(jax.jit, static_argnums=(0, 2))
def by_crown(fn, box, kind):
    method = functools.partial(jb.crown, relaxation=kind)
    known = jb.intermediate_bounds(fn, box, method=method)
    return known, method(fn, box, intermediates=known)


def test_a_kink_for_every_function_made_of_straight_pieces():
    assert set(reference.KINKS) == set(filter(is_kinked, ELEMENTWISE))


@pytest.mark.parametrize(
    "name, kind", [("mixed", "tight"), ("residual", "adaptive"), ("convolution", "adaptive")]
)
def test_the_function_in_its_range_in_the_relaxation_in_the_methods(name, kind):
    fn, shape = NETS[name]
    with precision("float64"):
        box = box_of(shape)
        known, bounds = by_crown(fn, box, kind)
        relaxed = reference.lp(fn, box, intermediates=known)
        assert_within(relaxed, bounds)
        exact = reference.milp(fn, box, intermediates=known)
        assert_within(exact, relaxed)
        values = jax.tree.map(np.asarray, jax.jit(jax.vmap(fn))(samples(box, 2000)))
        leaves = jax.tree.leaves(exact, is_leaf=is_interval)
        for interval, found in zip(leaves, jax.tree.leaves(values), strict=True):
            assert interval.lower.dtype == interval.upper.dtype == np.float64
            assert_contains(interval, found, SLACK)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_exact_range_is_attained(name):
    """On two inputs: a grid, and finer ones around its best points."""
    fn = chain(ACTIVATIONS[name], LAYERS)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 41)]), -1).reshape(-1, 2)
    with precision("float64"):
        box = box_of((2,))
        exact, values = reference.milp(fn, box), jax.jit(jax.vmap(fn))
        center, radius = (np.asarray(x) for x in (box.center, box.radius))
        for j, (sign, end) in itertools.product(range(2), ((1, exact.upper), (-1, exact.lower))):
            points, scale = center + radius * grid, radius
            for _ in range(5):
                best = np.argsort(-sign * values(points)[:, j])[:20]
                scale = scale / 20
                points = (points[best, None] + scale * grid).reshape(-1, 2)
                points = np.clip(points, box.lower, box.upper)
            found = np.max(sign * values(points)[:, j])
            np.testing.assert_allclose(found, sign * end[j], atol=1e-4)


def by_triangles(layers, box):
    """The least value of ``relu(x @ k1 + b1) @ k2 + b2``, its relaxation written by hand."""
    (k1, b1), (k2, b2) = layers
    lower, upper = np.asarray(box.lower), np.asarray(box.upper)
    up, down = np.maximum(k1, 0), np.minimum(k1, 0)
    l = np.minimum(lower @ up + upper @ down + b1, 0)
    u = np.maximum(upper @ up + lower @ down + b1, 0)
    slope, one = u / (u - l), np.eye(len(b1))
    # y >= z and y <= slope (z - l)
    rows = np.block([[k1.T, -one], [-slope[:, None] * k1.T, one]])
    limits = np.concatenate([-b1, slope * (b1 - l)])
    bounds = [*zip(lower, upper, strict=True), *[(0, None)] * len(b1)]
    goals = np.concatenate([np.zeros((len(k1), len(b2))), k2]).T
    return b2 + [linprog(goal, rows, limits, bounds=bounds).fun for goal in goals]


def test_the_relaxation_is_the_triangle():
    layers = weights(3, 8, 2)
    with precision("float64"):
        box = box_of((3,))
        found = reference.lp(chain(jax.nn.relu, layers), box)
    np.testing.assert_allclose(found.lower, by_triangles(layers, box), atol=SLACK)


def by_patterns(row, box):
    """The least value of ``row . out`` of the golden network: a linear program per activation pattern."""
    least = np.inf
    for signs in itertools.product((0.0, 1.0), repeat=6):
        on1, on2 = np.array(signs[:3]), np.array(signs[3:])
        m1, c1 = W1, b1
        m2, c2 = (W2 * on1) @ m1, (W2 * on1) @ c1 + b2
        m3, c3 = (W3 * on2) @ m2, (W3 * on2) @ c2 + b3
        side = np.concatenate([1 - 2 * on1, 1 - 2 * on2])
        m, c = np.concatenate([m1, m2]), np.concatenate([c1, c2])
        done = linprog(
            row @ m3, side[:, None] * m, -side * c, bounds=np.stack([box.lower, box.upper], 1)
        )
        least = min(least, done.fun + row @ c3) if done.status == 0 else least
    return least


def test_the_golden_network():
    fn = lambda x: FUNCTIONS["margin"](x, jax.nn.relu)
    with precision("float64"):
        box = jb.linf_ball(jnp.array([0.6, 0.4]), 0.2)
        exact, relaxed = reference.milp(fn, box), reference.lp(fn, box)
        assert_within(exact, relaxed)
        known, bounds = by_crown(fn, box, "adaptive")
        assert_within(relaxed, bounds)
        # What is missing is added.
        first = dict([next(iter(known.items()))])
        again = reference.lp(fn, box, intermediates=first)
        np.testing.assert_allclose(again.lower, relaxed.lower, atol=SLACK)
    row = np.array([1.0, -1.0])
    np.testing.assert_allclose(exact.lower, [by_patterns(row, box)], atol=SLACK)
    np.testing.assert_allclose(exact.upper, [-by_patterns(-row, box)], atol=SLACK)


@pytest.mark.parametrize("solve", [reference.lp, reference.milp])
def test_a_point(solve):
    fn = chain(ACTIVATIONS["ramp"], LAYERS)
    x = jnp.array([0.3, -0.2])
    found = solve(fn, jb.Interval(x, x))
    with precision("float64"):
        value = jax.jit(fn)(x.astype(float))
    np.testing.assert_allclose([found.lower, found.upper], [value, value], atol=SLACK)


def test_no_network():
    """Affine functions, scalars, and known outputs."""
    box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
    for solve in (reference.lp, reference.milp):
        found = solve(lambda x, y: (3 * x[0] - x[1] + y, y), box, 2)
        assert (found[0].lower, found[0].upper, found[1].upper) == (1.0, 5.0, 2)
        assert solve(lambda x: jax.nn.relu(x[0] - x[1]), box).upper == 0.0


def test_balls():
    row = np.array([[1.0, -3.0, 2.0]])
    fn = lambda x: jnp.abs(row @ x)[0]
    center = jnp.array([0.5, 0.1, 0.5])
    for p, upper in ((1, 2.7), (np.inf, 4.2)):
        assert reference.milp(fn, jb.LpBall(center, 0.5, p)).upper == pytest.approx(upper)
    clipped = jb.lp_ball(center, 0.5, 1, clip=(0, 1))
    assert reference.lp(fn, clipped).upper == pytest.approx(1.2 + 2 * 0.4 + 0.3, abs=SLACK)
    with pytest.raises(ValueError, match="p=2; expected an Interval"):
        reference.lp(fn, jb.LpBall(center, 0.5, 2))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(10)(x)))


def test_flax_with_its_own_intermediates_in_float32(key):
    x = jax.random.uniform(key, (6,))
    variables = jax.jit(Net().init)(key, x)
    fn = lambda x: jb.margins(Net().apply(variables, x), 0)
    box = jb.linf_ball(x, 0.1, clip=(0, 1))
    known, bounds = by_crown(fn, box, "adaptive")
    relaxed = reference.lp(fn, box, intermediates=known)
    assert_within(relaxed, bounds, 1e-5)
    assert_within(reference.milp(fn, box, intermediates=known), relaxed)


def test_a_time_limit_leaves_a_bound():
    fn, box = chain(jax.nn.relu, weights(6, 30, 30, 1)), jb.linf_ball(jnp.zeros(6), 2.0)
    relaxed, limited = reference.lp(fn, box), reference.milp(fn, box, time_limit=0.2)
    assert_within(limited, relaxed, 1e-4)
    with precision("float64"):
        values = np.asarray(jax.jit(jax.vmap(fn))(samples(box, 2000)))
    assert_contains(limited, values, SLACK)


def test_errors():
    box = jb.linf_ball(jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match=r"tanh with uncertain operand 0 .*test_reference.py"):
        reference.lp(lambda x: jnp.tanh(x) + jax.nn.relu(x), box)
    with pytest.raises(ValueError, match="max with uncertain operands 0, 1"):
        reference.milp(lambda x: jnp.maximum(x[0], x[1]), box)
    with pytest.raises(ValueError, match="no finite interval"):
        reference.lp(jax.nn.relu, jb.Interval(jnp.zeros(1), jnp.full(1, jnp.inf)))
    with pytest.raises(ValueError, match="no argument is uncertain"):
        reference.lp(jax.nn.relu, jnp.zeros(2))
    with pytest.raises(ValueError, match="time_limit is 0"):
        reference.milp(jax.nn.relu, box, time_limit=0)
    apart = lambda x: jax.nn.relu(x @ jnp.array([[1.0, -1.0], [1.0, -1.0]]))
    (name,) = jb.intermediate_bounds(apart, box)
    known = {name: jb.Interval(jnp.full(2, 0.5), jnp.ones(2))}
    with pytest.raises(RuntimeError, match="infeasible"):
        reference.lp(apart, box, intermediates=known)
    with pytest.raises(ValueError, match="are not finite"):
        reference.lp(lambda x: jax.nn.relu(x @ jnp.array([[1.0], [jnp.nan]])), box)


@pytest.mark.parametrize("method", [reference.lp, reference.milp])
def test_an_unbounded_region_leaves_a_range_without_an_end(method):
    region = jb.Interval(jnp.array([-1.0, 0.0]), jnp.array([1.0, jnp.inf]))
    found = method(lambda x: jax.nn.relu(x[0]) + x[1], region)
    assert found.lower == pytest.approx(0, abs=SLACK) and found.upper == np.inf
