# ruff: noqa: E501 -- a case is one line
"""jit, vmap and grad of the bounds, and gradients of the transposed convolution."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import DTYPES, METHODS, precision

import jaxbound as jb
from jaxbound._rules import convolution
from jaxbound._walks import backward, batch, rows

RNG = np.random.default_rng(6)
KERNEL, DENSE = RNG.normal(size=(3, 2, 2, 2)), RNG.normal(size=(2, 27)) / 4


def convnet(parameters, x):
    kernel, dense = parameters
    z = lax.conv(x[None], kernel, (1, 1), "SAME")[0]
    return dense @ jax.nn.relu(z).reshape(-1)


def everything(parameters, x):
    """No S-shaped function: the point where its tangent touches is a constant to `jax.grad`."""
    kernel, dense = parameters
    z = lax.conv(x[None], kernel, (1, 1), "SAME")[0]
    z = jb.param_ramp(z, 0.3, 0.1) - jax.nn.leaky_relu(z, 0.2)
    z = lax.reduce_window(z, -jnp.inf, lax.max, (1, 2, 2), (1, 1, 1), "SAME")
    return dense @ jax.nn.softplus(z).reshape(-1)


def width(method, fn, parameters, center, eps, **options):
    bounds = method(functools.partial(fn, parameters), jb.linf_ball(center, eps), **options)
    return (bounds.upper - bounds.lower).sum() + bounds.lower[0]


def arguments():
    return (jnp.asarray(KERNEL), jnp.asarray(DENSE)), jnp.asarray(RNG.normal(size=(2, 3, 3)))


@pytest.mark.parametrize(
    "method, fn", [(m, convnet) for m in METHODS] + [(jb.ibp, everything), (jb.crown, everything)]
)
def test_gradients_are_finite_differences(method, fn):
    with precision("float64"):
        parameters, center = arguments()
        loss = jax.jit(lambda *a: width(method, fn, *a))
        flat, unflatten = jax.flatten_util.ravel_pytree((parameters, center, jnp.asarray(0.2)))
        value = lambda z: loss(*unflatten(z))
        gradient, step = jax.jit(jax.grad(value))(flat), 1e-6
        assert np.isfinite(gradient).all()
        for seed in range(3):
            direction = jnp.asarray(np.random.default_rng(seed).normal(size=flat.shape))
            difference = (value(flat + step * direction) - value(flat - step * direction)) / (
                2 * step
            )
            np.testing.assert_allclose(gradient @ direction, difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
def test_gradients_at_the_centre_of_a_ball(p):
    """The norm of coefficients that are all zero has no slope."""
    fn = lambda c, r, w: jb.crown(lambda x: w * x, jb.LpBall(c, r, p)).upper.sum()
    for w in (0.0, 1.0):
        slopes = jax.grad(fn, (0, 1, 2))(jnp.ones(3), 0.0, w)
        assert all(np.isfinite(s).all() for s in slopes)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_vmap(method, fn=convnet):
    with precision("float64"):
        parameters, _ = arguments()
        centers = jnp.asarray(RNG.normal(size=(3, 2, 3, 3)))
        radii = jnp.array([0.0, 0.1, 0.5])
        of = lambda c, e: method(functools.partial(fn, parameters), jb.linf_ball(c, e))
        many, jitted = jax.vmap(of)(centers, radii), jax.jit(jax.vmap(of))(centers, radii)
        for i in range(3):
            one = of(centers[i], radii[i])
            for found in (many, jitted):
                np.testing.assert_allclose(found.lower[i], one.lower, atol=1e-10)
                np.testing.assert_allclose(found.upper[i], one.upper, atol=1e-10)


@pytest.mark.parametrize("method", [jb.lbp, jb.crown_ibp])  # both walks
def test_gradients_of_a_batch(method):
    """Those of grad of vmap, vmap of grad, and their compositions with jit agree; so do they in chunks."""
    with precision("float64"):
        parameters, _ = arguments()
        centers = jnp.asarray(RNG.normal(size=(3, 2, 3, 3)))
        one = lambda w, c: width(method, convnet, w, c, 0.1)
        chunked = lambda w, c: width(method, convnet, w, c, 0.1, chunk_size=1)
        each = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(parameters, centers)
        expected = jax.tree.map(lambda g: g.sum(0), each)
        total = lambda loss: lambda w: jax.vmap(loss, (None, 0))(w, centers).sum()
        for loss in (one, chunked):
            found = jax.jit(jax.grad(total(loss)))(parameters)
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-9), found, expected)
        weights = jax.tree.map(lambda w: jnp.stack([w, 2 * w, -w]), parameters)
        many = jax.jit(jax.vmap(jax.grad(one)))(weights, centers)
        jax.tree.map(lambda m, o: np.testing.assert_allclose(m[0], o[0], atol=1e-9), many, each)


CONVOLUTIONS = {  # input, kernel (OIHW), options
    "plain": ((1, 2, 5), (3, 2, 2), {}),
    "2-d": ((1, 2, 4, 5), (3, 2, 3, 2), {"padding": "SAME"}),
    "3-d": ((1, 1, 3, 3, 2), (2, 1, 2, 2, 2), {"padding": "SAME"}),
    "stride": ((2, 2, 6, 7), (3, 2, 3, 2), {"window_strides": (2, 3)}),
    "dilation": ((1, 2, 6, 5), (3, 2, 2, 2), {"rhs_dilation": (2, 3)}),
    "lhs dilation": ((1, 2, 3, 3), (3, 2, 2, 3), {"lhs_dilation": (2, 3), "padding": ((1, 0), (2, 2))}),
    "groups": ((1, 4, 4, 3), (6, 2, 2, 2), {"feature_group_count": 2}),
    "unused border": ((1, 1, 6, 6), (1, 1, 2, 2), {"window_strides": (3, 3)}),
    "odd stride": ((2, 3, 9, 8), (2, 3, 4, 3), {"window_strides": (3, 2), "padding": ((2, 1), (1, 0))}),
    "groups, stride": ((1, 4, 5, 6), (6, 2, 2, 3), {"window_strides": (2, 2), "feature_group_count": 2, "padding": ((-1, 2), (1, 1))}),
    "one place": ((2, 2, 3, 2), (3, 2, 3, 2), {}),
    "one place, dilated": ((1, 2, 4, 5), (3, 2, 2, 2), {"rhs_dilation": (2, 3), "padding": ((0, -1), (1, -2)), "window_strides": (3, 3)}),
    "negative padding": ((1, 1, 5, 5), (2, 1, 2, 2), {"padding": ((-1, 1), (2, -2))}),
    "all": ((2, 4, 5, 4), (4, 2, 3, 2), {"window_strides": (2, 1), "padding": ((2, 1), (0, 3)), "lhs_dilation": (1, 2), "rhs_dilation": (2, 1), "feature_group_count": 2}),
}  # fmt: skip


def rows_of(x, kernel, options):
    """The Jacobian of a convolution, by walking unit rows back through it."""
    linear = jb.linear_bounds(lambda z: convolve(z, kernel, options), jb.linf_ball(x, 1.0))
    return linear.lower_coeffs[0]


def convolve(x, kernel, options):
    strides = {"window_strides": (1,) * (x.ndim - 2), "padding": "VALID"}
    return lax.conv_general_dilated(x, kernel, **(strides | options))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_transposed_convolution(name):
    """Against jax's own derivative of the convolution, and of that with respect to the kernel."""
    shape, kernel_shape, options = CONVOLUTIONS[name]
    with precision("float64"):
        x, kernel = jnp.asarray(RNG.normal(size=shape)), jnp.asarray(RNG.normal(size=kernel_shape))
        ours = jax.jit(lambda k: rows_of(x, k, options))
        theirs = jax.jit(lambda k: jax.jacobian(lambda z: convolve(z, k, options))(x))
        np.testing.assert_allclose(ours(kernel), theirs(kernel), atol=1e-10)
        weights = jnp.asarray(RNG.normal(size=theirs(kernel).shape))
        loss = lambda rows: lambda k: (weights * jnp.sin(rows(k))).sum()
        expected = jax.jit(jax.grad(loss(theirs)))(kernel)
        np.testing.assert_allclose(jax.jit(jax.grad(loss(ours)))(kernel), expected, atol=1e-9)
        many = jnp.stack([kernel, -kernel])
        for gradient in (
            jax.vmap(jax.grad(loss(ours))),
            jax.grad(lambda k: jax.vmap(loss(ours))(k).sum()),
        ):
            np.testing.assert_allclose(jax.jit(gradient)(many)[0], expected, atol=1e-9)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_ways_through_a_convolution(name, monkeypatch):
    """Tap by tap in chunks, and by the convolution that GPUs run: the same rows."""
    shape, kernel_shape, options = CONVOLUTIONS[name]
    with precision("float64"):
        x, kernel = jnp.asarray(RNG.normal(size=shape)), jnp.asarray(RNG.normal(size=kernel_shape))
        usual = jax.jit(lambda k: rows_of(x, k, options))(kernel)
        monkeypatch.setattr(convolution, "TAP_ELEMENTS", 1)
        chunks = jax.jit(lambda k: rows_of(x, k, options))(kernel)
        monkeypatch.setattr(convolution, "_by_taps", convolution._by_convolution)
        other = jax.jit(lambda k: rows_of(x, k, options))(kernel)
    np.testing.assert_allclose(chunks, usual, atol=1e-12)
    np.testing.assert_allclose(other, usual, atol=1e-12)


