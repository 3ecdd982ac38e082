"""Free lines: sound anywhere between their extremes, and optimised for every output."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from interpreter import by_numpy
from oracle import assert_contains, box, precision, samples, tolerance, values

import jaxbound as jb
from jaxbound import networks, reference

FREE = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "minimum": lambda x: jnp.minimum(x, 0.3),
    "leaky relu": lambda x: jax.nn.leaky_relu(x, 0.1),
    "steep leaky relu": lambda x: jax.nn.leaky_relu(x, 1.7),
    "clip": lambda x: jnp.clip(x, -0.5, 0.7),
    "ramp": lambda x: jb.param_ramp(x, 0.8, 0.1),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "arctan": jnp.arctan,
    "sinh": jnp.sinh,
    "cube": lambda x: x**3,
    "square": jnp.square,
    "exp": jnp.exp,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "log": lambda x: jnp.log(x + 4),
    "sqrt": lambda x: jnp.sqrt(x + 3),
    "reciprocal": lambda x: 1 / (x + 4),
    "power": lambda x: (x + 4) ** 1.5,
}
ENDS = np.array(
    [
        (-1, 2),
        (-2, 1),
        (-3, -0.1),
        (0.2, 3),
        (0, 0),
        (0, 1),
        (-1, 0),
        (-1e-3, 1e-3),
        (-3, 3),
        (2, 2),
    ]
)


def anywhere(found, seed):
    """Random alphas, a third of them at an end."""
    rng = np.random.default_rng(seed)
    draw = lambda a: np.clip(rng.uniform(-0.25, 1.25, a.shape), 0, 1).astype(a.dtype)
    return jax.tree.map(draw, found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_free_lines_are_sound_everywhere(dtype):
    with precision(dtype):
        region = box(*ENDS.T, dtype=dtype)
        fn = lambda x: jnp.stack([f(x) for f in FREE.values()])
        found = by_numpy(functools.partial(jb.alphas, fn))(region)
        assert len(found) == len(FREE)
        lines = by_numpy(lambda x, alphas: jb.linear_bounds(fn, x, relaxation=alphas))
        parts = np.linspace(0, 1, 101)[:, None]
        points = ENDS[:, 0] + parts * (ENDS[:, 1] - ENDS[:, 0])
        inside = values(fn, points)
        for seed in range(5):
            linear = jax.tree.map(
                lambda x: np.asarray(x, np.float64), lines(region, anywhere(found, seed))
            )
            below, above = (
                np.einsum("fij,nj->nfi", coeffs[0], points) + offset
                for coeffs, offset in (
                    (linear.lower_coeffs, linear.lower_offset),
                    (linear.upper_coeffs, linear.upper_offset),
                )
            )
            slack = tolerance(dtype, 40)
            for i, name in enumerate(FREE):
                assert (below[:, i] <= inside[:, i] + slack).all(), f"{name} below"
                assert (inside[:, i] <= above[:, i] + slack).all(), f"{name} above"


def attention(x):
    scores = jax.nn.softmax(x @ x.T)
    return (scores @ x).ravel()


PLANES = {
    "product": (lambda x: x[0] * x[1], (2, 4)),
    "matrix product": (lambda x: (x[:2] @ x[2:].T).ravel(), (4, 3)),
    "max-pool": (lambda x: nn.max_pool(x[..., None], (3, 3), (2, 2)).ravel(), (5, 5)),
    "maximum": (lambda x: jnp.maximum(x[0], x[1]), (2, 4)),
    "attention": (attention, (3, 2)),
}


@pytest.mark.parametrize("name", PLANES)
def test_free_planes_are_sound_everywhere(name):
    fn, shape = PLANES[name]
    center = np.random.default_rng(0).normal(size=shape)
    region = box(center - 0.7, center + 0.7)
    found = by_numpy(functools.partial(jb.alphas, fn))(region)
    inside = values(fn, samples(region, 500))
    methods = [functools.partial(method, fn) for method in (jb.lbp, jb.crown)]
    bounds = by_numpy(lambda x, alphas: [method(x, relaxation=alphas) for method in methods])
    for seed in range(4):
        for each in bounds(region, anywhere(found, seed)):
            assert_contains(each, inside, tolerance("float32", 20), name)


def weights(*sizes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    return [jax.random.normal(key, pair) / pair[0] ** 0.5 for key, *pair in pairs]


def mlp(activation, layers):
    def fn(x):
        for w in layers[:-1]:
            x = activation(x @ w + 0.1)
        return x @ layers[-1]

    return fn


def within(fn, region):
    """Intermediate bounds, all that `alpha_crown` finds: it finds no others between them."""
    return jb.intermediate_bounds(fn, region, method=jb.alpha_crown)


def best_start(fn, region, given):
    """Of both kinds of lines between given intermediate bounds, the better end."""
    ends = [
        jb.crown_ibp(fn, region, intermediates=given, relaxation=kind)
        for kind in ("adaptive", "tight")
    ]
    return jb.Interval(jnp.maximum(*(e.lower for e in ends)), jnp.minimum(*(e.upper for e in ends)))


@pytest.mark.parametrize(
    "name, dtype",
    [("relu", "float64"), ("ramp", "float32"), ("sigmoid", "float32"), ("gelu", "float32")],
)
def test_between_its_start_and_the_values(name, dtype):
    with precision(dtype):
        layers = [w.astype(dtype) for w in weights(4, 12, 12, 3)]
        fn = mlp(FREE[name], layers)
        region = box(*(np.full(4, end) for end in (-0.6, 0.8)), dtype=dtype)

        def bound(region):
            given = within(fn, region)
            alpha = functools.partial(jb.alpha_crown, fn, region, intermediates=given)
            return best_start(fn, region, given), alpha(), alpha(optimize_intermediates=True)

        start, last, all_layers = by_numpy(bound)(region)
        inside, slack = values(fn, samples(region, 2000)), tolerance(dtype, 5)
        for found in (last, all_layers):
            assert_contains(found, inside, slack, name)
            assert (found.lower >= start.lower - slack).all()
            assert (found.upper <= start.upper + slack).all()
        widths = [float((b.upper - b.lower).mean()) for b in (start, last, all_layers)]
        assert widths[2] < widths[1] < 0.99 * widths[0]


def small_net():
    model = networks.ConvNet((networks.ConvSpec(2, 3, 2, 1), networks.ConvSpec(2, 3, 1, 1)), ())
    x = jax.random.uniform(jax.random.key(0), (8, 8, 1))
    variables = model.init(jax.random.key(1), x[None])
    return lambda variables, x: model.apply(variables, x[None])[0], variables, x


def test_through_windows_and_batches():
    """A batch, intermediate bounds through windows, and alphas of one's own in them."""
    net, variables, x = small_net()
    fn = lambda x: jb.margins(net(variables, x), 3)
    boxes = jb.linf_ball(jnp.stack([x, 1 - x]), 0.3)

    def bound(region):
        halves = jax.tree.map(lambda a: 0 * a + 0.5, jb.alphas(fn, region))
        return {
            "crown": jb.crown(fn, region),
            "own": jb.crown(fn, region, relaxation=halves),
            "alpha": jb.alpha_crown(fn, region, steps=5),
            "everywhere": jb.alpha_crown(fn, region, steps=5, optimize_intermediates=True),
        }

    found = by_numpy(jax.vmap(bound))(boxes)
    for i, start in enumerate((x, 1 - x)):
        inside = values(fn, samples(jb.linf_ball(start, 0.3), 500))
        for name, each in found.items():
            assert_contains(jax.tree.map(lambda e, i=i: e[i], each), inside, 1e-4, name)
    mean = {name: float((each.upper - each.lower).mean()) for name, each in found.items()}
    assert mean["everywhere"] < mean["alpha"] < mean["crown"]
    assert mean["own"] != mean["crown"]


