"""Operands of any magnitude: what flushes or overflows inside a rule must not make a finite, wrong bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from oracle import box

import jaxbound as jb

WALKS = (jb.ibp, jb.lbp, jb.crown)
KNOWN = np.array([2.0, -0.5, 3e4], "float32")

FUNCTIONS = {  # of three numbers
    "quotient": lambda x: x[0] / x[1],
    "share": lambda x: x[0] / (x[0] + x[1]),
    "known over": lambda x: KNOWN.astype(x.dtype) / x,
    "over known": lambda x: x / jnp.asarray(1e-20, x.dtype),
    "product": lambda x: x[0] * x[1],
    "dot": lambda x: x[:2] @ x[1:],
    "known dot": lambda x: x @ KNOWN.astype(x.dtype),
    "largest of two": lambda x: jnp.maximum(x[0], x[1]),
    "largest": lambda x: x.max(),
    "least": lambda x: x.min(),
    "median": jnp.median,
    "choice": lambda x: jnp.where(x[0] < x[1], x[0], x[2]),
    "running maximum": lambda x: lax.cummax(x),
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "asinh": jnp.arcsinh,
    "soft_sign": jax.nn.soft_sign,
    "i1e": lax.bessel_i1e,
    "log of a square": lambda x: jnp.log1p(x[0] ** 2),
    "root": lambda x: lax.rsqrt(1 + jnp.abs(x)),
    "powers": lambda x: x ** np.array([2.0, 1.0, 3.0], "float32").astype(x.dtype),
}


def boxes(count: int, dtype: str) -> jb.Interval:
    """Ends of all magnitudes, signs and widths; a third of the boxes hold numbers of one magnitude."""
    rng, most = np.random.default_rng(0), float(jnp.finfo(dtype).max)

    def numbers(low, high, shape=(count, 3)):
        sizes = 10.0 ** rng.integers(low, high, shape) * rng.uniform(1, 9.9, shape)
        return rng.choice([-1, 0, 1], shape, p=[0.45, 0.1, 0.45]) * sizes

    first, other = numbers(-36, 38), numbers(-36, 38)
    kind = rng.integers(0, 4, (count, 1))
    near, opposite = first * rng.uniform(0.5, 1.5, first.shape), -first * rng.uniform(0.5, 1.5)
    second = np.choose(kind, [first, other, near, opposite])
    alike = rng.uniform(size=(count, 1)) < 0.3
    scale = 10.0 ** rng.integers(-36, 37, (count, 1))
    first = np.where(alike, scale * rng.uniform(-5, 5, first.shape), first)
    second = np.where(alike, first + scale * rng.uniform(0, 4, first.shape), second)
    ends = np.clip(np.sort([first, second], axis=0), -0.9 * most, 0.9 * most)
    ends = np.asarray(jnp.asarray(ends.astype("float32"), dtype))
    return jb.Interval(*ends)


def points(region: jb.Interval) -> np.ndarray:
    """Corners, centres and random points ``[16, boxes, 3]``, in the type of the region."""
    parts = np.random.default_rng(1).uniform(size=(16, *region.shape))
    parts[:10] = np.round(parts[:10])
    parts[:2] = [[[0]], [[1]]]
    lower, upper = (end.astype(float) for end in (region.lower, region.upper))
    inner = np.asarray(
        jnp.asarray((lower * (1 - parts) + upper * parts).astype("float32"), region.dtype)
    )
    # Numbers that are too small for their type are 0 in XLA.
    inner = np.where(
        np.abs(inner.astype(float)) < jnp.finfo(region.dtype).tiny, 0, inner.astype(float)
    )
    return np.clip(inner, lower, upper)


def lines(fn, region):
    """Both lines of every element of the value: slopes ``[n, 3]`` and intercepts ``[n]``."""
    found = jb.linear_bounds(fn, region)
    slopes = (c[0].reshape(-1, 3) for c in (found.lower_coeffs, found.upper_coeffs))
    return *slopes, found.lower_offset.ravel(), found.upper_offset.ravel()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_magnitude(dtype):
    region = boxes(300, dtype)
    inputs, eps, tiny = (
        points(region),
        *(float(getattr(jnp.finfo(dtype), n)) for n in ("eps", "tiny")),
    )

    def every(region):
        return {name: (jb.ibp(fn, region), lines(fn, region)) for name, fn in FUNCTIONS.items()}

    found = jax.tree.map(lambda x: np.asarray(x).astype(float), jax.jit(jax.vmap(every))(region))
    with jax.enable_x64(True):
        evaluate = lambda x: {name: jnp.ravel(fn(x)) for name, fn in FUNCTIONS.items()}
        wanted = jax.tree.map(np.asarray, jax.jit(jax.vmap(jax.vmap(evaluate)))(inputs))
    for name, (interval, (low, high, below, above)) in found.items():
        value = wanted[name]
        size = np.max(np.abs(value), axis=0, where=np.isfinite(value), initial=0)
        apart = [end.reshape(size.shape) for end in (interval.lower, interval.upper)]
        assert_inside(value, *apart, 400 * eps * size + 8 * tiny, f"{name}, ibp")
        terms = inputs[:, :, None] * np.stack([low, high])[:, None]
        room = 400 * eps * (size + np.abs(terms).sum(-1).max(0)) + 8 * tiny
        with np.errstate(all="ignore"):
            bottom, top = terms.sum(-1) + np.stack([below, above])[:, None]
        bottom, top = (
            np.where(below == -np.inf, below, bottom),
            np.where(above == np.inf, above, top),
        )
        assert_inside(value, bottom, top, room, f"{name}, lines")


def assert_inside(value, lower, upper, room, what):
    """``lower - room <= value <= upper + room`` where the value is a number."""
    assert not np.isnan(lower).any() and not np.isnan(upper).any(), what
    wrong = (value < lower - room) | (value > upper + room)
    assert not wrong.any(), (
        f"{what}: {wrong.any((0, 2)).sum()} boxes, first {np.argwhere(wrong)[0]}"
    )


RATIOS = {  # what was finite and wrong: function, lower and upper end, the value at both
    "logistic": (lambda x: jnp.exp(x) / (1 + jnp.exp(x)), 87.9, 88.0, (1, 1)),
    "share of large": (lambda x: x * 1e36 / (x * 1e36 + 1e37), 87.9, 88.0, (0.8978, 0.898)),
    "large over large": (lambda x: 1e38 / x, 1e38, 2e38, (0.5, 1)),
}


def test_ratios_of_large_numbers():
    for fn, lower, upper, (least, most) in RATIOS.values():
        region = box([lower], [upper])
        for bounds in jax.jit(lambda r, fn=fn: [m(fn, r) for m in WALKS])(region):
            assert bounds.lower.item() <= least + 1e-3 and most - 1e-3 <= bounds.upper.item()
            assert bounds.upper.item() - bounds.lower.item() < 1.1


def test_a_maximum_of_wide_values():
    region = box([-5e37, 0], [5e37, 1])
    for bounds in jax.jit(lambda r: [m(lambda x: x.max(), r) for m in WALKS])(region):
        np.testing.assert_allclose([bounds.lower, bounds.upper], [0, 5e37], rtol=1e-6)


def test_the_least_number_is_no_mask():
    """Entries at it did not count for a softmax, whose second value was 1 for sure."""
    least = -np.finfo("float32").max
    region = jb.Interval(*np.array([[least] * 3, [least, 0.99 * least, least]], "float32"))
    for bounds in jax.jit(lambda r: [m(jax.nn.softmax, r) for m in WALKS])(region):
        np.testing.assert_allclose(bounds.lower, [0, 1 / 3, 0], rtol=1e-5)
        np.testing.assert_allclose(bounds.upper, [1 / 3, 1, 1 / 3], rtol=1e-5)


def test_lines_of_half_precision():
    """Where ``1 + |x|`` squared overflows, the line above was a chord; where x - 1 is x, the kink was misplaced."""
    found = jb.linear_bounds(jax.nn.soft_sign, jb.Interval(*np.array([0, 732.5], "float16")))
    assert found(jnp.float16(31)).upper.item() > 31 / 32 - 1e-3
    point = jnp.float16(-1e4)
    found = jb.linear_bounds(jax.nn.relu, jb.Interval(point, point))
    assert [float(end) for end in (found.lower_coeffs[0], found.upper_coeffs[0])] == [0, 0]


def test_what_leaves_half_precision_has_no_bound():
    """The least log-probability is -78080: its bound was the least number. A sum beyond the type was at most -inf."""
    region = jb.Interval(*np.array([[1.6, -2, -12576], [65504, 0, 0]], "float16"))
    for bounds in jax.jit(lambda r: [m(jax.nn.log_softmax, r) for m in WALKS])(region):
        assert bounds.lower[2] == -np.inf
    region = jb.Interval(*np.array([[-65504, -4964], [-65440, -4956]], "float16"))
    for bounds in jax.jit(lambda r: [m(jnp.sum, r) for m in WALKS])(region):
        assert bounds.lower == -np.inf and bounds.upper >= -65504


def test_a_line_that_leaves_its_type_is_no_line():
    point = jnp.float16(-5.54e-6)
    found = jb.linear_bounds(jnp.sinc, jb.Interval(point, point))
    assert np.isfinite([found.lower_coeffs[0], found.upper_coeffs[0]]).all()
    assert found.lower_offset <= 1 <= found.upper_offset


def test_ends_are_in_order():
    """At radius 0 rounding crossed them; the result is a region again."""
    keys = jax.random.split(jax.random.key(0), 3)
    w, v = jax.random.normal(keys[0], (6, 9)), jax.random.normal(keys[1], (9, 4))
    x = jax.random.normal(keys[2], (20, 6))
    fn = lambda x: jnp.tanh(jnp.tanh(x @ w) @ w.T) @ w @ v

    @functools.partial(jax.jit, static_argnames="eps")
    def bounds(x, eps):
        return jax.vmap(lambda x: [m(fn, jb.linf_ball(x, eps)) for m in WALKS])(x)

    for eps in (0.0, 1e-7):
        for found in bounds(x, eps):
            assert (found.lower <= found.upper).all()


POWERS = {  # function, and its exact image on [-2, 3]
    "square": (lambda x: x**2.0, (0, 9)),
    "cube": (lambda x: jnp.power(x, 3.0), (-8, 27)),
    "traced": (lambda x: jax.jit(jnp.power)(x, jnp.float32(3)), (-8, 27)),
    "traced, even": (lambda x: jax.jit(jnp.power)(x, jnp.float32(4)), (0, 81)),
    "float_power": (lambda x: jnp.float_power(x, 2), (0, 9)),
    "zero": (lambda x: x**0.0, (1, 1)),
    "at": (lambda x: x.at[0].power(2.0), (0, 9)),
}


def test_whole_powers_of_any_base():
    region = box([-2.0], [3.0])
    together = lambda region: {n: [m(f, region) for m in WALKS] for n, (f, _) in POWERS.items()}
    for name, found in by_numpy(together)(region).items():
        for bounds in found:
            np.testing.assert_allclose(
                np.ravel([bounds.lower, bounds.upper]), POWERS[name][1], rtol=1e-5, atol=1e-5
            )
    several = jb.ibp(lambda x: x ** np.arange(4), box([-2.0] * 4, [3.0] * 4))
    np.testing.assert_allclose(several.lower, [1, -2, 0, -8])
    np.testing.assert_allclose(several.upper, [1, 3, 9, 27])
    negative = jb.ibp(lambda x: x ** np.array([-1, -2, -3]), box([-4.0] * 3, [-2.0] * 3))
    np.testing.assert_allclose(negative.lower, [-1 / 2, 1 / 16, -1 / 8], rtol=1e-6)
    np.testing.assert_allclose(negative.upper, [-1 / 4, 1 / 4, -1 / 64], rtol=1e-6)
