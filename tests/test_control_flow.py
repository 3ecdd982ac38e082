# ruff: noqa: E501 -- a case is one line
"""Programs with structure: loops, branches, recurrent cells, other number types, derivatives."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from interpreter import by_numpy
from jax import lax
from jax.custom_batching import custom_vmap
from oracle import METHODS, assert_contains, box, by_every, once, samples, values

import jaxbound as jb

W = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
ROWS = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
BOX = jb.linf_ball(jnp.array([0.3, -0.2, 0.5]), 0.3)
CONTROL = {"scan", "while", "cond"}


def primitives(fn, *args):
    return {str(eqn.primitive) for eqn in jb.trace(fn, *args).equations if eqn.moving}


def cell(carry, row):
    """Carries and rows that are trees."""
    state, count = carry
    state = jax.nn.relu(W.astype(state.dtype) @ state + row["x"] * count)
    return (state, count + 1), {"sum": state.sum(), "state": state}


def scanned(x, reverse=False):
    rows = {"x": ROWS.astype(x.dtype)}
    carry, out = lax.scan(cell, (x, jnp.ones((), x.dtype)), rows, reverse=reverse, unroll=2)
    return carry[0] + out["state"].sum(0) * out["sum"][1] + out["sum"][:3]


def while_known(x):
    """The condition reads a part of the carry that constants make."""
    go = lambda s: (s[0] < 3) & (s[1].sum() > 0)
    step = lambda s: (s[0] + 1, s[1] * 0.5, jax.nn.relu(s[2] - s[1]))
    return lax.while_loop(go, step, (0, jnp.ones(3, x.dtype), x))[2]


def branch_by_step(i, x):
    return lax.cond(i % 2 == 0, lambda z: 2 * z, lambda z: jax.nn.relu(z) - 1, x)


@custom_vmap
def doubled(x):
    return x * 2


doubled.def_vmap(lambda size, batched, x: (x * 2, True))

PROGRAMS = {
    "scan": scanned,
    "scan in reverse": functools.partial(scanned, reverse=True),
    "scan without rows": lambda x: lax.scan(lambda c, _: (jax.nn.relu(c) - 1, None), 4 * x, None, 3)[0],
    "scan of no steps": lambda x: (lambda c, y: c + y.sum(0))(*lax.scan(lambda c, _: (2 * c, 3 * c), x, None, 0)),
    "scan over an uncertain value": lambda x: lax.scan(lambda c, z: (c * z, c + z), 2.0 * x[0], x)[1],
    "scan in scan": lambda x: lax.scan(lambda c, _: (lax.scan(lambda d, r: (jax.nn.relu(d - r), d), c, ROWS.astype(x.dtype))[0] + 1, None), x, None, 2)[0],
    "map": lambda x: lax.map(lambda z: z * x, x),
    "associative_scan": lambda x: lax.associative_scan(jnp.add, x),
    "while": while_known,
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, c: c[::-1] * i + c, x),
    "fori_loop with branches": lambda x: lax.fori_loop(0, 4, branch_by_step, x),
    "constant branch": lambda x: lax.cond(len(x) > 2, jax.nn.relu, jnp.sin, x),
    "uncertain branch": lambda x: lax.cond(x.sum() > 0.5, lambda z: 2 * z, lambda z: z - 1, x),
    "uncertain switch": lambda x: lax.switch((4 * x.sum()).astype(int) - 1, [jax.nn.relu, lambda z: z - 1, lambda z: 0 * z + 3], x),
    "nested": jax.jit(lambda x: lax.cond(x[0] > x[1], jax.checkpoint(scanned), lambda z: while_known(doubled(z)), x)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_control_flow(name):
    """It goes; the program stays the same, and its bounds contain it."""
    fn = PROGRAMS[name]
    graph, points = jb.trace(fn, BOX), samples(BOX, 50)
    assert not {str(eqn.primitive) for eqn in graph.equations} & CONTROL
    found = values(fn, points)
    np.testing.assert_allclose(jax.vmap(graph.evaluate)(points.astype("float32")), found, atol=1e-4)
    assert_contains(jb.ibp(fn, BOX), found, 1e-4, "ibp")


@pytest.mark.parametrize("name", ["fori_loop with branches", "uncertain switch"])
def test_control_flow_by_every_method(name):
    fn, found = PROGRAMS[name], values(PROGRAMS[name], samples(BOX))
    for method, bounds in zip(METHODS, by_every(fn, BOX), strict=True):
        assert_contains(bounds, found, 1e-4, method.__name__)


def test_an_unrolled_loop_is_as_tight_as_its_steps():
    looped = lambda x: lax.fori_loop(0, 2, lambda i, c: jax.nn.relu(W @ c) * (i + 1), x)
    spelt = lambda x: jax.nn.relu(W @ jax.nn.relu(W @ x)) * 2
    methods = (jb.ibp, jb.crown)
    pairs = zip(*(by_every(fn, BOX, methods=methods) for fn in (looped, spelt)), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one.lower, two.lower, atol=1e-6)
        np.testing.assert_allclose(one.upper, two.upper, atol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
def test_a_known_predicate_chooses(positive):
    """Traced, so that both branches are in the program; as tight as the chosen one alone."""
    fn = lambda x, flag: lax.cond(flag, lambda z: z - z[::-1], jax.nn.relu, x)
    found = by_numpy(functools.partial(jb.crown, fn))(BOX, positive)
    alone = jb.crown(lambda x: fn(x, positive), BOX)
    np.testing.assert_allclose(found.lower, alone.lower, atol=1e-6)
    np.testing.assert_allclose(found.upper, alone.upper, atol=1e-6)
    third = lambda x, i: lax.switch(i, [jnp.negative, jnp.abs, jax.nn.relu], x)
    for index in (-3, 7):  # clamped
        bounds = jb.ibp(third, BOX, index)
        assert_contains(bounds, np.asarray(third(BOX.lower, index))[None], 1e-6)


def test_known_control_flow_stays():
    """A loop on known values is one operation."""
    fn = lambda x, k: x * lax.fori_loop(0, k[0].astype(int), lambda i, c: jnp.sin(c), k)
    graph = jb.trace(fn, BOX, jnp.arange(3.0))
    assert sum(str(eqn.primitive) == "while" for eqn in graph.equations) == 1


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x):
        return lax.while_loop(lambda z: z.sum() < 3, lambda z: z + 1, x)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_number_of_steps(method):
    with pytest.raises(jb.UnsupportedPrimitiveError) as caught:
        method(lambda x: Loop().apply({}, x), BOX)
    message = str(caught.value)
    assert caught.value.primitives == ("while",)
    assert "in layer Loop" in message and "test_control_flow.py:" in message
    assert "how often it runs depends on uncertain or traced values" in message
    with pytest.raises(jb.UnsupportedPrimitiveError, match="no argument, or run a fixed number"):
        method(lambda x, n: lax.fori_loop(0, n, lambda i, c: c * 2, x), BOX, 3)


def test_unsupported_in_a_loop_names_the_line():
    body = lambda c, _: (lax.igamma(jnp.ones_like(c), c), None)
    with pytest.raises(jb.UnsupportedPrimitiveError, match=r"igamma .*test_control_flow\.py:"):
        jb.ibp(lambda x: lax.scan(body, x, None, 2)[0], BOX)


# ---------------------------------------------------------------- recurrent networks


def test_an_lstm_over_time():
    """Its equations carry the names of its layers, one after another in time."""
    model = nn.RNN(nn.LSTMCell(2))
    x = np.random.default_rng(2).normal(size=(2, 2)).astype("float32")
    variables = model.init(jax.random.key(0), x)
    fn, region = (lambda x: model.apply(variables, x)), box(x - 0.1, x + 0.1)
    found = np.asarray(jax.vmap(fn)(samples(region).astype("float32")))
    methods = (jb.ibp, jb.crown_ibp)
    for method, bounds in zip(methods, by_every(fn, region, methods=methods), strict=True):
        assert_contains(bounds, found, 1e-5, method.__name__)
    layers = {eqn.layer for eqn in jb.trace(fn, region).equations if str(eqn.primitive) == "tanh"}
    assert layers == {"RNN/cell.scan_fn/cell"}


def test_gated_cells():
    x = np.random.default_rng(3).normal(size=(3, 2)).astype("float32")
    linen = nn.RNN(nn.GRUCell(2), reverse=True, keep_order=True)
    variables = linen.init(jax.random.key(0), x)
    twin = nnx.RNN(nnx.GRUCell(2, 2, rngs=nnx.Rngs(0)))
    region, lengths = box(x - 0.1, x + 0.1), np.array([2])
    points = samples(region, 50).astype("float32")
    for fn in (
        lambda x: linen.apply(variables, x[None], seq_lengths=lengths)[0],
        lambda x: nnx.clone(twin)(x[None])[0],
    ):
        bounds = once(jb.ibp)(fn, region)
        assert_contains(bounds, np.asarray(jax.jit(jax.vmap(fn))(points)), 1e-5)


def test_a_long_loop_is_linear_in_its_steps():
    model = nn.RNN(nn.SimpleCell(2))
    x = jnp.zeros((100, 2))
    variables = model.init(jax.random.key(0), x)
    sizes = [
        len(jb.trace(lambda x: model.apply(variables, x), jb.linf_ball(x[:n], 1.0)).equations)
        for n in (10, 100)
    ]
    assert sizes[1] <= 10 * sizes[0]


# ---------------------------------------------------------------- choices


def test_a_decided_choice_is_exact():
    """The case's own line, and constants only where both may be chosen and that is tighter."""
    fn = lambda x: jnp.where(x > 0, x, 0.1 * x - 1) - x
    region = box([1, -2, -1], [2, -1, 1])
    for method in (jb.lbp, jb.crown_ibp):
        found = by_numpy(functools.partial(method, fn))(region)
        np.testing.assert_allclose(found.lower[:2], [0, -0.1], atol=1e-6)
        np.testing.assert_allclose(found.upper[:2], [0, 0.8], atol=1e-6)
        assert_contains(found, values(fn, samples(region)), 1e-5, method.__name__)


