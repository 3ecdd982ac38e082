"""Input sets beyond boxes and balls: supports against vertices and linear programs, bounds against points."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import METHODS, assert_contains, by_every, by_every_of_a_batch, precision, values
from scipy.optimize import linprog

import jaxbound as jb
from jaxbound import reference, training

RNG = np.random.default_rng(3)
W, V = RNG.normal(size=(6, 6)), RNG.normal(size=(6, 6))
SIZE = 6


def deep(x):
    """Affine, kinked, smooth and quadratic operations; the input's elements meet at once."""
    W_, V_ = (jnp.asarray(m, x.dtype) for m in (W, V))
    return V_[:3] @ jnp.tanh(W_ @ jax.nn.relu(V_ @ x)) + x[:3] ** 2


def affine(x):
    return jnp.asarray(W[:4], x.dtype) @ (x - x.mean()) + 1


def hull(count, dtype="float64", seed=0, repeats=1):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, SIZE)).astype(dtype)
    return jb.Polytope(np.repeat(points, repeats, axis=0))


def inside_hull(region, count=2000):
    """Vertices, and means of them: of all, and of few."""
    rng, vertices = np.random.default_rng(1), np.asarray(region.vertices, float)
    weights = rng.exponential(size=(count, len(vertices))) ** rng.uniform(1, 5, (count, 1))
    points = np.tensordot(weights / weights.sum(1, keepdims=True), vertices, 1)
    return np.concatenate([vertices, points])


def cut_box(count, dtype="float64", seed=0):
    """A box with a fixed element, and inequalities that leave a point of it."""
    rng = np.random.default_rng(seed)
    center = rng.normal(size=SIZE)
    radius = np.where(np.arange(SIZE) == 2, 0, rng.uniform(0.2, 1, SIZE))
    normals = rng.normal(size=(count, SIZE))
    limits = normals @ (center + 0.5 * radius * rng.uniform(-1, 1, SIZE)) + 0.1
    box = jb.Interval((center - radius).astype(dtype), (center + radius).astype(dtype))
    return jb.Halfspaces(box, normals.astype(dtype), limits.astype(dtype))


def inside_box(region, count=40000):
    rng = np.random.default_rng(1)
    lower, upper, normals, limits = (np.asarray(x, float) for x in jax.tree.leaves(region))
    parts = rng.uniform(size=(count, SIZE))
    parts = np.where(rng.uniform(size=parts.shape) < 0.3, np.round(parts), parts)
    points = lower + parts * (upper - lower)
    return points[(points @ normals.T <= limits).all(1)]


def by_linprog(region, rows):
    """The greatest values over a set of `Halfspaces`."""
    lower, upper, normals, limits = (np.asarray(x, float) for x in jax.tree.leaves(region))
    ends = np.stack([lower, upper], axis=1)
    return np.array([-linprog(-row, normals, limits, bounds=ends).fun for row in rows])


SETS = {
    "hull": (functools.partial(hull, 9), inside_hull),
    "repeated": (functools.partial(hull, 3, repeats=3), inside_hull),
    "point": (functools.partial(hull, 1), inside_hull),
    "halfspaces": (functools.partial(cut_box, 4), inside_box),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SETS)
def test_bounds_contain(name, dtype):
    """All methods, compiled, for a batch of two sets."""
    make, points = SETS[name]
    with precision(dtype):
        regions = [make(dtype=dtype, seed=seed) for seed in (0, 1)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *regions)
        # A program that is solved takes long to compile: one type by all methods, the other by one.
        some = METHODS if name != "halfspaces" or dtype == "float32" else [jb.crown_ibp]
        every = by_every_of_a_batch(deep, stacked, methods=some)
    for i, region in enumerate(regions):
        inner = points(region)
        assert len(inner)
        found = values(deep, inner)
        for bounds in every:
            ends = jb.Interval(bounds.lower[i], bounds.upper[i])
            assert_contains(ends, found, 1e-12 if dtype == "float64" else 2e-4, f"{name} {i}")