W, B, CENTERS = (RNG.normal(size=shape) for shape in [(4, 6), 6, (3, 4)])
PRODUCTS = {  # of weights [4, 6], bias [6] and 4 elements; whether the rows of its elements are weights
    "[n]": (lambda w, b, x: x @ w, True),
    "[1, n]": (lambda w, b, x: x[None] @ w, True),
    "bias": (lambda w, b, x: x @ w + b, True),
    "number": (lambda w, b, x: 2 - (x @ w) / 3, True),
    "normalised": (lambda w, b, x: ((x[None] @ w - b[None]) * b[None] + 1)[:, None], True),
    "known first": (lambda w, b, x: w.T @ x + b, True),
    "matrix": (lambda w, b, x: (x[None] @ w).reshape(3, 2) + b.reshape(3, 2), True),
    "axes": (lambda w, b, x: lax.dot_general(x.reshape(2, 1, 2), w.reshape(2, 3, 2, 2), (((2, 0), (0, 2)), ((), ()))), True),
    "axes, known first": (lambda w, b, x: lax.dot_general(w.reshape(2, 3, 2, 2), x.reshape(2, 1, 2), (((0, 2), (2, 0)), ((), ()))), True),
    "several rows": (lambda w, b, x: x.reshape(2, 2) @ w.reshape(2, 12), False),
    "batch": (lambda w, b, x: jnp.einsum("ij,ijk->ik", x.reshape(2, 2), w.reshape(2, 2, 6)), False),
    "itself": (lambda w, b, x: x + x @ w[:, :4], False),
    "nothing summed": (lambda w, b, x: x[:0] @ w[:0] + b, False),
    "no outputs": (lambda w, b, x: x @ w[:, :0] + b[:0], False),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_where_rows_start(name):
    fn, picked = PRODUCTS[name]
    graph = jb.trace(functools.partial(fn, W, B), jb.linf_ball(jnp.ones(4), 1.0))
    env = {}
    for eqn in graph.equations:
        env |= {} if eqn.moving else eqn.evaluate(env)
    (out,) = graph.outputs
    start, *_ = backward.unit_rows(graph, out, jnp.arange(2), env)
    summed = {eqn.outputs[0] for eqn in graph.equations if eqn.primitive is lax.dot_general_p}
    assert (start not in summed | {out}) == picked


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_weights(dtype):
    """Against jax's own derivative, and that with respect to weights."""

    def ours(fn, w, b, x):
        fn, box = functools.partial(fn, w, b), jb.linf_ball(x, 1.0)
        found = jb.linear_bounds(fn, box, chunk_size=4)
        return found.upper_coeffs[0], found.upper_offset

    def theirs(fn, w, b, x):
        return jax.jacobian(fn, 2)(w, b, x), fn(w, b, jnp.zeros_like(x))

    def of(rows):
        every = lambda *args: [rows(fn, *args) for fn, _ in PRODUCTS.values()]
        loss = lambda *args: sum(jnp.sin(part).sum() for part in jax.tree.leaves(every(*args)))
        return jax.jit(lambda *args: (every(*args), jax.grad(loss, (0, 1))(*args)))

    with precision(dtype):
        args = [jnp.asarray(a, dtype) for a in (W, B, CENTERS[0])]
        found, expected = of(ours)(*args), of(theirs)(*args)
    atol = 1e-4 if dtype == "float32" else 1e-12
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol), found, expected)


