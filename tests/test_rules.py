# ruff: noqa: E501 -- a case is one line
"""Every rule against the oracle: intervals, forward and backward lines, of every kind.

A case is one line. Its function runs between an affine map and another one, so that rows are
exercised; linear bounds are checked at every sample, not only their concretization.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex
from jax.extend.core import primitives as jp
from oracle import (
    DTYPES,
    KINDS,
    LINEAR,
    assert_contains,
    box,
    by_every,
    magnitude,
    precision,
    samples,
    tolerance,
    values,
)

import jaxbound as jb
from jaxbound._program.activations import Activation
from jaxbound._program.control import CONTROL
from jaxbound._program.indexing import INDEXED
from jaxbound._program.rewrites import REWRITES
from jaxbound._rules.elementwise import is_kinked
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_rules
from jaxbound._rules.relaxations import relaxations

# ---------------------------------------------------------------- functions of one variable

REALS = [(-1, 2), (-2, 0.5), (0.5, 2), (-3, -1), (-1, 1), (0, 0), (1, 1), (-1, -1), (0, 1), (-1, 0),
         (0.3, 0.3001), (-1e-4, 1e-4), (-9, 4), (-2.5, 7), (-30, 40), (-300, 500), (6, 9), (-8, -5)]  # fmt: skip
POSITIVE = [
    (0.5, 2),
    (1, 1),
    (0.1, 0.2),
    (1, 1.0001),
    (0.4, 30),
    (3, 400),
    (1e-3, 2e-3),
    (2, 5),
    (0.7, 0.9),
]
NEGATIVE = [(-u, -l) for l, u in POSITIVE]
NOT_NEGATIVE = [*POSITIVE, (0, 1), (0, 0), (0, 1e-4), (0, 50)]
ABOVE_MINUS_ONE = [(l - 1, u - 1) for l, u in POSITIVE]
SMALL = [(l, u) for l, u in REALS if max(abs(l), abs(u)) < 50]
INSIDE = [
    (-0.9, 0.8),
    (-0.5, -0.1),
    (0, 0),
    (0.2, 0.95),
    (-0.9, -0.9),
    (0, 0.5),
    (-0.1, 0),
    (0.3, 0.3001),
    (-0.99, 0.99),
]
UNIT = [*INSIDE, (-1, 1), (0.5, 1), (-1, -0.3), (1, 1), (-1, -1)]
ABOVE_ONE = [(l + 1, u + 1) for l, u in NOT_NEGATIVE]
ANGLES = [(0.1, 0.3), (-0.4, 0.5), (0.5, 2), (1, 4), (-1, 4.5), (2, 9), (-7, 7), (3, 40), (1, 1), (0, 0), (-3.1, -0.1),
          (1.5707, 1.5708), (100, 101), (-2001, -2000), (1e6, 1e6), (-1e9, 3), (6.2, 6.4), (-5, -4)]  # fmt: skip
BRANCH = [
    (-1.5, 1.4),
    (0.1, 0.3),
    (-1.2, 0.3),
    (-0.1, 1.5),
    (0, 0),
    (1.6, 4.6),
    (2, 3),
    (3.5, 4.7),
    (99, 100),
    (-1, 0),
]


def traced(fn, *parameters):
    """``fn(x, *parameters)`` where the trace cannot see the parameters' values."""
    return lambda x: jax.jit(fn)(x, *(jnp.asarray(p, x.dtype) for p in parameters))


def ramp(r, eta):
    return lambda x: jb.param_ramp(x, r, eta)