@pytest.mark.parametrize("name", SETS)
def test_affine_functions_are_exact(name):
    make, _ = SETS[name]
    with precision("float64"):
        region = make()
        every = by_every(affine, region)
        rows = np.asarray(jax.jacobian(affine)(jnp.zeros(SIZE)))
        box = by_every(affine, region.box, methods=[jb.ibp])[0]
    if isinstance(region, jb.Polytope):
        all_values = values(affine, np.asarray(region.vertices))
        lower, upper = all_values.min(0), all_values.max(0)
    else:
        lower, upper = 1 - by_linprog(region, -rows), 1 + by_linprog(region, rows)
    for bounds in every:
        np.testing.assert_allclose(bounds.lower, lower, atol=1e-9)
        np.testing.assert_allclose(bounds.upper, upper, atol=1e-9)
    assert (upper <= box.upper + 1e-9).all()
    assert name == "point" or (upper < box.upper - 1e-3).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_the_support_of_halfspaces_is_a_linear_program(count, dtype):
    rows = np.concatenate([RNG.normal(size=(5, SIZE)), np.eye(SIZE), np.zeros((1, SIZE))])
    rows = np.concatenate([rows, -rows, 1e4 * rows[:2]])
    region = cut_box(count, dtype, seed=count)
    exact = by_linprog(region, rows)
    with precision(dtype):
        whole, loose = jax.jit(lambda r, c: (r.support(c), r.box.support(c)))(
            region, rows.astype(dtype)
        )
        last = jax.jit(lambda r, c: r.support(c, 0))(region, rows.T.astype(dtype))
    slack = (1e-12 if dtype == "float64" else 1e-5) * np.maximum(1, np.abs(rows).sum(1))
    assert (np.abs(np.asarray(whole, float) - exact) <= slack).all()
    assert (np.asarray(whole) <= np.asarray(loose)).all()
    np.testing.assert_allclose(last, whole, atol=slack.max())


@pytest.mark.parametrize("radius", [0.0, 1e-2, 1e6])
def test_halfspaces_of_extreme_sizes(radius):
    """No NaN, and no tighter than the set, where inequalities exclude nothing, all but a face, or next to all."""
    with precision("float64"):
        box = jb.linf_ball(jnp.ones(SIZE), radius)
        normals = jnp.stack([jnp.ones(SIZE), jnp.zeros(SIZE), 1e-9 * jnp.ones(SIZE)])
        support = jax.jit(lambda r: r.support(jnp.asarray(W)))
        for limit in (SIZE * (1 - radius), SIZE * (1 - 0.999 * radius), SIZE * 1.0, 1e12):
            region = jb.Halfspaces(box, normals, jnp.array([limit, 1.0, 1e9]))
            found, exact = np.asarray(support(region)), by_linprog(region, W)
            assert (np.abs(found - exact) <= 1e-6 * (1 + radius)).all(), limit  # HiGHS: to 1e-7


def test_parts_of_sets():
    """A convolution in parts: neurons through their windows, inputs a few at a time."""
    kernel = RNG.normal(size=(3, 3, 1, 2)).astype("float32")

    def conv(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        kernel = jnp.asarray(kernel, x.dtype)
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)

    def fn(x):
        y = jax.nn.relu(conv(x[None], kernel))
        return jax.nn.relu(conv(y, kernel.transpose(0, 1, 3, 2)))[0, ::4, ::4, 0]

    shape = (10, 10, 1)
    center = RNG.normal(size=shape).astype("float32")
    vertices = (center + 0.3 * RNG.normal(size=(7, *shape))).astype("float32")
    normals = RNG.normal(size=(2, *shape)).astype("float32")
    box = jb.linf_ball(center, 0.2)
    limits = np.tensordot(normals, center, 3).astype("float32")
    cut = jb.Halfspaces(box, normals, limits)
    rng = np.random.default_rng(0)
    points = center + rng.uniform(-0.2, 0.2, (4000, *shape))
    points = points[(np.tensordot(points, normals, ((1, 2, 3), (1, 2, 3))) <= limits).all(1)]
    weights = rng.dirichlet(np.ones(7), 500)
    inner = np.concatenate([vertices, np.tensordot(weights, vertices, 1)])
    for region, found in ((jb.Polytope(vertices), inner), (cut, points)):
        methods = (jb.crown, jb.lbp, functools.partial(jb.lbp, chunk_size=16))
        whole, forward, parts = by_every(fn, region, methods=methods)
        for bounds in (whole, forward, parts):
            assert_contains(bounds, values(fn, found), 1e-4)
        alone = by_every(fn, region.box, methods=methods[:1])[0]
        assert (whole.upper <= alone.upper + 1e-4).all()
        if isinstance(region, jb.Polytope):  # sees every vertex in every part
            assert (whole.upper < alone.upper - 1e-3).any()
            np.testing.assert_allclose(parts.upper, forward.upper, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["hull", "halfspaces"])
