"""Reads and writes at known indices: past either end, negative, repeated, in every mode; functions of entries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from oracle import assert_contains, box, by_every, samples, values

import jaxbound as jb

AT = np.array([0, 2, 5, -1, -9, 1, 1])  # of 3 entries
ROWS = np.array([[0, 0], [1, 2], [-1, 1], [1, 9], [1, 1], [1, 2]])  # of 2 x 4
PROMISES = (("clip", True), ("fill", False), ("fill", True), ("promise_in_bounds", True))

READ = lax.GatherDimensionNumbers((), (0,), (0,))
WINDOW = lax.GatherDimensionNumbers((1, 2), (), (0, 1))
EXAMPLES = lax.GatherDimensionNumbers((), (1,), (1,), (0,), (0,))
WRITE = lax.ScatterDimensionNumbers((), (0,), (0,))
WRITE_WINDOW = lax.ScatterDimensionNumbers((1, 2), (), (0, 1))


def reads(mode, promise):
    options = {"mode": mode, "unique_indices": promise, "indices_are_sorted": promise}
    options |= {"fill_value": 7.0} if mode == "fill" else {}
    return {
        "entries": lambda x: lax.gather(x[0, :3], AT[:, None], READ, (1,), **options),
        "windows": lambda x: lax.gather(x, ROWS, WINDOW, (1, 2), **options),
        "of each": lambda x: lax.gather(x, AT[:6].reshape(2, 3, 1), EXAMPLES, (1, 1), **options),
        "small integers": lambda x: x[0].at[np.array([3, 200], np.uint8)].get(**options),
    }


def writes(mode, promise):
    options = {"mode": mode, "unique_indices": promise, "indices_are_sorted": promise}
    more = lambda x: jnp.concatenate([x.ravel(), x[0]])
    return {
        f"{kind.__name__} {name}": functools.partial(fn, kind)
        for kind in (lax.scatter, lax.scatter_add)
        for name, fn in {
            "entries": lambda kind, x: kind(x[0, :3], AT[:, None], 2 * more(x)[:7], WRITE, **options),
            "windows": lambda kind, x: kind(x, ROWS, more(x).reshape(6, 1, 2), WRITE_WINDOW, **options),
            "known": lambda kind, x: kind(x[0], AT[:, None], np.arange(7.0, dtype=x.dtype), WRITE, **options),
            "one": lambda kind, x: kind(x[0], AT[2:3, None], x[1, :1], WRITE, **options),
            "into known": lambda kind, x: kind(jnp.ones(3, x.dtype), AT[:, None], more(x)[:7], WRITE, **options),
        }.items()
    }  # fmt: skip


def slices():
    starts = [(0, 1), (1, 3), (9, -9), (-1, -2)]
    return {
        f"{name} from {at}": functools.partial(fn, at)
        for at in starts
        for name, fn in {
            "slice": lambda at, x: lax.dynamic_slice(x, at, (1, 2)),
            "update": lambda at, x: lax.dynamic_update_slice(x, 2 * x[1:, :2], at),
            "known update": lambda at, x: lax.dynamic_update_slice(x, np.ones((1, 2), x.dtype), at),
            "update of known": lambda at, x: lax.dynamic_update_slice(jnp.ones((2, 4), x.dtype), x[1:, :2], at),
        }.items()
    }  # fmt: skip


INDEXED = {f"{n}, {m}, {p}": fn for m, p in PROMISES for n, fn in reads(m, p).items()}
INDEXED |= {f"{n}, {m}, {p}": fn for m, p in PROMISES for n, fn in writes(m, p).items()}
INDEXED |= slices()
INDEXED |= {
    "next": lambda x: x[0][jnp.arange(4) + 1],
    "the one": lambda x: x[0, :3][np.array([5])],
    "windows of 3": lambda x: x[0][np.arange(4)[:, None] + np.arange(3)],
    "taken": lambda x: jnp.take(x[0], AT, mode="wrap") + jnp.take(x[1], AT, fill_value=0),
    "along": lambda x: jnp.take_along_axis(x, np.array([[0, 9], [-1, -9]]), 1, mode="clip"),
    "segments": lambda x: jax.ops.segment_sum(x[0], np.array([0, 3, 0, -1]), 3),
    "added past the end": lambda x: jnp.zeros(4).at[np.array([0, 9])].add(x[0, :2], mode="promise_in_bounds"),
}  # fmt: skip
X = (np.arange(8.0).reshape(2, 4) ** 2 - 9).astype("float32")


@pytest.mark.parametrize("name", INDEXED)
def test_indices_past_the_ends(name):
    """All of these rise with every input: the ends are the values at the ends."""
    fn, region = INDEXED[name], box(X - 0.25, X + 0.5)
    for bounds in by_numpy(lambda region: (jb.ibp(fn, region), jb.crown(fn, region)))(region):
        np.testing.assert_allclose(bounds.lower, fn(jnp.asarray(region.lower)), rtol=1e-6)
        np.testing.assert_allclose(bounds.upper, fn(jnp.asarray(region.upper)), rtol=1e-6)


def test_differences_past_the_end():
    fn = lambda x: x[jnp.arange(3) + 1] - x[jnp.arange(3)]
    for bounds in by_every(fn, box([0.9, 1.9, 2.9], [1.1, 2.1, 3.1])):
        np.testing.assert_allclose([bounds.lower[-1], bounds.upper[-1]], [0, 0], atol=1e-6)


# ---------------------------------------------------------------- functions of entries

APPLIED = {
    "square": lambda x: x.at[np.array([0, 1])].apply(jnp.square),
    "negation": lambda x: x.at[np.array([1, -1])].apply(jnp.negative),
    "twice": lambda x: x.at[np.array([0, 1, 0])].apply(lambda z: 1 - 2 * z),
    "past the end": lambda x: x.at[np.array([1, 7, -9])].apply(jnp.exp),
    "a row": lambda x: jnp.stack([x, -x]).at[1].apply(jnp.cos),
    "traced": lambda x: jax.jit(lambda z, i: z.at[i].apply(jnp.square))(x, jnp.array([2, 2])),
    "uncertain": lambda x: x.at[jnp.argmax(x)].apply(jnp.exp),
}  # fmt: skip


@pytest.mark.parametrize("name", APPLIED)
def test_functions_of_entries(name):
    fn, region = APPLIED[name], box([-1, -1, 0.5], [1, 2, 2])
    points = samples(region)
    for bounds in by_numpy(
        lambda region: (jb.ibp(fn, region), jb.lbp(fn, region), jb.crown(fn, region))
    )(region):
        assert_contains(bounds, values(fn, points), 1e-4)
        assert np.isfinite([bounds.lower, bounds.upper]).all()


def test_the_image_of_a_function_of_entries():
    fn = APPLIED["twice"]
    found = jb.ibp(fn, box([0, 1, 5], [1, 2, 6]))
    np.testing.assert_allclose(found.lower, [-1, -3, 5])
    np.testing.assert_allclose(found.upper, [3, -1, 6])


def scattered(body, mode=lax.GatherScatterMode.CLIP):
    """A scatter with a body of its own, which no public function makes."""
    closed = jax.make_jaxpr(body)(0.0, 0.0)
    params = {"dimension_numbers": WRITE, "unique_indices": True, "indices_are_sorted": True}
    params |= {"mode": mode, "update_jaxpr": closed.jaxpr, "update_consts": tuple(closed.consts)}
    return lambda x: lax.scatter_p.bind(x, np.array([[1]]), x[:1], **params)


def test_a_function_of_both_values_is_refused():
    with pytest.raises(jb.UnsupportedPrimitiveError, match="a function of both values"):
        jb.ibp(scattered(lambda old, new: old * new + 1), box([0, 0], [1, 1]))
    one = lax.GatherScatterMode.ONE_HOT
    with pytest.raises(jb.UnsupportedPrimitiveError, match=r"its mode is .*ONE_HOT"):
        jb.ibp(scattered(lambda old, new: new, one), box([0, 0], [1, 1]))
    with pytest.raises(jb.UnsupportedPrimitiveError, match=r"its mode is .*ONE_HOT"):
        jb.ibp(lambda x: x.at[np.array([0])].get(mode="one_hot"), box([0, 0], [1, 1]))


def test_bodies_by_structure():
    region = box([0, 2], [1, 3])
    found = jb.ibp(scattered(lambda old, new: new), region)
    assert (found.lower[1], found.upper[1]) == (0, 1)
    found = jb.ibp(scattered(lambda old, new: -old), region)
    assert (found.lower[1], found.upper[1]) == (-3, -2)