UNARY = {  # name: (function, boxes of its operand)
    "relu": (jax.nn.relu, REALS),
    "maximum": (lambda x: jnp.maximum(x, 0.5), REALS),
    "minimum": (lambda x: jnp.minimum(0.5, x), REALS),
    "clip": (lambda x: jnp.clip(x, -0.5, 1.5), REALS),
    "clip below only": (lambda x: jnp.clip(x, -0.5), REALS),
    "clamp": (lambda x: lax.clamp(-0.5, x, 1.5), REALS),
    "clamp, crossed": (lambda x: lax.min(lax.max(x, jnp.ones_like(x)), -jnp.ones_like(x)), REALS),
    "relu6": (jax.nn.relu6, REALS),
    "hard tanh": (jax.nn.hard_tanh, REALS),
    "hard sigmoid": (jax.nn.hard_sigmoid, REALS),
    "hard silu": (jax.nn.hard_silu, REALS),
    "five pieces": (lambda x: jnp.where(x < -2, 0.1 * x, jnp.where(x < 0, x + 1.8, jnp.where(x < 1, 1.8 - 3 * x, jnp.abs(x - 2) - 2.2))), REALS),
    "bumps": (lambda x: jnp.where(x < -1, 0, jnp.where(x < 0, (x + 1)**2 / 2, jnp.where(x < 1, 0.5 + x - x**2 / 2, 1))), REALS),
    "leaky_relu -0.5": (lambda x: jax.nn.leaky_relu(x, -0.5), REALS),
    "leaky_relu 0": (lambda x: jax.nn.leaky_relu(x, 0.0), REALS),
    "leaky_relu 0.01": (jax.nn.leaky_relu, REALS),
    "leaky_relu 1": (lambda x: jax.nn.leaky_relu(x, 1.0), REALS),
    "leaky_relu 2": (lambda x: jax.nn.leaky_relu(x, 2.0), REALS),
    "leaky_relu traced -0.5": (traced(jax.nn.leaky_relu, -0.5), REALS),
    "leaky_relu traced 2": (traced(jax.nn.leaky_relu, 2.0), REALS),
    "prelu": (lambda x: jnp.where(x > 0, x, jnp.array([-1, 0.2, 3], x.dtype) * x), REALS),
    "elu 1": (jax.nn.elu, REALS),
    "elu 0.5": (lambda x: jax.nn.elu(x, 0.5), REALS),
    "elu 2": (lambda x: jax.nn.elu(x, 2.0), REALS),
    "elu -1": (lambda x: jax.nn.elu(x, -1.0), REALS),
    "elu traced 2": (traced(jax.nn.elu, 2.0), REALS),
    "selu": (jax.nn.selu, REALS),
    "celu": (jax.nn.celu, REALS),
    "softplus": (jax.nn.softplus, REALS),
    "log_sigmoid": (jax.nn.log_sigmoid, REALS),
    "sigmoid": (jax.nn.sigmoid, REALS),
    "tanh": (jnp.tanh, REALS),
    "arctan": (jnp.arctan, REALS),
    "arcsinh": (jnp.arcsinh, REALS),
    "erf": (lax.erf, REALS),
    "erfc": (lax.erfc, REALS),
    "sin": (jnp.sin, ANGLES),
    "cos": (jnp.cos, ANGLES),
    "tan": (jnp.tan, BRANCH),
    "arcsin": (jnp.arcsin, UNIT),
    "arccos": (jnp.arccos, UNIT),
    "arctanh": (jnp.arctanh, INSIDE),
    "erf_inv": (lax.erf_inv, INSIDE),
    "arccosh": (jnp.arccosh, ABOVE_ONE),
    "cosh": (jnp.cosh, SMALL),
    "i1e": (lax.bessel_i1e, REALS),
    "log cosh": (lambda x: jnp.log(jnp.cosh(x)), SMALL),
    "entr": (jax.scipy.special.entr, NOT_NEGATIVE),
    "x log x": (lambda x: x * jnp.log(x), POSITIVE),
    "lgamma": (lax.lgamma, POSITIVE),
    "digamma": (lax.digamma, POSITIVE),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), REALS),
    "gelu tanh": (lambda x: jax.nn.gelu(x, approximate=True), REALS),
    "silu": (jax.nn.silu, REALS),
    "silu, spelt": (lambda x: x * jax.nn.sigmoid(x), REALS),
    "soft_sign": (jax.nn.soft_sign, REALS),
    "mish": (jax.nn.mish, SMALL),
    "exp": (jnp.exp, SMALL),
    "exp2": (jnp.exp2, SMALL),
    "expm1": (jnp.expm1, SMALL),
    "sinh": (jnp.sinh, SMALL),
    "log": (jnp.log, POSITIVE),
    "log1p": (jnp.log1p, ABOVE_MINUS_ONE),
    "sqrt": (jnp.sqrt, NOT_NEGATIVE),
    "cbrt": (jnp.cbrt, REALS),
    "rsqrt": (lax.rsqrt, POSITIVE),
    "reciprocal": (lambda x: 1 / x, POSITIVE),
    "reciprocal, negative": (jnp.reciprocal, NEGATIVE),
    "abs": (jnp.abs, REALS),
    "square": (jnp.square, REALS),
    "x * x": (lambda x: x * x, REALS),
    "x ** 0": (lambda x: lax.integer_pow(x, 0), REALS),
    "x ** 1": (lambda x: lax.integer_pow(x, 1), REALS),
    "x ** 2": (lambda x: x**2, REALS),
    "x ** 3": (lambda x: x**3, SMALL),
    "x ** 4": (lambda x: x**4, SMALL),
    "x ** 5": (lambda x: x**5, SMALL),
    "x ** -1": (lambda x: x**-1, NEGATIVE),
    "x ** -2": (lambda x: x**-2, POSITIVE + NEGATIVE),
    "x ** -3": (lambda x: x**-3, POSITIVE + NEGATIVE),
    "x ** 2.5": (lambda x: x**2.5, NOT_NEGATIVE),
    "x ** 0.5": (lambda x: jnp.power(x, 0.5), NOT_NEGATIVE),
    "x ** 1.0": (lambda x: lax.pow(x, jnp.ones_like(x)), NOT_NEGATIVE),
    "x ** -0.7": (lambda x: x**-0.7, POSITIVE),
    "x ** traced": (traced(jnp.power, 1.5), NOT_NEGATIVE),
    "ramp": (ramp(1.0, 0.01), REALS),
    "ramp r=0": (ramp(0.0, 0.01), REALS),
    "ramp eta=0": (ramp(0.5, 0.0), REALS),
    "ramp eta=0.3": (ramp(2.0, 0.3), REALS),
    "ramp r huge": (ramp(1e6, 0.01), REALS),
    "ramp r negative": (ramp(-1.0, 0.1), REALS),
    "ramp eta=2": (ramp(1.0, 2.0), REALS),
    "ramp eta=-1": (ramp(1.0, -1.0), REALS),
    "ramp per neuron": (lambda x: jb.param_ramp(x, jnp.array([0, 0.5, 3], x.dtype), 0.1), REALS),
    "ramp traced": (traced(jb.param_ramp, 0.7, 0.2), REALS),
    "floor": (jnp.floor, SMALL),
    "ceil": (jnp.ceil, SMALL),
    "round": (jnp.round, SMALL),
    "sign": (jnp.sign, SMALL),
    "where <": (lambda x: jnp.where(x < 1, x + 10, x), [*SMALL, (0, 2)]),
    "where <=": (lambda x: jnp.where(x <= 1, -x, x**2), SMALL),
    "where >": (lambda x: jnp.where(x > -1, 3.0, x), SMALL),
    "where >=": (lambda x: jnp.where(x >= 0, x, 0.1 * x - 5), SMALL),
    "where ==": (lambda x: jnp.where(x == 1, 7.0, x), SMALL),
    "where !=": (lambda x: jnp.where(x != 0, x, 9.0), SMALL),
    "where and": (lambda x: jnp.where((x > -1) & (x < 1), x, -x), SMALL),
    "where or not": (lambda x: jnp.where((x > 1) | ~(x > -1), x, 2 * x + 1), SMALL),
    "where finite": (lambda x: jnp.where(jnp.isfinite(x), x, 7.0), SMALL),
    "as a number": (lambda x: (x > 0.5).astype(x.dtype) * 2 + x, SMALL),
    "as a bool": (lambda x: x.astype(bool).astype(x.dtype), SMALL),
    "as an integer": (lambda x: x.astype(int).astype(x.dtype), SMALL),
    "sum with itself": (lambda x: x + x, REALS),
    "difference with itself": (lambda x: x - 0.5 * x, REALS),
    "by a known number": (lambda x: x / -4.0, REALS),
    "remainder": (lambda x: lax.rem(x, jnp.full_like(x, 3.2)), SMALL),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 8, 23), SMALL),
    "copy": (jnp.copy, SMALL),
    "name": (lambda x: checkpoint_name(x, "z"), SMALL),
    "stop_gradient": (lax.stop_gradient, SMALL),
}  # fmt: skip