def test_undecided_rows_of_a_batch(monkeypatch):
    """Bounds and gradients as by rows of 0 and 1."""

    def loss(w, b, center):
        fn = lambda x: jax.nn.relu(jax.nn.relu(x) @ w + b).sum()
        found = jb.crown(fn, jb.linf_ball(center, 0.3), capacity=2)
        return found.upper - jnp.sin(found.lower), found

    def of_units(graph, var, indices, env, lost):
        rows = jax.nn.one_hot(indices, var.size, dtype=var.dtype).reshape(-1, *var.shape)
        return var, rows, jnp.zeros(len(rows), rows.dtype)

    with precision("float64"):
        of_one = jax.value_and_grad(loss, (0, 1), has_aux=True)
        of_batch = lambda: jax.jit(jax.vmap(lambda x: of_one(W, B, x)))(CENTERS)
        found = of_batch()
        monkeypatch.setattr(rows, "unit_rows", of_units)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), found, of_batch())


@pytest.mark.parametrize("p", [None, 2])
def test_forward_bounds_in_chunks(p):
    """A few directions of two regions at a time, of which the last chunk goes beyond the end."""
    with precision("float64"):
        center, factor = jnp.asarray(RNG.normal(size=(4, 5))), jb.linf_ball(jnp.ones(3), 0.1)
        weights, more = (jnp.asarray(RNG.normal(size=n)) for n in [(5, 6), (6, 2)])
        fn = lambda x, s: jax.nn.relu(x @ weights) @ more * s.sum() @ jnp.ones((2, 1))

        def upper(center, chunk_size):
            region = jb.linf_ball(center, 0.1) if p is None else jb.LpBall(center, 0.1, p)
            found = jb.lbp(fn, region, factor, chunk_size=chunk_size)
            return found.upper.sum(), found

        both = jax.jit(jax.value_and_grad(upper, has_aux=True), static_argnums=1)
        whole, chunks = (both(center, size) for size in (None, 7))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), chunks, whole)


