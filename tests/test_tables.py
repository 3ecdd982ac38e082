"""Entries at uncertain indices, searches in tables, values without elements, and rows that are NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from oracle import METHODS, assert_contains, box, corners, samples

import jaxbound as jb

TABLE = (np.arange(60) * 7 % 11 - 5.0).astype("float32").reshape(3, 4, 5)
PLANE = TABLE[0]
REGIONS = (  # degenerate, narrow and wide; past both ends
    box([[0.5, 1.0, 2.5], [-1.5, 4.0, 9.0]], [[0.5, 1.0, 2.5], [-1.5, 4.0, 9.0]]),
    box([[-0.2, 0.9, 2.9], [3.2, -1.4, 5.1]], [[0.3, 1.4, 3.1], [4.4, -0.3, 5.1]]),
    box([[-9.0, 1.0, 0.3], [-1.3, 0.2, -2.0]], [[3.0, 2.9, 9.0], [2.4, 1.9, 7.0]]),
)


def whole(x):
    return jnp.floor(x).astype("int32")


def gathered(sizes, mode, offset, collapsed, axes):
    numbers = lax.GatherDimensionNumbers(offset, collapsed, axes)
    fill = {"fill_value": 9.0} if mode == "fill" else {}
    return lambda x: lax.gather(
        TABLE.astype(x.dtype), whole(x).T, numbers, sizes, mode=mode, **fill
    )


def scattered(kind, mode):
    numbers = lax.ScatterDimensionNumbers((1, 2), (), (0, 1))
    return lambda x: kind(
        PLANE.astype(x.dtype), whole(x[:, :2]).T, x[:, 1:].reshape(2, 1, 2), numbers, mode=mode
    )


AT_UNCERTAIN = {
    "clip": lambda x: jnp.take(PLANE.astype(x.dtype), whole(x), 0, mode="clip"),
    "wrap": lambda x: jnp.take(PLANE[0].astype(x.dtype), whole(x[0]), 0, mode="wrap"),
    "fill": lambda x: jnp.take(PLANE[0].astype(x.dtype), whole(x), fill_value=9.0),
    "windows": gathered((2, 2, 3), "clip", (1, 2, 3), (), (1, 2)),
    "windows, fill": gathered((1, 2, 3), "fill", (1, 2), (0,), (0, 2)),
    "windows, promised": gathered((2, 1, 4), "promise_in_bounds", (0, 1), (1,), (1, 0)),
    "of itself": lambda x: x[whole(x[:, 0] / 2)],
    "along": lambda x: jnp.take_along_axis(x, whole(x), 1, mode="clip"),
    "of examples": lambda x: jax.vmap(lambda r: jnp.asarray(PLANE[0])[whole(r[0])] * r[1])(x),
    "integers": lambda x: jnp.arange(7, dtype="int8")[whole(x)],
    "truth values": lambda x: (jnp.arange(7) % 2 == 0)[whole(x).astype("int8")],
    "slice": lambda x: lax.dynamic_slice(TABLE.astype(x.dtype), (whole(x[0, 0]), 1, whole(x[0, 1])), (2, 2, 3)),
    "update": lambda x: lax.dynamic_update_slice(x, 2 * x[:1, :2], (0, whole(x[0, 1]))),
    "set": lambda x: jnp.asarray(PLANE).at[whole(x[0, :2]), whole(x[1, :2])].set(x[0, :2]),
    "add": lambda x: x[0].at[whole(x[1, 1:])].add(2 * x[0, 1:]),
    "subtract": lambda x: x[0].at[whole(x[0, 0])].subtract(1.0),
    "multiply": lambda x: x[1].at[whole(x[0, 1])].multiply(x[1, 1]),
    "maximum": lambda x: x[0].at[whole(x[0, 1])].max(x[1, 1]).at[whole(x[1, 0])].min(x[0, 0]),
    "write windows": scattered(lax.scatter_add, "clip"),
    "write windows, dropped": scattered(lax.scatter, "fill"),
    "write examples": lambda x: jax.vmap(lambda r: r.at[whole(r[0])].set(r[1]))(x),
    "select": lambda x: jnp.select([x > 1, x > 0], [x * 2, -x], 0.5),
}  # fmt: skip
SEARCHES = {
    f"{side}, {method}": functools.partial(jnp.searchsorted, side=side, method=method)
    for side, method in (("left", "scan"), ("right", "scan_unrolled"), ("left", "sort"), ("right", "compare_all"))
}  # fmt: skip
AT_UNCERTAIN |= {
    f"search {name}": lambda x, search=search: search(np.array([-1, -0.0, 0, 2.5, np.inf], x.dtype), x)
    for name, search in SEARCHES.items()
}  # fmt: skip
AT_UNCERTAIN |= {
    "search in itself": lambda x: jnp.searchsorted(x[0], x[1]),
    "search without order": lambda x: jnp.searchsorted(np.array([3, -1, 2, 0], x.dtype), x[0]),
    "digits": lambda x: jnp.digitize(x, np.array([2, 1, 0, -1], x.dtype)),
}


@pytest.mark.parametrize("name", AT_UNCERTAIN)
def test_uncertain_indices(name):
    fn, regions = AT_UNCERTAIN[name], jax.tree.map(lambda *ends: np.stack(ends), *REGIONS)
    methods = (jb.ibp, jb.crown) if name in list(AT_UNCERTAIN)[:12] else (jb.ibp,)
    both = jax.vmap(lambda region: [method(fn, region) for method in methods])
    at = jax.jit(jax.vmap(fn))
    found = by_numpy(both)(regions)
    for i, region in enumerate(REGIONS):
        values = np.asarray(at(samples(region, 60).astype("float32")), float)
        for bounds in found:
            here = jb.Interval(bounds.lower[i], bounds.upper[i])
            assert_contains(here, values, 1e-4, f"{name} {i}")


def test_the_hull_of_a_range():
    """Between all pairs of ends, exactly; a search is exact too, and its entries are."""
    ends = np.array([(low, high) for low in range(-1, 8) for high in range(low, 8)], "float32")
    region = box(ends[:, 0], ends[:, 1])
    found = by_numpy(
        functools.partial(jb.ibp, lambda x: jnp.take(PLANE, whole(x), 0, mode="clip"))
    )(region)
    for (low, high), *bounds in zip(ends.astype(int), found.lower, found.upper, strict=True):
        entries = PLANE[np.clip(np.arange(low, high + 1), 0, 3)]
        np.testing.assert_array_equal(bounds, [entries.min(0), entries.max(0)])
    found = by_numpy(functools.partial(jb.ibp, lambda x: jnp.searchsorted(np.arange(6.0), x)))(
        region
    )
    np.testing.assert_array_equal(found.lower, np.searchsorted(np.arange(6), ends[:, 0]))
    np.testing.assert_array_equal(found.upper, np.searchsorted(np.arange(6), ends[:, 1]))


def test_an_index_that_is_certain_is_no_choice():
    """Where only one entry may be read, its lines are the entry itself."""
    fn = lambda x: jnp.concatenate([x[jnp.argmax(x)][None] - x[0], x[whole(x)] - x[0]])
    found = by_numpy(functools.partial(jb.crown, fn))(box([2.0, 0.0, 0.0], [2.5, 0.5, 1.0]))
    np.testing.assert_allclose(found.lower[:1], 0, atol=1e-6)
    np.testing.assert_allclose(found.upper[:1], 0, atol=1e-6)
    np.testing.assert_allclose(found.upper[2], 0, atol=1e-6)


def test_an_interpolation_is_exact():
    """Between two entries and across some; across a jump, and beyond both ends. Not in a table without order."""
    places, table = np.array([-1.0, 0.0, 2.0, 2.0, 4.0]), np.array([3.0, -1.0, 2.0, 5.0, 1.0])
    region = box([0.5, -0.5, 1.5, -3.0, -9.0, 3.0], [1.5, 0.5, 2.5, 0.0, 9.0, 3.0])
    fn = lambda x: jnp.interp(x, places, table)
    for bounds in by_numpy(lambda region: (jb.ibp(fn, region), jb.crown(fn, region)))(region):
        np.testing.assert_allclose(bounds.lower, [-0.25, -1, 1.25, -1, -1, 3], atol=1e-6)
        np.testing.assert_allclose(bounds.upper, [1.25, 1, 5, 3, 5, 3], atol=1e-6)
    found = by_numpy(lambda region: jb.ibp(lambda x: jnp.interp(x, places[::-1], table), region))(
        region
    )
    assert (found.lower == -np.inf).all() and (found.upper == np.inf).all()


ORDERED = np.array([-np.nan, -np.inf, -2, -1, -0.0, 0.0, 1, np.inf, np.nan], "float32")


def test_the_total_order():
    """At all pairs of ends, with zeros of either sign inside: true or false only where it surely is."""
    compare = {lax.lt_to_p: np.less, lax.le_to_p: np.less_equal, lax.eq_to_p: np.equal}
    inner = np.arange(1, 8)  # NaN is no end
    low, high, other = (grid.ravel() for grid in np.meshgrid(inner, inner, np.arange(9)))
    keep = low <= high
    region = box(ORDERED[low[keep]], ORDERED[high[keep]])
    known = ORDERED[other[keep]]
    fn = lambda x: [p.bind(*pair) for p in compare for pair in ((x, known), (known, x))]
    found = iter(jb.ibp(fn, region))
    for truth in compare.values():
        for swap in (False, True):
            bounds = next(found)
            for i, (a, b, c) in enumerate(zip(low[keep], high[keep], other[keep], strict=True)):
                inside = [k for k in inner if ORDERED[a] <= ORDERED[k] <= ORDERED[b]]
                values = [truth(c, k) if swap else truth(k, c) for k in inside]
                assert bounds.lower[i] <= min(values) and max(values) <= bounds.upper[i]
                if np.isfinite(ORDERED[[a, b]]).all() and truth is not np.equal:
                    assert (bounds.lower[i], bounds.upper[i]) == (min(values), max(values))


def test_a_row_of_nan_that_is_masked_spoils_no_other():
    weights = np.arange(16.0).reshape(4, 4) / 8 - 1
    tokens = np.array([0, 9, 2])

    def fn(x):
        hidden = jax.nn.relu(jnp.take(x, tokens, 0) @ weights) @ weights
        return hidden, jnp.where((tokens < 5)[:, None], hidden, 0.0)

    region = box(np.ones((5, 4)) * 0.9, np.ones((5, 4)) * 1.1)
    every = lambda region: [method(fn, region) for method in (jb.lbp, jb.crown)]
    for hidden, masked in by_numpy(every)(region):
        finite = np.isfinite(hidden.lower) & np.isfinite(hidden.upper)
        np.testing.assert_array_equal(finite.all(1), [True, False, True])
        np.testing.assert_array_equal([masked.lower[1], masked.upper[1]], 0)
        assert_contains(masked, np.asarray(fn(jnp.ones((5, 4)))[1])[None], 1e-4)


# ---------------------------------------------------------------- values without elements

EMPTY = {
    "relu": lambda x: jax.nn.relu(x[:0] * 2),
    "of no inputs": lambda x: jax.nn.relu(x[:0] @ jnp.zeros((0, 2))) + x[:2],
    "no outputs": lambda x: jax.nn.relu(x @ jnp.zeros((3, 0))),
    "argmax": lambda x: jnp.argmax(x.reshape(3, 1)[:0], 1).sum() + x.sum(),
    "argmin": lambda x: jnp.argmin(x.reshape(3, 1)[:0], 1),
    "order": lambda x: (jnp.sort(x[:0]), jnp.argsort(x[:0]), lax.top_k(x, 0)),
    "reductions": lambda x: (x[:0].sum(), jnp.max(x[:0], initial=0.5), x[:0].prod(), (x[:0] > 0).any()),
    "running": lambda x: (jnp.cumsum(x[:0]), lax.cummax(x[:0]), lax.cumlogsumexp(x[:0])),
    "softmax": lambda x: (jax.nn.softmax(x[:0]), jax.nn.logsumexp(x.reshape(3, 1)[:0], 1)),
    "gradient": jax.grad(lambda x: jnp.max(x[:0], initial=0.0) + (x**2).sum()),
    "reads and writes": lambda x: (x[jnp.zeros(0, int)], x.at[jnp.zeros(0, int)].set(x[:0])),
    "apply": lambda x: (x[:0].at[jnp.zeros(0, int)].apply(jnp.sin), x.at[jnp.zeros(0, int)].apply(jnp.sin)),
    "a step of none": lambda x: lax.scan(lambda c, y: (c + y, jnp.sin(y)), x[0], x[:0]),
    "joined": lambda x: jnp.concatenate([jax.nn.relu(x @ jnp.eye(3)), jax.nn.relu((x @ jnp.eye(3))[:0])]),
}  # fmt: skip


def test_values_without_elements():
    """By every method, with and without a capacity, as the values at points."""
    region = box([0.1, 0.2, 0.3], [0.3, 0.2, 0.6])
    fn = lambda x: {name: of(x) for name, of in EMPTY.items()}
    methods = (jb.ibp, jb.lbp, functools.partial(jb.crown, capacity=2, early=True))
    ends = corners((3,)) * 0 + region.lower + corners((3,)) * (region.upper - region.lower)
    values = jax.tree.leaves(jax.vmap(fn)(ends.astype("float32")))
    for found in by_numpy(lambda region: [method(fn, region) for method in methods])(region):
        leaves = jax.tree.leaves(found, is_leaf=lambda leaf: isinstance(leaf, jb.Interval))
        for bounds, value in zip(leaves, values, strict=True):
            assert bounds.shape == value.shape[1:]
            assert_contains(bounds, np.asarray(value, float), 1e-5)


def test_an_input_without_elements():
    region = box(np.zeros((0, 3)), np.ones((0, 3)))
    fn = lambda x: (jax.nn.relu(x @ jnp.ones((3, 2))), jnp.sin(x).sum(0))
    for found in by_numpy(lambda region: [method(fn, region) for method in METHODS])(region):
        assert found[0].shape == (0, 2)
        np.testing.assert_array_equal([found[1].lower, found[1].upper], 0)


def test_a_call_that_only_looks_like_an_interpolation():
    """In a type that `jnp.interp` does not take."""
    fn = jax.jit(lambda x, a, b: jnp.sort(x * a + b))
    one = jnp.ones(3, "bfloat16")
    found = jb.ibp(lambda x: fn(x, one, one), jb.linf_ball(0 * one, 1.0))
    assert (found.lower == 0).all() and (found.upper == 2).all()