# Rows that keep the operand's domain: means of the inputs.
BEFORE = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]])
AFTER = np.array([[1, -2, 0.5], [-1, 0.5, 1], [0, 1, 0], [0, 0, -1]])


def sandwiched(fn):
    return lambda x: AFTER.astype(x.dtype) @ fn(BEFORE.astype(x.dtype) @ x)


def batch(intervals, dtype) -> jb.Interval:
    """Boxes ``[18, 3]``: every interval beside its neighbours."""
    ends = np.stack([np.resize(np.roll(intervals, -shift, axis=0), (18, 2)) for shift in range(3)])
    return box(ends[..., 0].T, ends[..., 1].T, dtype)


WALKS = {  # linear bounds by the methods whose walks differ
    "lbp": functools.partial(jb.linear_bounds, method=jb.lbp),
    **{f"crown {kind}": functools.partial(jb.linear_bounds, relaxation=kind) for kind in KINDS},
}
SMOOTH_WALKS = ("lbp", "crown adaptive")


def primitives(fn, *regions):
    return {eqn.primitive for eqn in jb.trace(fn, *regions).equations if any(eqn.uncertain)}


def check(fn, boxes, dtype, walks=tuple(WALKS)):
    """All walks over a batch of boxes: bounds at the ends, lines at every sample."""
    if not any(map(is_kinked, primitives(fn, nth(boxes, 0)))):  # only their lines differ by kind
        walks = [walk for walk in walks if walk in SMOOTH_WALKS]
    points = np.stack([samples(nth(boxes, i)) for i in range(len(boxes.lower))])
    found = values(jax.vmap(fn), points)
    with precision(dtype):
        found_by = by_numpy(jax.vmap(functools.partial(everything, fn, walks)))(boxes)
    results, lines, size = jax.tree.map(np.asarray, found_by)
    results |= {f"lines of {n}": line_values(b, points) for n, b in lines.items()}
    for name, bounds in results.items():
        for i, room in enumerate(tolerance(dtype, np.asarray(size, float))):
            assert_contains(nth(bounds, i), found[i], room, f"{name}, box {i}")


def line_values(linear, points) -> jb.Interval:
    """Both affine maps of every box at its points, in float64."""

    def at(coeffs, offset):
        count, *shape = offset.shape
        slopes = coeffs[0].astype(float).reshape(count, offset[0].size, points[0, 0].size)
        found = points.reshape(*points.shape[:2], -1) @ slopes.swapaxes(1, 2)
        return found.reshape(*points.shape[:2], *shape) + offset[:, None]

    return jb.Interval(
        at(linear.lower_coeffs, linear.lower_offset), at(linear.upper_coeffs, linear.upper_offset)
    )


def everything(fn, walks, region):
    """Bounds and linear bounds by all walks, and the magnitude for the tolerance."""
    lines = {name: WALKS[name](fn, region) for name in walks}
    results = {name: jb.concretize(found, region) for name, found in lines.items()}
    return {"ibp": jb.ibp(fn, region)} | results, lines, magnitude(fn, region)