@pytest.mark.parametrize("method", METHODS)
def test_outputs_without_elements(method):
    kernel = jnp.ones((3, 2, 2, 2))
    fn = lambda x: jax.nn.relu(convolve(jax.nn.relu(x), kernel, {})).reshape(-1)[:0]
    assert jax.jit(functools.partial(method, fn))(
        jb.linf_ball(jnp.ones((1, 2, 4, 4)), 0.1)
    ).shape == (0,)


def test_examples_are_counted():
    seen = []

    def fn(x, y):
        seen.append(batch.examples({"x": x, "y": y}))
        return x * y

    both = jax.vmap(jax.vmap(fn, (0, None)), (None, 0))
    jax.jit(both)(jnp.ones(3), jnp.ones(4))
    jax.vmap(jax.grad(fn), (None, 0))(1.0, jnp.ones(5))
    jax.grad(lambda x: jax.vmap(fn, (0, None))(x, 2.0).sum())(jnp.ones(6))
    fn(1.0, 2.0)
    assert seen == [12, 5, 6, 1]


@pytest.mark.parametrize("method", [jb.lbp, jb.crown_ibp, jb.crown, jb.alpha_crown])
def test_a_caller_who_reads_one_end_pays_for_one(method, key):
    """No end waits for the other: XLA drops the walk of the one that is not read."""
    weights = jax.random.normal(key, (3, 20, 20)) / 4
    fn = lambda x: functools.reduce(lambda x, w: jax.nn.relu(x @ w), weights, x) @ weights[0]
    box = jb.linf_ball(jnp.ones(20), 0.1)
    options = {"steps": 1} if method is jb.alpha_crown else {}

    def flops(read):
        bound = lambda box: read(method(fn, box, **options))
        return jax.jit(bound).lower(box).compile().cost_analysis()["flops"]

    walk = len(weights[0]) * weights.size  # one sign, one product a layer, without additions
    assert flops(lambda bounds: bounds.lower) < flops(lambda bounds: bounds) - walk
