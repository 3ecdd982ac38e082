"""Elementwise functions registered from outside: sound, as tight as the library's own, refused if wrong."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy, each_by_numpy
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from oracle import METHODS, assert_contains, box, precision, samples
from test_rules import batch

import jaxbound as jb
from jaxbound import reference
from jaxbound._locality.receptive import crop
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_rules
from jaxbound._rules.relaxations import relaxations

TURN, BEND = 1.545127257992545, 2.7814929353479427


def primitive(name, fn, slope=None, **options):
    """A primitive as a user would make it, with a rule for whatever JAX does to it."""
    p = Primitive(name)
    p.def_impl(fn)
    p.def_abstract_eval(lambda x, **_: x)
    mlir.register_lowering(p, mlir.lower_fun(fn, multiple_results=False))
    batching.defvectorized(p)
    if slope is not None:
        ad.defjvp(p, lambda t, x, **_: t * slope(x))
    return p, options


def hat(x):
    return jnp.maximum(1 - jnp.abs(x), 0)


PRIMITIVES = {
    "i1e": (
        lax.bessel_i1e_p,
        {"curvature": "concave", "bends": (-BEND, 0, BEND), "turns": (-TURN, TURN)},
    ),
    "i0e": (lax.bessel_i0e_p, {"curvature": "convex", "bends": (0, 0), "turns": (0,)}),
    "i0e, no lines": (lax.bessel_i0e_p, {"turns": (0,)}),
    "swish": primitive("my_exp", lambda x: jnp.exp(-x), lambda x: -jnp.exp(-x), curvature="convex"),
    "sigmoid": primitive(
        "my_sigmoid",
        lambda x: 1 / (1 + jnp.exp(1 - x)),
        lambda x: jax.nn.sigmoid(x - 1) * jax.nn.sigmoid(1 - x),
        curvature="convex",
        bends=(1,),
    ),
    "gauss": primitive(
        "gauss",
        lambda x: jnp.exp(-x * x),
        lambda x: -2 * x * jnp.exp(-x * x),
        curvature="convex",
        bends=(-(0.5**0.5), 0.5**0.5),
        turns=(0,),
    ),
    "hat": primitive("hat", hat, curvature="straight", kinks=(-1, 0, 1), turns=(0,)),
    "root": primitive(
        "root", lambda x: jnp.sqrt(1 - x), lambda x: -0.5 / jnp.sqrt(1 - x), curvature="concave",
        domain=(-math.inf, 1),
    ),
}  # fmt: skip
INTERVALS = np.array([
    (-1, 1), (0, 0), (0.5, 0.5), (-2, -2), (-3, 0.2), (-0.1, 4), (0.3, 0.8), (-0.9, -0.8), (2, 9), (-9, -2),
    (-30, 30), (-1, 0), (0, 1), (-1, -1), (1e-7, 3e-7), (-1e-7, 1e-7), (-1.5, -0.5), (-2.7, 2.8),
])  # fmt: skip


@pytest.fixture(autouse=True)
def tables():
    """The tables as they are after a test, undone."""
    all_tables = (ELEMENTWISE, interval_rules, linear_rules, relaxations)
    saved = [(table, dict(table)) for table in all_tables]
    yield
    for table, old in saved:
        table.clear()
        table.update(old)


def register(name):
    p, options = PRIMITIVES[name]
    jb.register_elementwise(p, **options)
    return p


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_bounds_hold(name, dtype):
    """At samples, corners and ends: of points, of narrow and wide boxes, within the domain and across its end."""
    with precision(dtype):
        p, boxes = register(name), batch(INTERVALS, dtype)
        mix = np.array([[1, -0.5, 0.25], [0.5, 1, -1], [0, 2, 1]], dtype) / 4
        fn = lambda x: mix @ p.bind(mix @ x) + p.bind(x)
        tight = [functools.partial(jb.crown, relaxation="tight")] * (name == "hat")
        methods = (jb.ibp, jb.lbp, jb.crown, *tight)
        found = each_by_numpy(lambda x: [method(fn, x) for method in methods])(boxes)
        at = jax.jit(jax.vmap(fn))
        for i in range(len(INTERVALS)):
            here = jax.tree.map(lambda end, i=i: end[i], boxes)
            values = np.asarray(at(samples(here).astype(dtype)), float)
            size = 1 + np.nanmax(abs(values[np.isfinite(values)]), initial=0)
            for bounds in found:
                known = np.isfinite(values).all(0)
                low, high = (
                    np.where(known, end[i], s * np.inf)
                    for end, s in ((bounds.lower, -1), (bounds.upper, 1))
                )
                room = (2e-5 if dtype == "float32" else 1e-12) * size
                assert_contains(
                    jb.Interval(low, high), np.where(known, values, 0), room, f"{name} {i}"
                )


def test_the_image_is_exact():
    p = register("gauss")
    found = by_numpy(functools.partial(jb.ibp, p.bind))(box([-1, 0.5, -2.0], [2, 1, -1.0]))
    np.testing.assert_allclose(found.lower, np.exp([-4, -1, -4]), rtol=1e-6)
    np.testing.assert_allclose(found.upper, np.exp([0, -0.25, -1]), rtol=1e-6)
    root = register("root")
    assert (np.isinf(jb.ibp(root.bind, box([0.0], [1.5])).upper)).all()


@pytest.mark.parametrize("method", METHODS)
def test_as_tight_as_the_library(method):
    """A user's tanh is bounded as tanh; its gradients are as finite."""
    p, said = primitive(
        "my_tanh", jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2, curvature="convex", bends=(0,)
    )
    jb.register_elementwise(p, **said)
    weights = jax.random.normal(jax.random.key(0), (2, 4, 4))
    net = lambda act: lambda x: weights[1] @ act(weights[0] @ act(x))
    region = jb.linf_ball(jnp.array([0.1, -2, 0.5, 0]), 0.7)
    mine, theirs = (
        jax.jit(lambda r, act=act: method(net(act), r))(region) for act in (p.bind, jnp.tanh)
    )
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def convolutional(act):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)) / 4, "float32")

    def net(x):
        for _ in range(2):
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = act(x)
        return x

    return net