def test_gradient_is_that_of_fixed_alphas():
    layers = weights(4, 10, 10, 2)
    region = jb.linf_ball(jnp.zeros(4), 0.5)

    def total(layers, eps=0.0):
        moved = jax.tree.map(lambda w: w * (1 + eps), layers)
        return jb.alpha_crown(mlp(jax.nn.relu, moved), region, steps=200).lower.sum()

    slope = by_numpy(jax.grad(total))(layers)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in slope)
    # At the optimum, the alphas' own change does not count.
    step = 1e-2
    change = (by_numpy(total)(layers, step) - by_numpy(total)(layers, -step)) / (2 * step)
    along = sum(jnp.vdot(g, w) for g, w in zip(slope, layers, strict=True))
    np.testing.assert_allclose(change, along, rtol=0.05)


@pytest.mark.parametrize("alpha, least, slope", [(0.0, -2, 4), (0.4, -0.4, 4), (1.0, -1, -2)])
def test_gradient_of_a_line_that_touches_an_end(alpha, least, slope):
    """The line below turns about the kink: 2 relu(x) - x is at least (2 alpha - 1) x."""
    # Summed, so that it is not seen as the absolute value.
    fn = lambda x: 2 * jax.nn.relu(x).sum() - x.sum()
    region = box(*(np.full(1, end) for end in (-1, 2)))
    options = {"published": True}  # intervals may be better than the line
    at = lambda alpha: jb.crown_ibp(fn, region, relaxation={"input:0": {"lower": alpha}}, **options)
    found = jax.value_and_grad(lambda a: at(a).lower)(jnp.full(1, alpha))
    np.testing.assert_allclose([found[0], found[1][0]], [least, slope], rtol=1e-6)