@pytest.mark.parametrize("kind", ["adaptive", "tight"])
def test_an_open_choice(kind):
    """Cases that overlap, touch, are equal, or known; a third that is impossible and infinite."""

    def fn(x):
        index = (x[0] > 0).astype("int32") * np.ones(3, "int32")
        return lax.select_n(index, x[1:4], x[4:], np.full(3, np.inf, x.dtype))

    region = box([-1, 0, 1, 2, -1, 1, 5], [1, 3, 2, 2, 1, 4, 6])
    found = values(fn, samples(region))
    linear = by_numpy(functools.partial(jb.linear_bounds, fn, relaxation=kind))(region)
    points = samples(region)
    at = jax.vmap(linear)(points.astype("float32"))
    assert (at.lower <= found + 1e-5).all() and (found <= at.upper + 1e-5).all()
    bounds = jb.concretize(linear, region)
    assert np.isfinite([bounds.lower, bounds.upper]).all()
    if kind == "tight":
        interval = jb.ibp(fn, region)
        assert (bounds.lower >= interval.lower - 1e-6).all()
        assert (bounds.upper <= interval.upper + 1e-6).all()


INTEGERS = {  # functions of integers z between -2**31 and 2**31
    "sum": lambda z: z + z,
    "difference": lambda z: z - 2_000_000_000,
    "product": lambda z: z * 3,
    "quotient": lambda z: lax.div(z, jnp.full_like(z, -7)),
    "remainder": lambda z: lax.rem(z, jnp.full_like(z, 7)),
    "narrower": lambda z: z.astype("int8").astype("int32"),
    "unsigned": lambda z: z.astype("uint32").astype("float32").astype("int32"),
    "matrix": lambda z: z @ np.array([[1, -5], [3, 2], [0, 1]], "int32"),
    "bits": lambda z: z ^ 3,
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name):
    """Next to uncertain values, also where they wrap around."""
    fn = lambda x: INTEGERS[name]((2000 * x).astype("int32")).astype("float32")
    for scale in (1e-2, 1.0, 1e6):
        region = box([-scale, 0.2, scale], [scale, 0.3, 1.07 * scale])
        found = jax.vmap(fn)(samples(region).astype("float32"))
        assert_contains(jb.ibp(fn, region), np.asarray(found), 1e-3 * scale, name)