def nth(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_variable(name, dtype):
    fn, intervals = UNARY[name]
    check(sandwiched(fn), batch(np.array(intervals, float), dtype), dtype)


SMOOTH = ["sin", "tan", "arcsin", "arctanh", "cbrt", "mish", "elu 1", "elu 2", "elu -1", "softplus", "sigmoid", "tanh", "arctan", "erf", "gelu", "gelu tanh", "silu", "exp",
          "log", "sqrt", "rsqrt", "reciprocal", "square", "x ** 3", "x ** 2.5"]  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_lines_touch(name):
    """Sound is not enough: both lines touch the function, or could be moved."""
    fn, intervals = UNARY[name]
    with precision("float64"):
        region = box(*np.array(intervals, float).T, "float64")
        linear = by_numpy(functools.partial(jb.linear_bounds, fn))(region)
        points = np.linspace(region.lower, region.upper, 4001)
        found = np.asarray(fn(jnp.asarray(points)))
    below = np.diagonal(linear.lower_coeffs[0]) * points + linear.lower_offset
    above = np.diagonal(linear.upper_coeffs[0]) * points + linear.upper_offset
    room = 1e-3 * np.ptp(found, axis=0) + 1e-9
    assert ((found - below).min(0) <= room).all() and ((above - found).min(0) <= room).all()


# ---------------------------------------------------------------- everything else


def conv(kernel, **options):
    """A convolution of ``[features, *space]`` with weights that repeat in no direction."""

    def fn(x):
        weights = (np.arange(np.prod(kernel)) % 7 - 3.0).reshape(kernel) / 2
        return lax.conv_general_dilated(
            x[None],
            weights.astype(x.dtype),
            **({"window_strides": (1,) * (x.ndim - 1), "padding": "SAME"} | options),
        )[0]

    return fn


def pooled(pool, window, **options):
    return lambda x: pool(x[..., None], window, **options)[..., 0]


def constant(*shape):
    return (np.arange(np.prod(shape)) * 5 % 7 - 3.0).reshape(shape) / 2


def overlapping(x):
    return pooled(nn.max_pool, (2, 2), strides=(2, 1), padding=((0, 1), (0, 0)))(x)


KEPT = np.array([[True, False], [True, True], [False, True]])


def at(index, how="set", **options):
    return lambda x: getattr(x.at[index], how)(**options)


def pairs(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID")


ORDERS = (jp.lt_to_p, jp.le_to_p, jp.eq_to_p)


def whole(x):
    return jnp.floor(x).astype(jnp.int32)


SHAPED = {  # name: (function, shape of its operand); more operands are slices of it
    "conv 1-d": (conv((2, 3, 3)), (3, 5)),
    "conv 2-d": (conv((2, 2, 3, 3)), (2, 4, 4)),
    "conv 3-d": (conv((2, 1, 2, 2, 2)), (1, 3, 2, 3)),
    "conv stride": (conv((2, 1, 3, 3), window_strides=(2, 3), padding="VALID"), (1, 6, 7)),
    "conv padding": (conv((2, 1, 3, 2), padding=((2, 0), (0, 3))), (1, 4, 4)),
    "conv negative padding": (conv((2, 1, 2, 2), padding=((-1, 1), (0, -1))), (1, 4, 5)),
    "conv dilation": (conv((1, 1, 2, 3), rhs_dilation=(2, 1)), (1, 5, 4)),
    "conv lhs dilation": (conv((2, 1, 3, 3), lhs_dilation=(2, 3), padding=((1, 2), (2, 1))), (1, 3, 3)),
    "conv groups": (conv((4, 1, 2, 2), feature_group_count=2), (2, 3, 4)),
    "conv all": (conv((4, 1, 3, 2), feature_group_count=2, window_strides=(2, 1), rhs_dilation=(1, 2), lhs_dilation=(2, 1), padding=((0, 1), (2, 1))), (2, 4, 5)),
    "conv batch groups": (lambda x: lax.conv_general_dilated(x.reshape(2, 1, 3, 3), constant(2, 1, 2, 2).astype(x.dtype), (1, 1), "VALID", batch_group_count=2), (2, 3, 3)),
    "conv of a known image": (lambda x: lax.conv(constant(1, 1, 4, 4).astype(x.dtype), x, (1, 1), "SAME"), (2, 1, 2, 2)),
    "conv transpose": (lambda x: lax.conv_transpose(x[None], constant(3, 3, 1, 2).astype(x.dtype), (2, 2), "SAME"), (3, 3, 1)),
    "depthwise": (lambda x: lax.conv_general_dilated(x[None], constant(2, 2, 1, 3).astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3), (3, 3, 3)),
    "dot": (lambda x: constant(4, 6).astype(x.dtype) @ x, (6,)),
    "dot from the right": (lambda x: x @ constant(3, 4).astype(x.dtype), (2, 3)),
    "dot of batches": (lambda x: jnp.einsum("bij,bjk->bik", x, constant(2, 3, 2).astype(x.dtype)), (2, 2, 3)),
    "dot, contracted": (lambda x: jnp.tensordot(constant(2, 3, 2).astype(x.dtype), x, ((0, 1), (1, 0))), (3, 2, 2)),
    "dot of two": (lambda x: x[:2] @ x[2:], (4, 2)),
    "batch_norm": (lambda x: (x - constant(3).astype(x.dtype)[:, None]) * lax.rsqrt(np.abs(constant(3)).astype(x.dtype) + 0.1)[:, None] * 2 + 1, (3, 4)),
    "avg_pool": (pooled(nn.avg_pool, (2, 2), strides=(2, 2)), (4, 4)),
    "avg_pool padding": (pooled(nn.avg_pool, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1))), (4, 4)),
    "avg_pool, counted": (pooled(nn.avg_pool, (3, 3), padding="SAME", count_include_pad=False), (4, 3)),
    "max_pool": (pooled(nn.max_pool, (2, 2), strides=(2, 2)), (4, 4)),
    "max_pool overlapping": (pooled(nn.max_pool, (3, 2), strides=(1, 2)), (4, 4)),
    "max_pool padding": (pooled(nn.max_pool, (3, 3), strides=(2, 2), padding="SAME"), (4, 5)),
    "max_pool dilation": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 2), "VALID", (2, 1), (1, 2)), (4, 5)),
    "min_pool": (pooled(nn.pooling.min_pool, (2, 2), strides=(2, 1)), (4, 4)),
    "global average": (lambda x: x.mean((1, 2)), (2, 3, 3)),
    "global maximum": (lambda x: x.max((1, 2)), (2, 3, 3)),
    "global minimum": (lambda x: x.min((0, 2)), (2, 3, 3)),
    "max of one": (lambda x: x.max(1), (3, 1)),
    "sum": (lambda x: x.sum(1), (3, 4)),
    "mean, variance": (lambda x: x.var(1), (2, 3)),
    "cumsum": (lambda x: lax.cumsum(x, 1, reverse=True), (2, 4)),
    "cumprod": (lambda x: lax.cumprod(x, 1, reverse=True), (2, 3)),
    "prod": (lambda x: x.prod((0, 2)), (1, 2, 3)),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1, reverse=True), (2, 3)),
    "cummax": (lambda x: lax.cummax(x, 1), (2, 4)),
    "cummin": (lambda x: lax.cummin(x, 0), (3, 2)),
    "concatenate": (lambda x: jnp.concatenate([x, 2 * x[:1], constant(1, 3).astype(x.dtype)]), (2, 3)),
    "stack": (lambda x: jnp.stack([x, -x, jnp.ones_like(x)], 1), (2, 3)),
    "split": (lambda x: sum(jnp.split(x, 3, 1)), (2, 6)),
    "slice": (lambda x: x[1:, ::2], (3, 5)),
    "reverse": (lambda x: x[::-1] + x, (4,)),
    "roll": (lambda x: jnp.roll(x, 2, 0), (5, 2)),
    "pad": (lambda x: lax.pad(x, jnp.asarray(0.5, x.dtype), ((1, 0, 1), (0, 2, 0))), (2, 3)),
    "pad negative": (lambda x: lax.pad(x, jnp.asarray(0.5, x.dtype), ((-1, 1, 0), (2, -1, 1))), (3, 3)),
    "pad by itself": (lambda x: lax.pad(x, x[0, 0], ((1, 1, 0), (0, 0, 1))), (2, 2)),
    "pad edge": (lambda x: jnp.pad(x, 1, mode="edge"), (2, 3)),
    "transpose": (lambda x: x.transpose(2, 0, 1) * constant(2, 2, 3).astype(x.dtype), (2, 3, 2)),
    "reshape": (lambda x: x.reshape(-1), (2, 3)),
    "squeeze, broadcast": (lambda x: jnp.squeeze(x, 1)[:, None] + jnp.zeros((2, 3), x.dtype), (2, 1)),
    "tile": (lambda x: jnp.tile(x, (2, 1)), (2, 3)),
    "gather": (lambda x: x[np.array([2, 0, 2])], (3, 2)),
    "gather 2-d": (lambda x: x[np.array([2, 0]), np.array([1, 1])], (3, 2)),
    "gather, traced": (lambda x: jax.jit(lambda z, i: z[i])(x, jnp.array([1, 1, 0])), (3, 2)),
    "gather, outside": (lambda x: x.at[np.array([0, 7])].get(mode="fill", fill_value=5.0), (3, 2)),
    "gather, clipped": (lambda x: x.at[np.array([0, 7])].get(mode="clip"), (3, 2)),
    "take_along_axis": (lambda x: jnp.take_along_axis(x, np.array([[1], [0]]), 1), (2, 3)),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (1, 0), (2, 2)), (3, 3)),
    "dynamic_index, traced": (lambda x: jax.jit(lambda z, i: z[i])(x, 1), (3, 2)),
    "dynamic_update_slice": (lambda x: lax.dynamic_update_slice(x, 2 * x[:1, :2], (1, 1)), (3, 3)),
    "set": (lambda x: x.at[np.array([0, 2])].set(-x[:2]), (3, 2)),
    "set, known": (lambda x: x.at[1].set(4.0), (3, 2)),
    "add at": (lambda x: x.at[np.array([0, 0, 2])].add(2 * x), (3, 2)),
    "subtract at": (lambda x: x.at[np.array([0, 0, 2])].add(-x).at[1].subtract(2 * x[0]), (3, 2)),
    "multiply at": (lambda x: x.at[np.array([0, 0, 2])].multiply(2 * x).at[np.array([1, 7])].mul(3.0), (3, 1)),
    "multiply known at": (lambda x: jnp.array([2, -1], x.dtype).at[np.array([0, 0, 1])].multiply(x), (3,)),
    "max, min at": (lambda x: x.at[np.array([0, 0])].max(2 * x[1:]).at[1].min(x[2]), (3, 2)),
    "solve": (lambda x: jnp.linalg.solve(3 * jnp.eye(3, dtype=x.dtype) + constant(3, 3).astype(x.dtype), x), (3,)),
    "triangular solve": (lambda x: lax.linalg.triangular_solve(constant(2, 2).astype(x.dtype) + 3 * jnp.eye(2, dtype=x.dtype), x, lower=True, transpose_a=True), (3, 2)),
    "max_pool, transposed": (lambda x: jax.vjp(overlapping, x[0])[1](overlapping(x[1]))[0], (2, 4, 3)),
    "max_pool, pushed": (lambda x: jax.jvp(overlapping, (x[0],), (x[1],))[1], (2, 3, 3)),
    "max_pool of known, transposed": (lambda x: jax.vjp(overlapping, constant(4, 3).astype(x.dtype))[1](x)[0], (2, 2)),
    "angle of a point": (lambda x: jnp.arctan2(x[0], x[1]) + jnp.arctan2(x[1], 2.0), (2, 3)),
    "angle ahead": (lambda x: jnp.arctan2(x[0], x[1] + 8), (2, 3)),
    "absolute values": (lambda x: jnp.abs(lax.complex(x[0], x[1])) - jnp.abs(lax.complex(jnp.ones_like(x[1]), x[1])), (2, 2)),
    "signs": (lambda x: jnp.copysign(x[0], x[1]) + jnp.signbit(x[1] + 1), (2, 3)),
    "remainder by uncertain": (lambda x: jnp.fmod(3 * x[0], x[1]) + lax.rem(x[1], jnp.abs(x[0]) + 2), (2, 3)),
    "integers by uncertain": (lambda x: lax.div(whole(9 * x[0]), whole(x[1])) + (whole(9 * x[0]) // (abs(whole(x[1])) + 3)).astype(x.dtype), (2, 3)),
    "remainder of integers": (lambda x: lax.rem(whole(9 * x[0]), 8 - abs(whole(x[1]))).astype(x.dtype), (2, 3)),
    "nextafter": (lambda x: jnp.nextafter(x[0], x[1]), (2, 3)),
    "bits counted": (lambda x: (lax.population_count(whole(x)) + lax.clz(whole(3 * x))).astype(x.dtype), (3,)),
    "maximum, gradient": (jax.grad(lambda x: x.max(1).sum() + 2 * x.min()), (2, 3)),
    "select, known": (lambda x: jnp.where(np.array([[True], [False]]), x, 3 * x[::-1]), (2, 3)),
    "select of three": (lambda x: lax.select_n(np.array([0, 2, 1, 2]), x, -x, x**2), (4,)),
    "margins": (lambda x: jb.margins(x, 1), (4,)),
    "margins, traced": (lambda x: jax.jit(jb.margins)(x, 2), (4,)),
    "product": (lambda x: x[0] * x[1], (2, 3)),
    "quotient": (lambda x: x[0] / (x[1] + 8), (2, 3)),
    "known / uncertain": (lambda x: 3 / (x - 9), (3,)),
    "max of two": (lambda x: jnp.maximum(x[0], 2 * x[1]), (2, 3)),
    "min of two": (lambda x: jnp.minimum(x[0], x[1]), (2, 3)),
    "max with its mean": (lambda x: jnp.maximum(x, x.mean()), (4,)),
    "where of two": (lambda x: jnp.where(x[0] < x[1], x[0] + 1, x[1]), (2, 3)),
    "where of equal": (lambda x: jnp.where(x[0] != x[1], x[0] + 1, 5.0), (2, 3)),
    "log of a sum": (lambda x: jnp.log(jnp.exp(x).sum()), (4,)),
    "logsumexp": (jax.nn.logsumexp, (4,)),
    "softmax, spelt": (lambda x: jnp.exp(x) / jnp.exp(x).sum(), (4,)),
    "softmax": (jax.nn.softmax, (2, 3)),
    "softmax, masked": (lambda x: jax.nn.softmax(jnp.where(KEPT, x, -jnp.inf), 0), (3, 2)),
    "log_softmax, logsumexp": (lambda x: jax.nn.log_softmax(x, (0, 1)) + jax.nn.logsumexp(x, 0, where=KEPT, keepdims=True), (3, 2)),
    "powers": (lambda x: (x[0] ** 2 + 0.5) ** jnp.tanh(x[1]) - np.array([0.5, 1, 2], x.dtype) ** jnp.tanh(x[0]), (2, 3)),
    "dot with itself": (lambda x: jnp.einsum("bi,bi->b", x, x)[:, None] + x @ x.T, (2, 2)),
    "conv of two": (lambda x: lax.conv(x[:1, None], x[1:, None, :2, :2], (1, 1), "SAME"), (3, 3, 3)),
    "unstack": (lambda x: jnp.stack(jnp.unstack(x)[::-1]), (2, 3)),
    "bits": (lambda x: (jnp.floor(x).astype(int) & 1).astype(x.dtype) + x, (3,)),
    "any, all": (lambda x: jnp.where(jnp.any(x > 0) & jnp.all(x < 2), x, 0.25), (3,)),
    "truth values": (lambda x: jnp.logical_not(x > 0).astype(x.dtype), (3,)),
    "reduce_window_min": (lambda x: lax.reduce_window(x, jnp.inf, lax.min, (2,), (1,), "VALID"), (5,)),
    "sort": (lambda x: jnp.sort(x, 0) + jnp.median(x), (3, 2)),
    "quantiles": (lambda x: jnp.concatenate([jnp.quantile(x, jnp.array([0, 0.3, 0.9], x.dtype), 1).ravel(), jnp.median(x, 0)]), (2, 5)),
    "order": (lambda x: jnp.stack([jnp.argsort(x, 1), *lax.top_k(x, 3)]).astype(x.dtype), (2, 3)),
    "order by two keys": (lambda x: jnp.stack(lax.sort((jnp.round(x[0]), x[1], x[0] - x[1]), num_keys=2)), (2, 3)),
    "winners": (lambda x: jax.nn.one_hot(jnp.argmax(x, 0), 3, dtype=x.dtype) * jnp.argmin(x), (3, 2)),
    "any, all, one of two": (lambda x: jnp.stack([(x > 0).any(0), (x > 0).all(0), (x[0] > 0) ^ (x[1] > 0)]).astype(x.dtype), (2, 3)),
    "max-pool, derivative": (lambda x: jax.jvp(pairs, (x,), (x[::-1],))[1] + jax.jvp(pairs, (constant(4).astype(x.dtype),), (x,))[1], (4,)),
    "max-pool, gradient": (lambda x: jax.vjp(pairs, x)[1](x[1:])[0] + jax.vjp(pairs, constant(4).astype(x.dtype))[1](x[1:])[0], (4,)),
    "layer norm": (lambda x: (x - x.mean()) * lax.rsqrt(x.var() + 1), (4,)),
    "glu": (jax.nn.glu, (6,)),
    "norm": (lambda x: jnp.sqrt(1 + (x**2).sum()), (4,)),
    "entry at an index": (lambda x: x[jnp.argmax(x[:, 0])] + jnp.arange(4, dtype=x.dtype)[jnp.argmin(x[0])], (3, 2)),
    "entries in order": (lambda x: jnp.take_along_axis(x, jnp.argsort(x[::-1], 1), 1)[:, 1:], (2, 3)),
    "written at an index": (lambda x: x.at[jnp.argmax(x)].add(2 * x[0]).at[jnp.argmin(x)].set(1.0), (3,)),
    "total order": (lambda x: jnp.stack([p.bind(x, y) for p in ORDERS for y in (x[::-1], jnp.array([np.nan, 0, -1], x.dtype))]).astype(x.dtype), (3,)),
    "place in a table": (lambda x: jnp.searchsorted(np.array([-2, -1, 0.5, 3], x.dtype), x).astype(x.dtype), (3,)),
    "value in a table": (lambda x: jnp.interp(x, np.array([-2, -1, 0.5, 3], x.dtype), np.array([1, -1, 2, 0], x.dtype)), (3,)),
    "product in a wider type": (lambda x: lax.mul(jnp.floor(x[0]).astype("int8"), jnp.int8(99), out_dtype="int32").astype(x.dtype), (2, 2)),
    "cast": (lambda x: x.astype(jnp.float32).astype(x.dtype), (3,)),
    "scalar": (lambda x: x * 2 - 1, ()),
    "relu of a scalar": (jax.nn.relu, ()),
    "known scan inside": (lambda x: x * lax.scan(lambda c, _: (c * 2, c), jnp.ones((), x.dtype), None, 3)[0], (3,)),
    "known sort inside": (lambda x: x + jnp.sort(constant(3).astype(x.dtype)), (3,)),
    "known cond inside": (lambda x: x * lax.cond(True, jnp.sin, jnp.cos, jnp.asarray(0.3, x.dtype)), (3,)),
    "known custom_jvp inside": (lambda x: x * jax.nn.relu6(constant(3).astype(x.dtype)), (3,)),
    "gradient inside": (jax.grad(lambda z: (z * z + z * jnp.roll(z, 1)).sum()), (3,)),
    "remat": (jax.checkpoint(lambda x: jax.nn.relu(x) - x), (3,)),
    "linalg, known": (lambda x: jnp.linalg.inv(2 * jnp.eye(3, dtype=x.dtype)) @ x, (3,)),
    "tuple": (lambda x: jnp.stack(jnp.split(x, 2)[::-1]), (4,)),
}  # fmt: skip


def chained(fn, shape):
    """An affine map, ``fn``, and a scaling of mixed signs."""

    def both(x):
        mixed = 0.5 * x + 0.25 * x[::-1] if shape else 0.5 * x
        out = fn(mixed)
        return out * np.resize([1.0, -2.0, 0.5], out.shape).astype(x.dtype)

    return both


def boxes_around(shape, dtype) -> jb.Interval:
    """Degenerate, tiny, moderate, lopsided, large and huge boxes ``[6, *shape]``."""
    rng = np.random.default_rng(2)
    center = rng.normal(size=(6, *shape))
    radius = np.array([0, 1e-5, 0.1, 1, 4, 300]).reshape(6, *[1] * len(shape)) * rng.uniform(
        size=center.shape
    )
    return box(center - radius, center + radius * rng.uniform(size=center.shape), dtype)


# A cast to float32 rounds: it has no case in float64.
@pytest.mark.parametrize(
    ("name", "dtype"), sorted({*itertools.product(SHAPED, DTYPES)} - {("cast", "float64")})
)
def test_functions_of_arrays(name, dtype):
    fn, shape = SHAPED[name]
    walks = tuple(WALKS) if dtype == "float32" else ("crown adaptive",)
    check(chained(fn, shape), boxes_around(shape, dtype), dtype, walks)


def planes_of_a_maximum(region, kind):
    """Slopes and offsets of the planes of ``max(z)``."""
    lines = jb.linear_bounds(jnp.max, region, method=jb.crown_ibp, relaxation=kind)
    return (lines.lower_coeffs[0], lines.lower_offset), (lines.upper_coeffs[0], lines.upper_offset)


def test_planes_of_a_maximum():
    """CNN-Cert's by an example; the others stay in the interval, and have no more volume."""
    lower, upper = planes_of_a_maximum(box([0, 1, -1], [2, 3, 0.5]), "parallel")
    np.testing.assert_allclose([*lower[0], lower[1]], [0.25, 0.75, 0, 0], atol=1e-6)
    np.testing.assert_allclose([*upper[0], upper[1]], [0.25, 0.75, 0, 0.75], atol=1e-6)

    l, u = np.sort(np.random.default_rng(0).normal(size=(2, 40, 4)), axis=0)
    gap = {}
    for kind in ("parallel", "adaptive", "tight"):
        find = jax.vmap(functools.partial(planes_of_a_maximum, kind=kind))
        lower, upper = jax.tree.map(np.asarray, find(box(l, u)))
        gap[kind] = ((upper[0] - lower[0]) * (l + u) / 2).sum(1) + upper[1] - lower[1]
        least = np.where(lower[0] > 0, l, u) * lower[0]
        greatest = np.where(upper[0] > 0, u, l) * upper[0]
        if kind != "parallel":
            assert (greatest.sum(1) + upper[1] <= u.max(1) + 1e-5).all()
        if kind == "tight":
            assert (least.sum(1) + lower[1] >= l.max(1) - 1e-5).all()
    assert (gap["adaptive"] <= gap["parallel"] + 1e-5).all()
    assert gap["adaptive"].mean() < 0.9 * gap["parallel"].mean()


def test_entries_in_a_sure_order():
    """The median is then an entry itself: also where `jnp.median` would fill in a NaN."""
    fn = lambda x: jnp.median(x + np.array([0, -9, 9, -20, 20], "float32")) - x[0]
    for bounds in by_every(fn, box(-np.ones(5), np.ones(5)), methods=LINEAR):
        np.testing.assert_allclose([bounds.lower, bounds.upper], 0, atol=1e-5)


def test_a_window_of_padding():
    """Its maximum is -inf; the others are not spoilt."""
    fn = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), ((4, 0),))[1:]
    for bounds in by_every(lambda x: fn(x)[1:] - x[:2], box([0, 1, 2, 3.0], [1, 3, 3, 4.0])):
        assert np.isfinite([bounds.lower, bounds.upper]).all()