def test_what_else_takes_a_set(name):
    """Linear and intermediate bounds, alphas, several inputs, gradients, references."""
    make, points = SETS[name]
    fn = lambda x: jnp.asarray(V[:2], x.dtype) @ jax.nn.relu(jnp.asarray(W, x.dtype) @ x)
    with precision("float64"):
        region = jax.tree.map(jnp.asarray, make())
        whole = jax.jit(functools.partial(jb.crown, fn))(region)
        linear = jax.jit(functools.partial(jb.linear_bounds, fn))(region)
        between = jb.concretize(linear, region)
        known = jax.jit(functools.partial(jb.intermediate_bounds, fn))(region)
        best = jax.jit(functools.partial(jb.alpha_crown, fn, steps=3))(region)
        exact = reference.milp(fn, region, intermediates=known)
        relaxed = reference.lp(fn, region, intermediates=known)
        both = jax.jit(lambda r, b: jb.crown(lambda x, y: fn(x) + y, r, b))
        box = jb.linf_ball(jnp.zeros(2), 0.5)
        shifted = both(region, box)
        loss = lambda r: jb.crown_ibp(fn, r).upper.sum()
        slope = jax.jit(jax.grad(loss))(region)
        results = (whole, between, best, exact, relaxed, shifted, slope)
    whole, between, best, exact, relaxed, shifted, slope = jax.tree.map(np.asarray, results)
    inner = points(region)
    found = values(fn, inner)
    for bounds in (whole, between, best, exact, relaxed):
        assert_contains(bounds, found, 1e-7)
    assert (whole.upper <= between.upper + 1e-9).all() and (best.upper <= whole.upper + 1e-9).all()
    assert (exact.upper <= relaxed.upper + 1e-7).all() and (
        relaxed.upper <= best.upper + 1e-6
    ).all()
    np.testing.assert_allclose(shifted.upper, np.asarray(whole.upper) + 0.5, atol=1e-9)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(slope))


def test_a_gradient_of_the_support_is_where_it_is_attained():
    with precision("float64"):
        for region in (hull(9), cut_box(3)):
            row = jnp.asarray(W[0])
            x = np.asarray(jax.jit(jax.grad(type(region).support, 1))(region, row))
            np.testing.assert_allclose(x @ W[0], region.support(row), atol=1e-7)
        support = lambda limits: dataclasses.replace(region, limits=limits).support(row)
        limits, step = jnp.asarray(region.limits), 1e-6
        slope = jax.jit(jax.grad(support))(limits).sum()
        rise = jax.jit(support)(limits + step) - jax.jit(support)(limits - step)
        np.testing.assert_allclose(slope, rise / (2 * step), atol=1e-4)


