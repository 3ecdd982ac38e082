# ruff: noqa: E501 -- a case is one line
"""Bad input is refused where it enters, by name; unsupported programs before any bound is computed."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import METHODS

import jaxbound as jb
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_rules
from jaxbound._rules.relaxations import relaxations
from jaxbound._walks import intervals

BOX = jb.linf_ball(jnp.zeros(2), 1.0)
INTEGERS = jnp.arange(2)


def crown(*args, fn=lambda *xs: xs[0], **options):
    return jb.crown(fn, *args, **options)


BAD = [  # call, error, what the message says
    (lambda: jb.linf_ball(jnp.zeros(2), -0.1), ValueError, "eps is -0.1"),
    (lambda: jb.linf_ball(jnp.zeros(2), jnp.array([0.1, -3.0])), ValueError, "eps is -3.0"),
    (lambda: jb.linf_ball(jnp.zeros(2), jnp.nan), ValueError, "eps is nan"),
    (lambda: jb.linf_ball(jnp.zeros(2), jnp.ones(3)), ValueError, r"eps of shape \(3,\)"),
    (lambda: jb.linf_ball(jnp.zeros(2), jnp.ones((2, 2))), ValueError, r"eps of shape \(2, 2\)"),
    (lambda: jb.linf_ball(INTEGERS, 0.1), TypeError, "x is int32"),
    (lambda: jb.linf_ball(jnp.zeros(2), 0.1, clip=(0.5, 1.0)), ValueError, r"clip=\(0.5, 1.0\)"),
    (lambda: jb.linf_ball(jnp.zeros(2), 0.1, clip=(1.0, 0.0)), ValueError, "clip="),
    (lambda: crown(jb.Interval(jnp.ones(2), jnp.zeros(2))), ValueError, r"args\[0\].lower > args\[0\].upper at \(0,\): 1.0 > 0.0"),
    (lambda: crown({"a": jb.Interval(jnp.ones(()), jnp.zeros(()))}), ValueError, r"args\[0\]\['a'\].lower >"),
    (lambda: crown(BOX, jb.Interval(jnp.full(2, jnp.nan), jnp.ones(2))), ValueError, r"args\[1\] contains NaN"),
    (lambda: crown(jb.Interval(jnp.zeros(2), jnp.ones(3))), ValueError, r"args\[0\].lower has shape \(2,\)"),
    (lambda: crown(jb.Interval(INTEGERS, INTEGERS)), TypeError, r"args\[0\].lower is int32"),
    (lambda: crown(jb.Interval(jnp.zeros(2), jnp.zeros(2, "float16"))), TypeError, r"args\[0\].lower is float32 but"),
    (lambda: crown(jb.LpBall(jnp.zeros(2), -1.0, 2)), ValueError, r"args\[0\].radius is -1.0"),
    (lambda: crown(jb.LpBall(jnp.zeros(2), jnp.ones(2), 2)), ValueError, r"args\[0\].radius has shape \(2,\)"),
    (lambda: crown(jb.LpBall(jnp.zeros(2), 1.0, 0.5)), ValueError, r"args\[0\].p is 0.5"),
    (lambda: crown(jb.LpBall(jnp.zeros(2), 1.0, "2")), ValueError, r"args\[0\].p is '2'"),
    (lambda: crown(jb.LpBall(jnp.full(2, jnp.nan), 1.0, 2)), ValueError, r"args\[0\].center contains NaN"),
    (lambda: crown(jb.LpBall(INTEGERS, 1.0, 2)), TypeError, r"args\[0\].center is int32"),
    (lambda: crown(jb.LpBall(jnp.zeros(2), 1.0, 2, (0, 1))), ValueError, r"args\[0\].clip is \(0, 1\)"),
    (lambda: crown(jb.LpBall(jnp.zeros(3), 1.0, 2, BOX)), ValueError, r"args\[0\].clip is Interval.*of shape \(3,\)"),
    (lambda: crown(jb.LpBall(jnp.full(2, 1.5), 1.0, 2, BOX)), ValueError, r"args\[0\].center does not lie in args\[0\].clip"),
    (lambda: jb.lp_ball(jnp.zeros(2), -0.1, 2), ValueError, "eps is -0.1"),
    (lambda: jb.lp_ball(jnp.zeros(2), jnp.ones(2), 2), ValueError, r"eps has shape \(2,\)"),
    (lambda: jb.lp_ball(jnp.zeros(2), 0.1, 0.5), ValueError, "p is 0.5"),
    (lambda: jb.lp_ball(jnp.zeros(2), 0.1, 1, clip=(0.5, 1.0)), ValueError, r"clip=\(0.5, 1.0\) does not hold all of x"),
    (lambda: jb.lp_ball(INTEGERS, 0.1, 1), TypeError, "x is int32"),
    (lambda: crown(jnp.zeros(2)), ValueError, "no argument is uncertain"),
    (lambda: crown(), ValueError, "no argument is uncertain"),
    (lambda: crown(BOX, relaxation="adapt"), ValueError, "relaxation is 'adapt'; expected one of 'adaptive', 'tight'"),
    (lambda: crown(BOX, relax="tight"), TypeError, "unexpected keyword argument 'relax'"),
    (lambda: crown(BOX, chunk_size=0), ValueError, "chunk_size is 0"),
    (lambda: crown(BOX, chunk_size=1.5), ValueError, "chunk_size is 1.5"),
    (lambda: crown(BOX, fn=jax.nn.relu, intermediates={"nowhere": BOX}), ValueError, "intermediates has 'nowhere'; expected among 'input:0'"),
    (lambda: crown(BOX, fn=jax.nn.relu, intermediates={"input:0": jb.linf_ball(jnp.zeros(3), 1.0)}), ValueError, r"intermediates\['input:0'\] has shape \(3,\)"),
    (lambda: jb.linear_bounds(jnp.sum, BOX, method="crown"), ValueError, "method is 'crown'"),
    (lambda: jb.linear_bounds(jnp.sum, BOX, method=jb.ibp), ValueError, "ibp has no linear bounds"),
    (lambda: jb.intermediate_bounds(jnp.sum, BOX, method=abs), ValueError, "expected one of the functions"),
    (lambda: jb.concretize(jb.linear_bounds(jnp.sum, BOX)), ValueError, "1 uncertain inputs, but 0 regions"),
    (lambda: jb.concretize(jb.linear_bounds(jnp.sum, BOX), jb.linf_ball(jnp.zeros(3), 1.0)), ValueError, r"regions\[0\] of shape \(3,\)"),
    (lambda: jb.margins(jnp.zeros(1), 0), ValueError, "logits has shape"),
    (lambda: jb.margins(jnp.zeros((2, 3)), 0), ValueError, "a batch is jax.vmap"),
    (lambda: jb.margins(jnp.zeros(3), 3), ValueError, "label is 3"),
    (lambda: jb.margins(jnp.zeros(3), -1), ValueError, "label is -1"),
    (lambda: jb.margins(jnp.zeros(3), 1.0), TypeError, "label has"),
    (lambda: jb.verified(jnp.array([1.0, jnp.nan])), ValueError, "1 NaN"),
    (lambda: jb.param_ramp(INTEGERS, 1.0), TypeError, "x is int32"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, message", BAD, ids=[message for _, _, message in BAD])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_checks_its_region(method):
    with pytest.raises(ValueError, match=r"args\[0\].lower >"):
        method(jnp.sum, jb.Interval(jnp.ones(2), jnp.zeros(2)))
    with pytest.raises(ValueError, match="no argument is uncertain"):
        method(jnp.sum, jnp.ones(2))


class Strange(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="first")(x)
        x = nn.Dense(2, name="second")(lax.bessel_i0e(x)) + lax.zeta(x[:2], jnp.ones(2))
        return x + lax.bessel_i0e(x)


@pytest.mark.parametrize("method", METHODS)
def test_unsupported_primitives_are_listed(method, monkeypatch):
    def never(*_):
        raise AssertionError("a bound was computed")

    monkeypatch.setattr(intervals, "interval_step", never)
    model = Strange()
    variables = model.init(jax.random.key(0), jnp.zeros(2))
    with pytest.raises(jb.UnsupportedPrimitiveError) as caught:
        method(lambda x: model.apply(variables, x), BOX)
    assert caught.value.primitives == ("bessel_i0e", "zeta")
    message = str(caught.value)
    assert "register_interval_rule" in message and "in layer Strange" in message
    lines = re.findall(r"(\w+) with uncertain operand 0 .*?(\w+\.py):\d+", message)
    assert set(lines) == {
        ("bessel_i0e", "test_errors.py"),
        ("zeta", "test_errors.py"),
    }


def test_an_operand_that_must_be_known():
    """Beyond some, where writes go: each of them is a choice of its own."""
    reason = "scatter-add with uncertain operands 1, 2 .*more than 64 uncertain indices"
    with pytest.raises(jb.UnsupportedPrimitiveError, match=reason):
        jb.ibp(lambda x: jnp.zeros(3).at[x.astype(int)].add(x), jb.linf_ball(jnp.zeros(65), 1.0))


def test_bodies_are_no_sums():
    """A reduction by a function of the user's is none that a rule knows."""
    body = lambda a, b: a * b + 1
    with pytest.raises(jb.UnsupportedPrimitiveError, match="reduce with uncertain"):
        jb.ibp(lambda x: lax.reduce(x, np.float32(0), body, (0,)), BOX)
    with pytest.raises(jb.UnsupportedPrimitiveError, match="reduce_window with uncertain"):
        jb.ibp(lambda x: lax.reduce_window(x, np.float32(0), body, (2,), (1,), "VALID"), BOX)


