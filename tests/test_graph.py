"""The trace: inlined, activations recognised, dead code gone, names kept; and still the function."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.extend import core as jex
from oracle import METHODS, once, precision

import jaxbound as jb

X = jnp.array([0.3, -1.2, 2.0])
BOX = jb.linf_ball(X, 0.5)


@jax.custom_vjp
def with_vjp(x):
    return jax.nn.relu(x) * 2


with_vjp.defvjp(lambda x: (with_vjp(x), x), lambda x, g: (g,))


@jax.custom_jvp
def with_jvp(x):
    return jnp.tanh(x) + 1


with_jvp.defjvp(lambda p, t: (with_jvp(*p), t[0]))

RECOGNISED = {  # what the graph of a function of x consists of
    "relu": (jax.nn.relu, ["max"]),
    "flax relu": (nn.relu, ["max"]),
    "leaky_relu": (jax.nn.leaky_relu, ["leaky_relu"]),
    "leaky_relu, slope": (functools.partial(nn.leaky_relu, negative_slope=0.3), ["leaky_relu"]),
    "elu": (nn.elu, ["elu"]),
    "softplus": (nn.softplus, ["softplus"]),
    "sigmoid": (nn.sigmoid, ["logistic"]),
    "tanh": (nn.tanh, ["tanh"]),
    "silu": (nn.silu, ["silu"]),
    "swish": (nn.swish, ["silu"]),
    "silu, spelt": (lambda x: jax.nn.sigmoid(x) * x, ["silu"]),
    "gelu": (functools.partial(nn.gelu, approximate=False), ["gelu_erf"]),
    "gelu tanh": (nn.gelu, ["gelu_tanh"]),
    "clip": (lambda x: jnp.clip(x, 0, 1), ["clip"]),
    "relu6": (jax.nn.relu6, ["clip"]),
    "param_ramp": (lambda x: jb.param_ramp(x, 1.0, 0.1), ["param_ramp"]),
    "square": (lambda x: x * x, ["square"]),
    "where": (lambda x: jnp.where(x > 0, x, 0.2 * x), ["leaky_relu"]),
    "nested jit": (jax.jit(jax.jit(jax.nn.relu)), ["max"]),
    "remat": (jax.checkpoint(jax.nn.relu), ["max"]),
    "custom_vjp": (with_vjp, ["max", "mul"]),
    "custom_jvp": (with_jvp, ["tanh", "add"]),
    "nested": (jax.checkpoint(jax.jit(lambda x: with_vjp(with_jvp(x)))), ["tanh", "add", "max", "mul"]),
    "dead code": (lambda x: (jnp.sin(x), jnp.sort(x), -x)[2], ["neg"]),
    "a lie": (lambda x: impostor(x), ["neg"]),
}  # fmt: skip


@jax.jit
def impostor(x):
    """Bears the name of an activation, and is none."""
    return -x


impostor.__name__ = "relu"


@pytest.mark.parametrize("name", RECOGNISED)
def test_recognised(name):
    fn, expected = RECOGNISED[name]
    graph = jb.trace(fn, BOX)
    assert [str(eqn.primitive) for eqn in graph.equations if any(eqn.uncertain)] == expected
    np.testing.assert_allclose(graph.evaluate(X), fn(X), rtol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu tanh", "softplus", "leaky_relu", "elu", "silu"])
def test_recognised_in_every_type(name):
    """Also when the same activation was met before in another type, with and without x64."""
    fn, expected = RECOGNISED[name]
    for wide, dtype in [
        ("float32", "float32"),
        ("float64", "float32"),
        ("float64", "float64"),
        ("float32", "float32"),
    ]:
        with precision(wide):
            graph = jb.trace(fn, jb.linf_ball(jnp.zeros(3, dtype), 1.0))
        assert [str(eqn.primitive) for eqn in graph.equations if any(eqn.uncertain)] == expected


def test_a_known_array_as_a_slope_is_recognised():
    for slope in (jnp.array([0.1, 0.2, 0.3]), jnp.float32(0.1)):
        graph = jb.trace(lambda x, slope=slope: jnp.where(x >= 0, x, slope * x), BOX)
        assert "leaky_relu" in {str(eqn.primitive) for eqn in graph.equations}


def test_an_uncertain_slope_is_not():
    graph = jb.trace(lambda x: jnp.where(x >= 0, x, x[::-1] * x), BOX)
    assert "leaky_relu" not in {str(eqn.primitive) for eqn in graph.equations}


def test_a_value_computed_twice_is_one():
    """Also where numbers stand in its equations: so a product of the two is a square."""
    centred = lambda x: 2.0 * (x - x.mean(0, keepdims=True))
    found = jb.ibp(lambda x: centred(x) * centred(x), BOX)
    assert (found.lower >= 0).all()
    other = jb.trace(lambda x: jnp.sin(x * 2.0) + jnp.sin(x * 3.0), BOX)
    assert [str(eqn.primitive) for eqn in other.equations] == ["mul", "sin", "mul", "sin", "add"]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (2, 2), name="conv")(x))
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = nn.gelu(x).reshape(-1)
        x = nn.Dropout(0.5, deterministic=True)(x)
        return nn.Dense(2, name="head")(nn.tanh(nn.Dense(3, name="dense")(x)))


@pytest.fixture(scope="module")
def linen():
    model, image = Net(), jnp.ones((3, 3, 1))
    variables = model.init(jax.random.key(0), image)
    return (lambda x: model.apply(variables, x)), jb.linf_ball(image, 0.1)


def test_names_of_layers(linen):
    found = jb.intermediate_bounds(*linen, method=jb.ibp)
    assert list(found) == ["Net/conv:0", "Net/norm:0", "Net/dense:0"]
    assert [bounds.shape for bounds in found.values()] == [(3, 3, 2), (3, 3, 2), (3,)]


def test_names_of_lines():
    found = jb.intermediate_bounds(lambda x: jnp.tanh(2 * jax.nn.relu(x)), BOX)
    first, second = found
    assert first == "input:0" and "test_graph.py:" in second and second.endswith(":0")
    (inside,) = jb.intermediate_bounds(lambda x: jnp.tanh(jb.margins(2 * x, 0)), BOX)
    assert "test_graph.py:" in inside, "the library's own lines are no names"


@pytest.mark.parametrize("method", METHODS)
def test_intermediates_go_back_in(linen, method):
    """A method that is told what another found has both; what it found itself changes nothing."""
    fn, box = linen
    intervals = once(jb.intermediate_bounds, method=jb.ibp)(fn, box)
    found = once(jb.intermediate_bounds, method=method, intermediates=intervals)(fn, box)
    for name, bounds in intervals.items():
        assert (found[name].lower >= bounds.lower - 1e-5).all()
        assert (found[name].upper <= bounds.upper + 1e-5).all()

    @jax.jit
    def twice(box):
        own = jb.intermediate_bounds(fn, box, method=method)
        return method(fn, box), method(fn, box, intermediates=own)

    plain, again = twice(box)
    np.testing.assert_allclose(again.lower, plain.lower, atol=1e-5)
    np.testing.assert_allclose(again.upper, plain.upper, atol=1e-5)


def test_an_equal_module_of_the_other_kind():
    class Twin(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.relu(self.first(x)))

    twin = Twin(nnx.Rngs(0))
    found = jb.intermediate_bounds(twin, BOX, method=jb.ibp)
    assert [bounds.shape for bounds in found.values()] == [(4,)]
    graph = jb.trace(twin, BOX)
    np.testing.assert_allclose(graph.evaluate(X), twin(X), rtol=1e-6)


def dots(jaxpr, found):
    """The precision of every dot and convolution of a jaxpr, nested ones too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(eqn.params["precision"])
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                dots(inner, found)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_highest_precision(linen, method):
    """Unless the caller chose one: the default would be TF32 or bfloat16 on accelerators."""
    fn, box = linen
    high = lax.Precision.HIGHEST
    assert jax.config.jax_default_matmul_precision is None
    found = dots(jax.make_jaxpr(lambda b: method(fn, b))(box).jaxpr, [])
    assert found and all(p in (high, (high, high)) for p in found)
    with jax.default_matmul_precision("bfloat16"):
        assert dots(jax.make_jaxpr(lambda b: method(fn, b))(box).jaxpr, []) != found