def test_windows_of_convolutions():
    """Neurons walk back through their own windows, and only as far as they must."""
    p = register("gauss")
    region = jb.linf_ball(jnp.full((1, 16, 16, 2), 0.3), 0.02)
    graph = jb.trace(convolutional(p.bind), region)
    before = [eqn for eqn in graph.equations if eqn.primitive is p][-1].inputs[0]
    found = crop(graph, before)
    assert found is not None and max(found.graph.inputs[0].shape) <= 5
    bounds = jax.jit(functools.partial(jb.crown, convolutional(p.bind)))(region)
    values = jax.vmap(convolutional(p.bind))(samples(region, 20).astype("float32"))
    assert_contains(bounds, np.asarray(values, float), 1e-5, "convolutions")


def test_what_is_decided():
    """Elements on one straight piece need no walk; exact references take the kinks."""
    p = register("hat")
    region = box([-3.0, 0.1, -0.5], [-2.0, 0.9, 0.5])
    mix = jnp.array([[1, 1, 0], [0, 1, 0], [0, 0, 1.0]])
    fn = lambda x: p.bind(mix @ (mix @ x)) @ jnp.array([1, 2, -1.0])
    (count,) = jb.undecided(fn, region).values()
    assert 0 < count < 3
    exact, bounds = reference.milp(fn, region), jb.crown(fn, region)
    assert bounds.lower <= exact.lower + 1e-5 and exact.upper <= bounds.upper + 1e-5
    values = jax.vmap(fn)(samples(region).astype("float32"))
    assert_contains(exact, np.asarray(values, float), 1e-5, "milp")


WRONG = {
    "turns is \\(\\)": {"curvature": "convex", "bends": (-(0.5**0.5), 0.5**0.5)},
    "curvature is 'convex', bends \\(\\)": {"curvature": "convex", "turns": (0,)},
    "curvature is 'concave'": {"curvature": "concave", "bends": (-0.7, 0.7), "turns": (0,)},
    "curvature is 'straight'": {"curvature": "straight", "kinks": (0,), "turns": (0,)},
    "curvature is 'flat'; expected one of 'convex'": {"curvature": "flat"},
    "bends is \\(1.0, 0.0\\); expected increasing": {"curvature": "convex", "bends": (1, 0)},
    "bends is \\(0.0,\\); expected none": {"bends": (0,)},
    "kinks is \\(0.0,\\); expected some if": {"kinks": (0,)},
    "kinks is \\(\\); expected some if": {"curvature": "straight"},
    "turns is \\(inf,\\); expected finite": {"turns": (math.inf,)},
    "domain is \\(1.0, 0.0\\); expected two": {"domain": (1, 0)},
    "fails on one array with params=": {"params": {"unknown": 3}},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_assertion_is_refused(message):
    p, _ = PRIMITIVES["gauss"]
    with pytest.raises(ValueError, match=message):
        jb.register_elementwise(p, **WRONG[message])
    assert p not in ELEMENTWISE and p not in interval_rules and p not in relaxations


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match=r"domain is .*root is nan at"):
        jb.register_elementwise(PRIMITIVES["root"][0], curvature="concave")
    wrong, said = primitive("bad", jnp.exp, lambda x: 0.9 * jnp.exp(x), curvature="convex")
    with pytest.raises(ValueError, match=r"curvature is 'convex'.* of slope"):
        jb.register_elementwise(wrong, **said)
    with pytest.raises(ValueError, match="add fails on one array"):
        jb.register_elementwise(lax.add_p)
    with pytest.raises(TypeError, match=r"primitive is .*expected a jax.extend.core.Primitive"):
        jb.register_elementwise(jnp.tanh)


def test_lines_end_where_the_derivative_is_lost():
    """JAX's slope of ``bessel_i1e`` cancels far out: there, the interval takes over."""
    p, far = register("i1e"), np.float32(10.0) ** np.arange(1, 9)
    lower, upper = (np.concatenate([far * a, -far * b]) for a, b in ((0.5, 2), (2, 0.5)))
    linear = by_numpy(lambda x: jb.linear_bounds(p.bind, x))(jb.Interval(lower, upper))
    slopes = [np.diag(c).astype(float) for c in (*linear.lower_coeffs, *linear.upper_coeffs)]
    assert (slopes[0][:2] != 0).all() and (slopes[0][-2:] == 0).all()
    z = lower + (upper - lower) * np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    below, above = (
        c * z + o for c, o in zip(slopes, (linear.lower_offset, linear.upper_offset), strict=True)
    )
    value = np.asarray(p.bind(z), float)
    slack = 1e-5 * abs(value)
    assert (below <= value + slack).all() and (value - slack <= above).all()
