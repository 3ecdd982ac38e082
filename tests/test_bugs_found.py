# ruff: noqa: E501 -- a case is one line
"""Bugs that random programs found, by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import METHODS, by_every

import jaxbound as jb

BOX = jb.Interval(
    np.array([[-2.5, 0.5], [-3, -2], [1, 0.25]], np.float32),
    np.array([[1, 2], [-1, 1], [2, 0.25]], np.float32),
)
WEIGHTS = np.array([[1, -2, 3], [-1, 0, 2]], np.int32)


TRIED = (jb.ibp, jb.lbp, jb.crown)


def whole(x):
    return jnp.floor(x).astype(jnp.int32)


def unsigned(x):
    return whole(20 * (x + 3)).astype(jnp.uint8)


# Intervals of integers had their centres cut off to integers: wrong bounds, too narrow.
INTEGERS = {
    "dot by a constant": lambda x: whole(x) @ WEIGHTS,
    "dot from the left": lambda x: WEIGHTS @ whole(x),
    "dot of two": lambda x: whole(x) @ whole(-2 * x).T,
    "convolution": lambda x: lax.conv(whole(x)[None], WEIGHTS[:, :, None][:, :3] * np.ones((1, 3, 1), np.int32), (1,), "SAME"),
    # These raised, or gave floating-point bounds of integers.
    "product": lambda x: whole(x) * whole(3 * x),
    "maximum": lambda x: jnp.maximum(whole(x), 0) * 2,
    "choice of integers": lambda x: jnp.where(x > 0, whole(x), 7) * 3,
    "choice of truths": lambda x: ~jnp.where(x > 0, x < 0.5, x > -1.5),
    "choice by integers": lambda x: lax.select_n(jnp.clip(whole(x), 0, 2), x, -x, 2 * x),
    "any": lambda x: jnp.any(x > 0, 1) & jnp.all(x < 1.5, 1),
    # The order was reversed by a negation, which wraps around: wrong, and empty, bounds. Truth values have none.
    "argmin, unsigned": lambda x: jnp.argmin(unsigned(x), 0),
    "argmin, any integer": lambda x: jnp.argmin(whole(x) * np.array([[1], [2**30], [1]], np.int32), 0),
    "places of the largest, unsigned": lambda x: lax.top_k(unsigned(x), 2)[1],
    "least, unsigned": lambda x: jnp.min(unsigned(x), 0),
    "least truth": lambda x: jnp.min(x > 0, 0),
    "argmin of truths": lambda x: jnp.argmin(x > 0, 0),
    # The bound of an integer's power was a floating-point one, and no guard saw it wrap around.
    "power": lambda x: whole(40 * x).astype(jnp.int8) ** 2,
    # These wrapped around unseen: wrong, and empty, bounds; or they raised.
    "scattered sum": lambda x: jnp.full(6, 100, jnp.int8).at[np.array([0, 2, 2])].add(whole(10 * x)[:, 0].astype(jnp.int8)),
    "sum of windows": lambda x: lax.reduce_window(whole(40 * x).astype(jnp.int8), np.int8(0), lax.add, (2, 1), (1, 1), "VALID"),
    "scattered product": lambda x: whole(x).at[np.array([0, 2, 2])].multiply(whole(2 * x)),
    # The least integer has no absolute value: the upper end was the other one's.
    "absolute value": lambda x: jnp.abs(jnp.clip(whole(100 * x), -128, 24).astype(jnp.int8)),
    "division by -1": lambda x: lax.div(whole(x) * np.int32(2**30), np.int32(-1)),
    "power of a number": lambda x: jnp.float32(2) ** whole(x),
}  # fmt: skip


def test_integers_and_truths():
    """One program: bounds keep the type and contain what samples give."""
    every = lambda x: {name: fn(x) for name, fn in INTEGERS.items()}
    parts = np.random.default_rng(0).uniform(size=(400, 3, 2))
    parts[::4] = np.round(parts[::4])
    points = np.asarray(BOX.lower + parts * (BOX.upper - BOX.lower), np.float32)
    values = jax.tree.map(np.asarray, jax.jit(jax.vmap(every))(points))
    for method, bounds in zip(TRIED, by_every(every, BOX, methods=TRIED), strict=True):
        for name, found in bounds.items():
            lower, upper, true = np.asarray(found.lower), np.asarray(found.upper), values[name]
            what = f"{method.__name__}, {name}: {lower} {upper}"
            assert lower.dtype == upper.dtype == true.dtype, what
            assert (lower <= true).all() and (true <= upper).all(), what


def test_integers_by_a_constant_are_exact():
    found = jb.ibp(lambda x: whole(x) @ WEIGHTS.T[:2], BOX)
    low, high = np.floor(BOX.lower), np.floor(BOX.upper)
    weights = WEIGHTS.T[:2]
    above, below = np.maximum(weights, 0), np.minimum(weights, 0)
    np.testing.assert_array_equal(found.lower, low @ above + high @ below)
    np.testing.assert_array_equal(found.upper, high @ above + low @ below)


def test_capacity_with_constant_lines():
    """Which elements are undecided, where their lines are the interval's: raised."""
    weights = np.array([[1, 2, -1], [3, -1, 0.5]], np.float32)
    fn = lambda x: weights.T @ jax.nn.relu(weights @ jax.nn.relu(weights.T @ x))
    box = jb.linf_ball(jnp.array([0.5, -1.0]), 1.0)
    some = jb.crown(fn, box, relaxation="constant", capacity=1)
    every = jb.crown(fn, box, relaxation="constant")
    intervals = jb.ibp(fn, box)
    assert (some.lower <= every.lower).all() and (every.upper <= some.upper).all()
    assert (intervals.lower <= some.lower).all() and (some.upper <= intervals.upper).all()


def test_capacity_where_a_limit_comes_later():
    """Its operand was refined before the known value beside it was computed: raised."""

    def fn(x, c):
        weights = jnp.array([[1.0, 2.0], [-1.0, 3.0]])
        y = weights @ jax.nn.relu(weights @ x)
        return jax.nn.relu(y) - jnp.maximum(y, jnp.cos(c))

    box, c = jb.linf_ball(jnp.array([0.5, -1.0]), 1.0), jnp.array([0.1, 0.2])
    some, every = jb.crown(fn, box, c, capacity=2), jb.crown(fn, box, c)
    np.testing.assert_allclose([some.lower, some.upper], [every.lower, every.upper], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_complex_values_have_no_order(method):
    with pytest.raises(TypeError, match="value is complex"):
        jax.eval_shape(functools.partial(method, lambda x: x + 1j), BOX)


@pytest.mark.parametrize("padding", [(-2, 3), (-3, 4), (3, -1), (-1, 1)])
@pytest.mark.parametrize("size", [1, 2])
def test_convolution_whose_padding_cuts_the_input_away(size, padding):
    """Negative padding, as long as the input or longer: raised."""
    kernel = jnp.array([2.0]).reshape(1, 1, 1)
    names = ("NHC", "HIO", "NHC")

    def fn(x):
        conv = lax.conv_general_dilated(
            x.reshape(1, -1, 1), kernel, (1,), [padding], None, None, names
        )
        return conv.ravel()

    kept = jnp.arange(1.0, 1 + size)
    found = jb.crown(fn, jb.linf_ball(kept, 0.5))
    np.testing.assert_allclose(found.lower, fn(kept - 0.5), atol=1e-6)
    np.testing.assert_allclose(found.upper, fn(kept + 0.5), atol=1e-6)