def test_alphas_of_ones_own_have_gradients():
    """Who wants another search writes it: bounds are differentiable functions of alphas."""
    fn, region = mlp(jax.nn.relu, weights(4, 10, 10, 2)), jb.linf_ball(jnp.zeros(4), 0.5)

    def climbed(region):
        given = within(fn, region)
        alphas = jax.tree.map(lambda a: 0 * a + 0.5, jb.alphas(fn, region, intermediates=given))
        options = {"intermediates": given, "published": True}
        bound = lambda a: jb.crown_ibp(fn, region, relaxation=a, **options).lower.sum()
        start, slope = jax.value_and_grad(bound)(alphas)
        moved = jax.tree.map(lambda a, g: jnp.clip(a + 0.1 * jnp.sign(g), 0, 1), alphas, slope)
        return start, bound(moved)

    start, end = by_numpy(climbed)(region)
    assert end > start + 1e-3


def test_any_optimizer_and_no_steps():
    fn, region = mlp(jax.nn.relu, weights(4, 10, 10, 2)), jb.linf_ball(jnp.zeros(4), 0.5)
    momentum = optax.sgd(0.05, momentum=0.9)

    def bound(region):
        given = within(fn, region)
        alpha = functools.partial(jb.alpha_crown, fn, region, intermediates=given)
        found = alpha(optimizer=momentum).lower
        return best_start(fn, region, given).lower, alpha(steps=0).lower, found

    start, none, found = by_numpy(bound)(region)
    np.testing.assert_allclose(none, start, rtol=1e-5)
    assert (found > start + 1e-3).all()


def test_nothing_to_optimise():
    """Affine functions and stable neurons: as crown; infinite bounds stay what they are."""
    functions = (
        lambda x: 2 * x,
        lambda x: jax.nn.relu(x).sum(),
        lambda x: jnp.sum(x) * jnp.ones(2),
    )
    methods = (jb.alpha_crown, jb.crown)
    both = by_numpy(lambda x: [[method(fn, x) for fn in functions] for method in methods])
    for one, two in zip(*both(jb.linf_ball(jnp.ones(3), 0.5)), strict=True):
        np.testing.assert_allclose([one.lower, one.upper], [two.lower, two.upper], rtol=1e-6)
    wide = jb.Interval(jnp.array([-jnp.inf, 1.0]), jnp.array([1.0, jnp.inf]))
    fn = lambda x: jax.nn.relu(x) - jax.nn.sigmoid(x)
    found = by_numpy(functools.partial(jb.alpha_crown, fn))(wide)
    assert not np.isnan([found.lower, found.upper]).any()


def test_balls_and_several_inputs():
    w = weights(4, 10, 3)
    fn = lambda x, y: jnp.tanh(x @ w[0]) @ w[1] * y
    x, y = jb.lp_ball(jnp.ones(4), 0.5, 2), jb.linf_ball(jnp.ones(3), 0.2)
    found, start = by_numpy(lambda *r: (jb.alpha_crown(fn, *r), jb.crown(fn, *r)))(x, y)
    rng = np.random.default_rng(0)
    points = samples(x, 500)
    others = rng.uniform(0.8, 1.2, (len(points), 3))
    assert_contains(found, values(fn, points, others), 1e-5)
    assert (found.upper - found.lower).mean() < (start.upper - start.lower).mean()


@pytest.mark.parametrize("method", [jb.crown_ibp, jb.crown_lbp])
def test_early_is_never_looser(method):
    fn, region = mlp(jax.nn.relu, weights(4, 12, 12, 12, 3)), jb.linf_ball(jnp.zeros(4), 0.5)
    methods = [functools.partial(method, fn, early=early) for early in (False, True)]
    plain, early = by_numpy(lambda x: [method(x) for method in methods])(region)
    assert_contains(early, values(fn, samples(region, 1000)), 1e-5)
    assert (early.lower >= plain.lower - 1e-5).all() and (early.upper <= plain.upper + 1e-5).all()