@pytest.mark.parametrize("method", METHODS)
def test_known_values_need_no_rule(method):
    def fn(x, k):
        scale = lax.scan(lambda c, _: (jnp.sin(c), None), k, None, 3)[0].sum()
        order = jnp.argsort(k)
        branch = lax.cond(k[0] > 0, jnp.cos, lambda z: z, k)
        loop = lax.fori_loop(0, 2, lambda i, z: jnp.sort(z) * i, k)
        return x[order] * scale + branch + jax.nn.relu6(loop)

    k = jnp.array([0.3, -0.2])
    found = jax.jit(lambda b, k: method(fn, b, k))(BOX, k)
    low, high = fn(BOX.lower, k), fn(BOX.upper, k)
    np.testing.assert_allclose(found.lower, jnp.minimum(low, high), atol=1e-6)
    np.testing.assert_allclose(found.upper, jnp.maximum(low, high), atol=1e-6)


@pytest.fixture
def tables():
    """The tables, and afterwards as they were."""
    tables = (ELEMENTWISE, interval_rules, linear_rules, relaxations)
    saved = [(table, dict(table)) for table in tables]
    for table, _ in saved:
        for primitive in (
            lax.bessel_i0e_p,
            lax.real_p,
        ):  # the documentation's examples register them
            table.pop(primitive, None)
    yield
    for table, old in saved:
        table.clear()
        table.update(old)