class Noisy(nnx.Module):
    """Its statistics and random keys change in every call."""

    def __init__(self, rngs):
        self.norm, self.drop = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(nnx.relu(self.norm(x)))


def test_a_model_that_changes():
    """Closed over, it says what to do; what it says works."""
    model, box = Noisy(nnx.Rngs(0)), jb.linf_ball(jnp.stack([X, -X]), 0.1)
    with pytest.raises(
        ValueError, match=r"pass the model as an argument, or call nnx.clone"
    ) as caught:
        jb.ibp(model, box)
    assert type(caught.value.__cause__).__name__ == "TraceContextError"
    passed = jb.ibp(lambda x, model: model(x), box, model)
    cloned = jb.ibp(lambda x: nnx.clone(model)(x), box)
    np.testing.assert_array_equal(passed.upper, cloned.upper)


@pytest.mark.parametrize("method", METHODS)
def test_options_are_static(method):
    """Truth values, strings, callables and None, also inside trees; numbers are known values."""

    def fn(x, train, options, extra):
        if train and not options["frozen"] and options["how"] == "twice" and extra is None:
            return options["act"](2 * x) * options["scale"]
        return x

    options = {"frozen": False, "how": "twice", "act": jnp.negative, "scale": 3}
    box = jb.Interval(jnp.array(-1.0), jnp.array(1.0))
    found = method(fn, box, True, options, None)
    assert found.upper == 6
    assert method(fn, box, False, options, None).upper == 1
    graph = jb.trace(fn, box, True, options, None)
    assert len(graph.inputs) == 2
    assert graph.evaluate(box.upper, True, options, None) == -6


def test_where_values_lie_and_when_they_are_computed():
    def fn(x, y):
        x, _, y = lax.optimization_barrier((x, jnp.ones(2), y))
        x = jax.device_put(x, jax.devices()[0])
        return (
            lax.with_sharding_constraint(x, jax.sharding.SingleDeviceSharding(jax.devices()[0])) - y
        )

    graph = jb.trace(fn, BOX, BOX)
    assert [str(eqn.primitive) for eqn in graph.equations] == ["sub"]


def test_helpers_of_loops_are_what_they_run_as():
    """Equinox's tell `jax.vmap` what to do; of one example, they are plain functions."""
    select = jex.Primitive("select_if_vmap")
    select.def_impl(lambda pred, x, y: x)
    select.def_abstract_eval(lambda pred, x, y: x)
    graph = jb.trace(lambda x: select.bind(jnp.array(True), 2 * x, x) + 1, BOX)
    assert [str(eqn.primitive) for eqn in graph.equations] == ["mul", "add"]