def test_early_helps_adaptive_lines_between_intervals():
    """Two relus on [-1, 1.1] add up to at least 0, of which their adaptive lines know nothing."""
    fn = lambda x: 1 + jax.nn.relu(jax.nn.relu(x) @ jnp.ones(2) - 0.5)
    region = box(*(np.full(2, end) for end in (-1, 1.1)))
    assert jb.crown_ibp(fn, region, published=True).lower == pytest.approx(-1.5)
    assert jb.crown_ibp(fn, region, published=True, early=True).lower >= 0.5 - 1e-6


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": -1}, "steps is -1"),
        ({"relaxation": "constant"}, "no alphas"),
        ({"relaxation": {"nowhere:0": {}}}, "'nowhere:0'"),
        ({"relaxation": {"input:0": {"lower": np.zeros(2)}}}, r"shape \(2,\)"),
        ({"relaxation": {"input:0": {"left": np.zeros(3)}}}, "'left'"),
        ({"relaxation": {"input:0": {"lower": np.full(3, 1.5)}}}, r"not in \[0, 1\]"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        jb.alpha_crown(jax.nn.relu, jb.linf_ball(jnp.zeros(3), 1.0), **options)


def test_meets_the_linear_program():
    """What is true, the triangle relaxation's exact range, optimised lines and their start, nested."""
    with precision("float64"):
        fn = mlp(jax.nn.relu, [w.astype("float64") for w in weights(4, 12, 12, 3)])
        region = box(*(np.full(4, end) for end in (-0.3, 0.4)), dtype="float64")
        slow = optax.adam(optax.exponential_decay(0.1, 1, 0.993))

        def bound(region):
            given = within(fn, region)
            alpha = functools.partial(jb.alpha_crown, fn, region, intermediates=given)
            found = [alpha(), alpha(steps=100), alpha(steps=1000, optimizer=slow)]
            adaptive = jb.crown_ibp(fn, region, intermediates=given)
            return given, [adaptive, best_start(fn, region, given), *found]

        given, found = by_numpy(bound)(region)
        program = reference.lp(fn, region, intermediates=given)
        chain = [*found, program, reference.milp(fn, region, intermediates=given)]
        for outer, inner in itertools.pairwise(chain):
            assert (outer.lower <= inner.lower + 1e-6).all()
            assert (inner.upper <= outer.upper + 1e-6).all()
        adaptive, _, few, many, most = (float((b.upper - b.lower).sum()) for b in found)
        gap = adaptive - float((program.upper - program.lower).sum())
        assert adaptive - few > 0.8 * gap
        assert adaptive - many > 0.95 * gap
        assert adaptive - most > 0.999 * gap


def test_every_function_takes_its_options():
    fn, region = mlp(jax.nn.relu, weights(4, 8, 8, 2)), jb.linf_ball(jnp.zeros(4), 0.5)
    inside = functools.partial(jb.alpha_crown, steps=5, optimize_intermediates=True)

    def bound(region):
        return jb.intermediate_bounds(fn, region, method=inside), jb.intermediate_bounds(fn, region)

    found, plain = by_numpy(bound)(region)
    widths = [sum((b.upper - b.lower).sum() for b in each.values()) for each in (found, plain)]
    assert widths[0] < widths[1]
    for method in (jb.ibp, jb.alpha_crown):
        with pytest.raises(ValueError, match="no alphas to show"):
            jb.alphas(fn, region, method=method)


def test_alphas_of_lines_that_are_not_free():
    fn, region = jax.nn.relu, jb.linf_ball(jnp.zeros(3), 1.0)
    half = np.full(3, 0.5, np.float32)
    for method in (jb.crown, jb.alpha_crown):
        with pytest.raises(ValueError, match=r"alphas \['upper'\].*free lines are \['lower'\]"):
            method(
                lambda x: fn(x).sum(),
                region,
                relaxation={"input:0": {"lower": half, "upper": half}},
            )


def test_several_functions_of_one_operand_have_their_own():
    fn = lambda x: jax.nn.relu(x) + jnp.arctan(x) + jnp.tanh(x)
    found = jb.alphas(fn, jb.linf_ball(jnp.zeros(3), 1.0))
    assert list(found) == ["input:0", "input:0#1", "input:0#2"]


def test_the_better_of_two():
    one, two = (
        jb.Interval(jnp.array(l), jnp.array(u))
        for l, u in (([0.0, 1], [2.0, 3]), ([1.0, 0], [3.0, 2]))
    )
    both = jb.intersect((one, {"a": two}), (two, {"a": two}))
    assert both[0].lower.tolist() == [1, 1] and both[0].upper.tolist() == [2, 2]
    assert both[1]["a"].lower.tolist() == [1, 0]
    apart = jb.intersect(
        jb.Interval(jnp.zeros(1), jnp.ones(1)), jb.Interval(*[jnp.full(1, 1.1)] * 2)
    )
    np.testing.assert_allclose([apart.lower, apart.upper], [[1], [1.1]], rtol=1e-6)  # the gap
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        jb.intersect(one, jb.linf_ball(jnp.zeros((3, 2)), 1.0))