# ---------------------------------------------------------------- number types


@pytest.mark.parametrize(("dtype", "wide"), [("bfloat16", True), ("float16", False)])
def test_half_precision(dtype, wide):
    """Parameters and activations; the region may be wider. Rounding is within some units of the type."""
    layer = functools.partial(nn.Dense, dtype=dtype, param_dtype=dtype)
    model = nn.Sequential([layer(3), nn.relu, layer(2)])
    x = jnp.array([0.3, -0.7, 1.1], "float32" if wide else dtype)
    variables = model.init(jax.random.key(1), x)
    fn = lambda x: model.apply(variables, x)
    region = jb.linf_ball(x, 0.25)
    found = np.asarray(jax.vmap(fn)(jnp.asarray(samples(region), x.dtype)), float)
    methods = (jb.ibp, jb.lbp, jb.crown_ibp, jb.crown)
    for method, bounds in zip(methods, by_every(fn, region, methods=methods), strict=True):
        assert bounds.lower.dtype == bounds.upper.dtype == dtype
        assert_contains(bounds, found, 16 * float(jnp.finfo(dtype).eps), method.__name__)


def test_tokens_next_to_uncertain_values():
    """Embeddings of integers, one-hot codes, masks."""
    table, tokens = jnp.asarray(W), jnp.array([0, 2])

    def fn(shift):
        embedded = nn.Embed(3, 3).apply({"params": {"embedding": table}}, tokens) + shift
        masked = jnp.where(tokens[:, None] > 0, embedded, 0)
        chosen = jax.nn.one_hot(jnp.argmax(shift, -1), 3, dtype=shift.dtype)
        return jax.nn.relu(masked) * jax.nn.one_hot(tokens, 3) + chosen * (shift > 0).any()

    region = jb.linf_ball(jnp.array([[0.1, 0.2, 1.0], [0.0, 0.1, 0.3]]), 0.1)
    found = np.asarray(jax.vmap(fn)(samples(region).astype("float32")))
    methods = (jb.ibp, jb.lbp, jb.crown)
    for method, bounds in zip(methods, by_every(fn, region, methods=methods), strict=True):
        assert_contains(bounds, found, 1e-5, method.__name__)