# ---------------------------------------------------------------- completeness


def test_every_rule_has_a_case():
    seen = set()
    for fn, intervals in UNARY.values():
        seen |= primitives(fn, nth(batch(np.array(intervals, float), "float32"), 0))
    for fn, shape in SHAPED.values():
        seen |= primitives(fn, box(np.zeros(shape), np.ones(shape)))
    assert {
        str(p) for table in (interval_rules, linear_rules, relaxations) for p in table.keys() - seen
    } == set()


# What rules take of their primitives' parameters: looked at, one by one. What says how a value is made, not
# which (a sharding, a precision), changes no bound; all else goes to the primitive itself, or is read.
PARAMETERS = {
    "new_dtype": "bitcast_convert_type",
    "": "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i1e ceil clamp copy cosh digamma div dynamic_update_slice eq"
        " eq_to erf erf_inv erfc floor ge gt is_finite le le_to lgamma lt lt_to max min ne neg not or pow rem select_n sign"
        " sinh square stop_gradient sub xor",
    "accuracy": "cbrt cos exp exp2 expm1 log log1p logistic rsqrt sin sqrt tan tanh",
    "axes out_sharding": "reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum",
    "axes index_dtype": "argmax argmin",
    "axis": "stack unstack",
    "axis k": "top_k",
    "axis reverse": "cumlogsumexp cummax cummin cumprod cumsum",
    "axis sizes": "split",
    "base_dilation padding window_dilation window_dimensions window_strides": "reduce_window_max reduce_window_min reduce_window_sum",
    "base_dilation padding select_prim window_dilation window_dimensions window_strides": "select_and_gather_add",
    "padding select_prim window_dimensions window_strides": "select_and_scatter_add",
    "batch_group_count dimension_numbers feature_group_count lhs_dilation out_sharding padding precision"
    " preferred_element_type rhs_dilation window_strides": "conv_general_dilated",
    "branches": "cond",
    "broadcast_dimensions shape sharding": "broadcast_in_dim",
    "conjugate_a left_side lower transpose_a unit_diagonal": "triangular_solve",
    "const_lengths jaxprs": "custom_linear_solve",
    "dimension": "concatenate",
    "dimension is_stable num_keys": "sort",
    "dimension_numbers fill_value indices_are_sorted mode slice_sizes unique_indices": "gather",
    "dimension_numbers indices_are_sorted mode unique_indices update_consts update_jaxpr":
        "scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub",
    "dimension_numbers out_sharding precision preferred_element_type": "dot_general",
    "dimensions": "rev squeeze",
    "dimensions new_sizes sharding": "reshape",
    "exponent_bits mantissa_bits": "reduce_precision",
    "ft_in jaxpr length num_carry num_consts reverse unroll": "scan",
    "limit_indices start_indices strides": "slice",
    "name": "name",
    "new_dtype sharding weak_type": "convert_element_type",
    "out_dtype": "mul",
    "padding_config": "pad",
    "permutation": "transpose",
    "reps": "tile",
    "rounding_method": "round",
    "slice_sizes": "dynamic_slice",
    "y": "integer_pow",
}  # fmt: skip


def test_every_parameter_was_looked_at():
    """A new one may change what a primitive computes: look at its rules, then add it."""
    looked_at = {name: set(p.split()) for p, names in PARAMETERS.items() for name in names.split()}
    found = {}

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            found.setdefault(eqn.primitive.name, set()).update(eqn.params)
            for body in jex.jaxprs_in_params(eqn.params):
                look(body)

    for fn, shape in [(fn, (3,)) for fn, _ in UNARY.values()] + list(SHAPED.values()):
        look(jax.make_jaxpr(fn)(jnp.zeros(shape)).jaxpr)
    tables = (interval_rules, linear_rules, relaxations, REWRITES)
    known = {p.name for table in tables for p in table if not isinstance(p, Activation)}
    known |= {*CONTROL, *INDEXED} - {"while"}
    assert known - found.keys() == set()
    new = {name: found[name] - looked_at.get(name, set()) for name in known}
    assert {name: params for name, params in new.items() if params} == {}