def test_rules_from_outside(tables):
    """``exp(-|x|) I0(x)`` falls with |x| and is convex on either side of 0."""
    even = lax.bessel_i0e

    @jb.register_interval_rule(lax.bessel_i0e_p, operands=(0,))
    def interval(x, **_):
        nearest, farthest = jnp.clip(0.0, x.lower, x.upper), jnp.maximum(-x.lower, x.upper)
        return jb.Interval(even(farthest), even(nearest))

    fn = lambda x: even(x + 2) + x
    loose = jb.crown(fn, BOX)

    @jb.register_relaxation(lax.bessel_i0e_p)
    def lines(x, *, image, choice, **_):
        value, slope = jax.jvp(even, (x.center,), (jnp.ones_like(x.center),))
        right = x.lower >= 0
        tangent = lambda z: jnp.where(right, value + slope * (z - x.center), image.lower)
        return jb.Relaxation(tangent, lambda z: image.upper + 0 * z)

    tight = jb.crown(fn, BOX)
    assert (tight.lower > loose.lower + 1e-2).all() and (tight.upper >= fn(BOX.upper) - 1e-6).all()
    for method in METHODS:
        assert (method(fn, BOX).lower <= fn(jnp.zeros(()))).all()


def test_a_linear_rule_from_outside(tables):
    jb.register_linear_rule(lax.real_p, sums="nothing")
    assert lax.real_p in linear_rules and lax.real_p not in interval_rules
    jb.register_linear_rule(lax.real_p, sums="nothing", falls=())
    assert interval_rules[lax.real_p].exact


@pytest.mark.parametrize("method", [jb.crown, jb.lbp])
def test_coefficients_that_do_not_fit(method):
    """Known before anything is allocated: 2**20 outputs of 2**20 inputs."""
    box = jb.linf_ball(jnp.zeros(2**20), 0.1)
    with pytest.raises(MemoryError, match=r"1048576 outputs.*take 8,192.0 GiB, but the device has"):
        jax.eval_shape(lambda box: jb.linear_bounds(jnp.tanh, box, method=method), box)


def quadratic(x, *, image, choice, **_):
    return jb.Relaxation(lambda z: z * z - 2, lambda z: image.upper + 0 * z)


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_relaxation_that_is_not_affine(method, tables):
    """Believed, it would give an empty interval."""
    jb.register_interval_rule(lax.bessel_i0e_p)(
        lambda x, **_: jb.Interval(0 * x.lower, 1 + 0 * x.upper)
    )
    jb.register_relaxation(lax.bessel_i0e_p)(quadratic)
    with pytest.raises(
        ValueError,
        match="registered for bessel_i0e is not affine: its lower function applies square",
    ):
        method(lambda x: lax.bessel_i0e(x) + x, BOX)