# ---------------------------------------------------------------- derivatives


def pooled(x):
    return lax.reduce_window(x * x, -jnp.inf, lax.max, (2,), (1,), "VALID")


DERIVATIVES = {
    "relu": (jax.jacfwd, lambda x: jax.nn.relu(W.T @ jax.nn.relu(W @ x)), (jb.ibp, jb.crown)),
    "maximum": (jax.jacrev, lambda x: jnp.maximum(W @ x, x), (jb.ibp,)),
    "tanh": (jax.jacrev, lambda x: W[:2] @ jnp.tanh(W @ x), (jb.crown,)),
    "sigmoid": (jax.jacfwd, lambda x: W[:2] @ jax.nn.sigmoid(W @ x), (jb.ibp, jb.lbp)),
    "softplus": (jax.jacfwd, lambda x: jax.nn.softplus(W @ x), (jb.ibp,)),
    "gelu": (jax.jacfwd, lambda x: jax.nn.gelu(W @ x), (jb.ibp,)),
    "max-pooling": (jax.jacfwd, pooled, (jb.lbp,)),
    "max-pooling, backward": (jax.jacrev, pooled, (jb.ibp, jb.crown)),
    "loss": (jax.grad, lambda x: -jax.nn.log_softmax(jax.nn.relu(W @ x))[0], (jb.crown_ibp,)),
}  # fmt: skip


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives(name):
    derivative, fn, methods = DERIVATIVES[name]
    derived = derivative(fn)
    found = values(lambda x: derived(x), samples(BOX))
    for method, bounds in zip(methods, by_every(derived, BOX, methods=methods), strict=True):
        assert np.isfinite([bounds.lower, bounds.upper]).all()
        assert_contains(bounds, found, 1e-4, method.__name__)


def test_the_derivative_of_a_decided_maximum_is_known():
    """Of ``max(x, 0)`` right of 0, whichever way it is written."""
    region = jb.linf_ball(jnp.array([2.0, -2.0]), 1.0)
    for act in (jax.nn.relu, lambda z: jnp.maximum(0, z), lambda z: jnp.clip(z, 0)):
        bounds = jb.ibp(lambda x, act=act: jax.grad(lambda z: act(z).sum())(x), region)
        np.testing.assert_array_equal(bounds.lower, [1, 0])
        np.testing.assert_array_equal(bounds.upper, [1, 0])