def test_an_attack_stays_in_the_hull():
    with precision("float64"):
        region = jax.tree.map(jnp.asarray, hull(9))
        bounds = jb.crown(lambda x: jb.margins(deep(x), 0), region)
        find = functools.partial(training.pgd, deep, restarts=3)
        worst = jax.jit(find)(region, jnp.array(0), jax.random.key(0))
        worst, bounds, region = jax.tree.map(np.asarray, (worst, bounds, region))
    assert (worst.margins >= bounds.lower - 1e-9).all()
    found = values(lambda x: jb.margins(deep(x), 0), inside_hull(region))
    assert worst.margins.min() <= np.quantile(found.min(1), 0.05)
    weights = linprog(
        np.zeros(9),
        A_eq=np.vstack([np.asarray(region.vertices).T, np.ones(9)]),
        b_eq=np.append(worst.x, 1),
    )
    assert weights.success
    with pytest.raises(TypeError, match="region is a Halfspaces"):
        training.pgd(deep, cut_box(1, "float32"), jnp.array(0), jax.random.key(0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Either(jb.Region):
    """A set of a user's own: what lies in one set or in another, so in no smaller convex set than their hull."""

    one: jb.Region
    other: jb.Region

    @property
    def box(self):
        ends = self.one.box, self.other.box
        lower = jnp.minimum(*(end.lower for end in ends))
        return jb.Interval(lower, jnp.maximum(*(end.upper for end in ends)))

    def support(self, coeffs, axis=-1):
        return jnp.maximum(*(region.support(coeffs, axis) for region in (self.one, self.other)))

    def part(self, take):
        return Either(self.one.part(take), self.other.part(take))


def test_a_set_of_a_users_own():
    with precision("float64"):
        ball, region = jb.LpBall(np.ones(SIZE), np.array(0.5), 2), hull(5)
        union = Either(ball, region)
        every = by_every(deep, union, methods=(*METHODS, functools.partial(jb.lbp, chunk_size=2)))
        parts = [by_every(affine, r, methods=[jb.crown])[0] for r in (ball, region, union)]
        with pytest.raises(ValueError, match="Either is not known as a polyhedron"):
            reference.lp(affine, union)
    for bounds in every:
        assert_contains(
            bounds, values(deep, np.concatenate([inside_hull(region), np.ones((1, SIZE))])), 1e-12
        )
    np.testing.assert_allclose(
        parts[2].upper, np.maximum(parts[0].upper, parts[1].upper), atol=1e-12
    )


BOX, ROW, ONE = jb.linf_ball(np.zeros(2, "float32"), 1.0), jnp.ones((1, 2)), jnp.ones(1)

WRONG = [
    (lambda: jb.polytope(jnp.zeros((0, 2))), ValueError, r"shape \(0, 2\); expected \[V, ...\]"),
    (lambda: jb.polytope(1.0), ValueError, r"shape \(\); expected"),
    (lambda: jb.polytope(jnp.array([[0.0, jnp.nan]])), ValueError, "vertices is not finite"),
    (lambda: jb.polytope(jnp.zeros((3, 2), int)), TypeError, "vertices is int32"),
    (lambda: jb.ibp(jnp.sum, jb.Polytope(np.zeros((0, 2)))), ValueError, r"args\[0\].vertices has"),
    (lambda: jb.ibp(lambda x: x @ ROW.T, jb.polytope(jnp.ones((2, 3)))), TypeError, "dot_general"),
    (lambda: jb.halfspaces(BOX, jnp.ones((1, 3)), ONE), ValueError, r"normals has shape \(1, 3\)"),
    (lambda: jb.halfspaces(BOX, ROW, jnp.ones(2)), ValueError, r"limits \(2,\)"),
    (lambda: jb.halfspaces(BOX, ROW[:0], ONE[:0]), ValueError, "M >= 1"),
    (lambda: jb.halfspaces(BOX, ROW, 1.0), ValueError, r"limits \(\)"),
    (lambda: jb.halfspaces(BOX, jnp.nan * ROW, ONE), ValueError, "halfspaces is not finite"),
    (
        lambda: jb.halfspaces(BOX, ROW, -3 * ONE),
        ValueError,
        r"is empty: normals\[0\] x is at least",
    ),
    (lambda: jb.halfspaces(BOX, ROW.astype(int), ONE), TypeError, "normals is int32"),
    (
        lambda: jb.halfspaces(jnp.zeros(2), ROW, ONE),
        TypeError,
        "within is .*; expected an Interval",
    ),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_inputs(number):
    call, kind, message = WRONG[number]
    with pytest.raises(kind, match=message):
        call()
