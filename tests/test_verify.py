"""Decisions: every verdict is right, every witness refutes, and what cannot be decided is unknown."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import once, samples

import jaxbound as jb
from jaxbound import reference
from jaxbound._decide import stages
from jaxbound._decide.boxes import _clip
from jaxbound._decide.cells import bound_cells, bound_root
from jaxbound._decide.question import in_float64, pose
from jaxbound._decide.search import Clock
from jaxbound._decide.sharpen import inner_operands, sharpened

relu = jax.nn.relu


def dense(act):
    def fn(p, x):
        h = act(x @ p[0] + p[1])
        return (h + act(h @ p[2] + p[3])) @ p[4] + p[5]

    return fn, ((3, 5), (5,), (5, 5), (5,), (5, 1), (1,)), (3,)


def greater(a, b):
    return a + relu(b - a)


def pooled(maximum):
    def fn(p, x):
        h = (x @ p[0] + p[1]).reshape(2, 2, 2)
        if maximum is None:
            h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")
        else:
            h = maximum(h[:, 0], h[:, 1])
        return relu(h.ravel()) @ p[2] + p[3]

    return fn, ((3, 8), (8,), (4, 1), (1,)), (3,)


def conv(p, x):
    h = jax.lax.conv_general_dilated(
        x[None, :, None], p[0], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )
    return relu(h).ravel() @ p[1] + p[2]


# The function, the shapes of its weights and of its input, and the same function for the exact reference.
NETWORKS = {
    "residual": (*dense(lambda z: jax.nn.leaky_relu(z, 0.1)), None),
    "ramp": (*dense(lambda z: jb.param_ramp(z, 1.0, 0.1)), None),
    "max-pool": (*pooled(None), pooled(greater)[0]),
    "convolution": (conv, ((3, 1, 2), (8, 1), (1,)), (4,), None),
}


def shifted(fn, p, x, shift):
    return fn(p, x)[0] - shift


@functools.cache
def question(name):
    """The function whose minimum is compared with 0; one object, so that programs are shared."""
    return functools.partial(shifted, NETWORKS[name][0])


@functools.cache
def instance(name, seed):
    """Weights, a box, and the exact minimum of the network over it."""
    fn, shapes, shape, same = NETWORKS[name]
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s).astype("float32") for s in shapes]
    center = rng.normal(size=shape).astype("float32")
    box = jb.linf_ball(center, float(rng.choice([0.1, 1.0, 2.0])))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), (weights, box))
        found = reference.milp(lambda p, x: (same or fn)(p, x)[0], *wide)
    return weights, box, found.lower.item()


def check_witness(verdict, fn, box):
    """The witness lies in the region, has its type, and the function itself is not positive there."""
    x = verdict.witness[-1] if isinstance(verdict.witness[-1], np.ndarray) else verdict.witness[1]
    assert x.dtype == box.dtype
    assert (np.asarray(box.box.lower) <= x).all() and (x <= np.asarray(box.box.upper)).all()
    assert not (np.asarray(fn(*verdict.witness)) > 0).all()


@pytest.mark.parametrize(
    ("name", "split", "attack"),
    [
        ("residual", "hidden", False),
        ("ramp", "hidden", False),
        ("max-pool", "hidden", False),
        ("convolution", "hidden", True),
        ("ramp", "input", False),
    ],
)
def test_every_verdict_is_right_next_to_the_minimum(name, split, attack):
    """The property is a thousandth above and below the minimum that a mixed-integer program finds."""
    fn = question(name)
    for seed, side in itertools.product(range(4), (-1e-3, 1e-3)):
        weights, box, least = instance(name, seed)
        shift = np.float32(least + side)
        found = jb.verify(
            fn, weights, box, shift, split=split, attack=attack, batch=16, timeout=300
        )
        assert found.status == ("verified" if side < 0 else "falsified"), (seed, side, found)
        assert found.lower <= least - float(shift) + 1e-5
        assert found.open == 0 or side > 0
        if side > 0:
            check_witness(found, fn, box)
            assert found.decided != ""
        else:
            assert found.witness is None and found.lower >= 0


def test_a_search_that_starts_anew_with_tighter_operands_is_right(monkeypatch):
    monkeypatch.setattr(stages, "FIRST", 0.0)
    weights, box, least = instance("residual", 0)
    for side, status in ((-1e-3, "verified"), (1e-3, "falsified")):
        shift = np.float32(least + side)
        found = jb.verify(
            question("residual"), weights, box, shift, split="hidden", attack=False, batch=16
        )
        assert found.status == status and found.lower <= least - float(shift) + 1e-5


def test_operands_of_products_are_bounded_once_more_too():
    w, v = (np.random.default_rng(5).normal(size=n).astype("float32") for n in ((2, 4), (4, 4)))

    def fn(x):
        h = relu(x @ w) @ v
        return (h[:2] * h[2:]).sum()

    box = jb.linf_ball(jnp.zeros(2), 1.0)
    asked, _ = pose(fn, (box,), None)
    with in_float64():
        before = bound_root(asked, [box]).intermediates
        inner = inner_operands(asked, [box])
        found = sharpened(asked, inner, [box], before, Clock(600.0))
        h = np.maximum(np.asarray(samples(box, 2000), float) @ w, 0) @ v
    assert len(inner) == 2
    for name, z in zip(inner, (h[:, :2], h[:, 2:]), strict=True):
        assert (np.asarray(found[name].lower) <= z + 1e-6).all()
        assert (z - 1e-6 <= np.asarray(found[name].upper)).all()
        assert (np.asarray(before[name].lower) <= np.asarray(found[name].lower)).all()


def test_operands_that_are_bounded_once_more_hold_what_samples_reach():
    def fn(p, x):
        h = relu(x @ p[0])
        g = relu(h @ p[1])
        return relu(g @ p[2]).sum()

    rng = np.random.default_rng(3)
    weights = [rng.normal(size=s).astype("float32") for s in ((3, 6), (6, 6), (6, 5))]
    box = jb.linf_ball(jnp.asarray(rng.normal(size=3), "float32"), 0.5)
    asked, _ = pose(fn, (weights, box), None)
    leaves = [*map(jnp.asarray, weights), box]
    with in_float64():
        before = bound_root(asked, leaves).intermediates
        inner = inner_operands(asked, leaves)
        assert sharpened(asked, inner, leaves, before, Clock(0.0)) is before
        found = sharpened(asked, inner, leaves, before, Clock(600.0))
        xs = np.asarray(samples(box, 5000), float)
    g = np.maximum(xs @ weights[0], 0) @ weights[1]
    assert len(inner) == 2 and found.keys() == before.keys()
    for name, z in zip(inner, (g, np.maximum(g, 0) @ weights[2]), strict=True):
        old, new = (jax.tree.map(np.asarray, each[name]) for each in (before, found))
        assert (old.lower <= new.lower).all() and (new.upper <= old.upper).all()
        assert (new.lower <= z + 1e-6).all() and (z - 1e-6 <= new.upper).all()
    last = inner[-1]
    width = lambda known: np.asarray(known[last].upper - known[last].lower).sum()
    assert width(found) < 0.98 * width(before)


def test_bounds_under_constraints_do_not_hang_on_the_units_of_the_function():
    w = np.random.default_rng(4).normal(size=(3, 5)).astype("float32")
    fn = lambda scale, x: scale * relu(x @ w)[None] @ jnp.ones((5, 1))
    box = jb.linf_ball(jnp.zeros(3), 1.0)
    (name,) = jb.intermediate_bounds(fn, jnp.float32(1), box)
    held = {
        name: jb.Interval(jnp.array([0.0, -jnp.inf, -jnp.inf, 0.5, -jnp.inf]), jnp.full(5, 2.0))
    }
    bound = lambda scale: jb.alpha_crown(fn, jnp.float32(scale), box, constraints=held).lower.item()
    assert bound(1000.0) == pytest.approx(1000 * bound(1.0), rel=1e-4)
    assert bound(1.0) > jb.crown(fn, jnp.float32(1), box).lower.item() + 0.01


@pytest.mark.parametrize("act", [jax.nn.sigmoid, jnp.tanh], ids=["sigmoid", "tanh"])
def test_smooth_functions_are_split_in_the_middle(act):
    rng = np.random.default_rng(1)
    w, v = (rng.normal(size=s).astype("float32") for s in ((3, 6), (6,)))
    fn = lambda shift, x: act(x @ w) @ v - shift
    box = jb.linf_ball(jnp.zeros(3), 2.0)
    ys = np.asarray(jax.vmap(lambda x: fn(0.0, x))(samples(box, 20000)))
    least = ys.min()
    assert (
        jb.verify(fn, np.float32(least - 0.3), box, split="hidden", batch=16).status == "verified"
    )
    found = jb.verify(fn, np.float32(least + 0.01), box, split="hidden", batch=16)
    assert found.status == "falsified"
    check_witness(found, fn, box)


def test_lp_balls():
    rng = np.random.default_rng(2)
    w, v = (rng.normal(size=s).astype("float32") for s in ((4, 6), (6,)))
    fn = lambda shift, x: relu(x @ w) @ v - shift
    ball = jb.lp_ball(jnp.asarray(rng.normal(size=4), "float32"), 0.7, 2, clip=(-1.5, 1.5))
    points = np.asarray(jax.vmap(ball.start)(jnp.asarray(rng.uniform(size=(20000, 4)), "float32")))
    least = float(np.asarray(jax.vmap(lambda x: fn(0.0, x))(points)).min())
    assert jb.verify(fn, np.float32(least - 0.2), ball, batch=16).status == "verified"
    found = jb.verify(fn, np.float32(least + 0.01), ball, batch=16)
    assert found.status == "falsified"
    check_witness(found, fn, ball)
    x = found.witness[-1].astype(float)
    assert np.linalg.norm(x - np.asarray(ball.center, float)) <= float(ball.radius)


@pytest.mark.parametrize("split", ["hidden", "input"])
def test_a_clause_holds_where_one_of_its_rows_does(split):
    """``relu(x)`` or ``relu(-x)`` is positive except at 0; with a little more, both clauses hold."""
    fn = lambda more, x: jnp.stack([relu(x), relu(-x)], 1) - more
    box = jb.linf_ball(jnp.array([0.5, -0.25]), 1.0)
    found = jb.verify(fn, -0.01, box, any_axis=1, split=split, batch=8)
    assert found.status == "verified" and found.lower.shape == (2,)
    assert (found.lower <= 0.01 + 1e-6).all() and (found.decided != "").all()
    found = jb.verify(fn, 0.01, box, any_axis=1, split=split, batch=8)
    assert found.status == "falsified"
    assert not (np.asarray(fn(*found.witness)) > 0).any(1).all()
    assert jb.verify(fn, -0.01, box, split=split).status == "verified"
    assert jb.verify(lambda x: fn(-0.01, x)[:, 0], box, split=split).status == "verified"


def test_labels_weights_and_boxes_share_programs():
    fn, shapes, shape, _ = NETWORKS["residual"]
    classes = lambda p, x: jnp.stack([fn(p, x)[0], fn(p, -x)[0], x.sum()])
    ask = lambda p, x, label: jb.margins(classes(p, x), label)
    rng = np.random.default_rng(5)
    sizes = [(bound_root._cache_size(), bound_cells._cache_size())]
    for seed in range(12):
        weights = [rng.normal(size=s).astype("float32") for s in shapes]
        box = jb.linf_ball(jnp.asarray(rng.normal(size=shape), "float32"), 0.3)
        jb.verify(ask, weights, box, seed % 3, split="hidden", batch=8, timeout=30)
        sizes.append((bound_root._cache_size(), bound_cells._cache_size()))
    roots, cells = np.subtract(sizes[-1], sizes[0])
    assert roots == 1 and cells <= 2  # with steps, and without for what is tried


# ---------------------------------------------------------------- wrong verdicts that other verifiers gave


def test_a_tie_is_not_positive():
    found = jb.verify(lambda x: relu(x).sum(), jb.linf_ball(jnp.zeros(2), 1.0))
    assert found.status == "falsified" and found.lower <= 0


def test_a_bound_that_is_nan_or_infinite_proves_nothing():
    box = jb.linf_ball(jnp.array([0.5]), 1.0)
    assert jb.verify(lambda x: jnp.log(x) + 10, box, timeout=3).status != "verified"
    assert jb.verify(lambda x: 1 / x**2, box, timeout=3).status != "verified"
    assert (
        jb.verify(lambda x: jnp.where(x > 2, jnp.nan, 1 + 0 * x), box, timeout=3).status
        != "falsified"
    )


def test_an_error_is_an_error():
    def broken(x):
        raise RuntimeError("the model is broken")

    box = jb.linf_ball(jnp.zeros(1), 1.0)
    with pytest.raises(RuntimeError, match="the model is broken"):
        jb.verify(broken, box)
    with pytest.raises(jb.UnsupportedPrimitiveError):
        jb.verify(lambda x: jnp.linalg.eigh(x[0] * jnp.eye(9))[0], box)


def test_arguments_may_hold_anything():
    fn = lambda kept, x: (x if kept["flag"] else -x) * kept["scale"] + 3.0
    kept = {"flag": True, "nothing": None, "scale": 2.0, "name": "net", "call": jnp.sin}
    found = jb.verify(fn, kept, jb.linf_ball(jnp.zeros(2), 2.0))
    assert found.status == "falsified" and found.witness[0] == kept
    assert jb.verify(fn, kept, jb.linf_ball(jnp.zeros(2), 1.0)).status == "verified"


def test_a_function_without_a_derivative_is_decided_too():
    box = jb.linf_ball(jnp.array([0.5, 1.0]), 0.2)
    fn = lambda shift, x: jnp.nextafter(relu(x), 3.0).sum() - shift
    assert jb.verify(fn, np.float32(1.0), box).status == "verified"
    assert jb.verify(fn, np.float32(2.0), box).status == "falsified"


def test_a_witness_lies_in_the_box_as_it_was_given():
    """The minimum is at an end that float64 or rounding could leave; ends need not be numbers of the type's grid."""
    lower, upper = np.float32(0.1), np.float32(0.3)
    box = jb.Interval(jnp.array([lower]), jnp.array([upper]))
    found = jb.verify(lambda x: x - lower, box)
    assert found.status == "falsified" and lower <= found.witness[0][0] <= upper
    with jax.enable_x64(True):
        assert jb.verify(lambda x: x - float(lower) + 1e-12, box).status == "verified"


def test_a_margin_below_the_rounding_of_float32_is_decided_in_float64():
    """In float32 the sum of these terms is off by more than the margin."""
    fn = lambda x: (x[0] + 1e5) - (x[1] + 1e5) + 1.001 * 2
    box = jb.linf_ball(jnp.zeros(2), 1.0)
    assert jb.crown(fn, box).lower < 0.0021
    found = jb.verify(fn, box)
    assert found.status == "verified"
    assert (
        abs(found.lower - 0.002) < 1e-4
    )  # 1.001 is a number of float32 where the function is traced


@pytest.mark.parametrize("options", [{"batch": 1}, {"steps": 0}, {"batch": 3, "steps": 1}], ids=str)
def test_small_batches_and_no_steps(options):
    weights, box, least = instance("residual", 1)
    for side, status in ((-0.05, "verified"), (0.05, "falsified")):
        shift = np.float32(least + side)
        found = jb.verify(
            question("residual"), weights, box, shift, split="hidden", attack=False, **options
        )
        assert found.status == status


def test_planted_counterexamples_are_never_verified():
    """A bump of relus at a known point is all that violates the property; its twin looks elsewhere."""
    rng = np.random.default_rng(3)
    point = rng.uniform(-0.8, 0.8, 4).astype("float32")

    def fn(x):
        far = relu(x - point) + relu(point - x)
        bump = relu(0.02 - far.sum())
        value = 0.005 + 0.1 * relu(x).sum() - bump * 200
        return value + relu(value)

    whole = jb.linf_ball(jnp.zeros(4), 1.0)
    found = jb.verify(fn, whole, attack=False, timeout=60, batch=16)
    assert found.status != "verified"
    away = jb.Interval(jnp.asarray(point) + 0.05, jnp.asarray(point) + 0.1)
    assert jb.verify(fn, away, attack=False, batch=16).status == "verified"


# ---------------------------------------------------------------- parts


def test_clipping_keeps_every_violation():
    """What is cut off, with rows' own bounds, holds no point at which all rows of a clause are <= 0."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        coeffs, offset = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3))
        coeffs[rng.uniform(size=coeffs.shape) < 0.2] = 0
        ends = np.sort(rng.normal(size=(2, 4)), 0)
        lower = offset + np.minimum(coeffs * ends[0], coeffs * ends[1]).sum(-1)
        with jax.enable_x64(True):
            kept, empty = map(np.asarray, _clip(*map(jnp.asarray, (lower, coeffs, ends))))
        x = rng.uniform(*ends, size=(4000, 4))
        violated = (np.einsum("crd,nd->ncr", coeffs, x) + offset <= 0).all(-1)
        for clause in range(2):
            inside = ((kept[clause, 0] <= x) & (x <= kept[clause, 1])).all(-1)
            assert (inside | ~violated[:, clause]).all()
            assert not (empty[clause] and violated[:, clause].any())


def test_bounds_under_constraints_hold_where_they_do():
    """Multipliers make alpha-CROWN tighter where an operand is on one side of a point."""
    rng = np.random.default_rng(0)
    w1, w2, w3 = (rng.normal(size=s).astype("float32") for s in ((3, 6), (6, 6), (6, 2)))
    fn = lambda x: relu(relu(x @ w1) @ w2) @ w3
    box = jb.linf_ball(jnp.array([0.3, -0.2, 0.1]), 0.7)
    xs = samples(box, 20000)
    ys, zs = np.asarray(jax.vmap(fn)(xs)), np.asarray(xs) @ w1
    name = next(iter(once(jb.intermediate_bounds)(fn, box)))
    bound = jax.jit(
        lambda low, high: jb.alpha_crown(fn, box, constraints={name: jb.Interval(low, high)})
    )
    free = bound(np.full(6, -np.inf, "float32"), np.full(6, np.inf, "float32"))
    better = 0
    for element, sign in itertools.product(range(6), (1, -1)):
        ends = np.full((2, 6), [[-np.inf], [np.inf]], "float32")
        ends[0 if sign > 0 else 1, element] = 0.1
        here = sign * (zs[:, element] - 0.1) >= 0
        found = bound(*ends)
        assert (found.lower <= ys[here].min(0) + 1e-4).all()
        assert (found.upper >= ys[here].max(0) - 1e-4).all()
        better += int((np.asarray(found.lower) > np.asarray(free.lower) + 1e-3).sum())
    assert better >= 6


def test_a_score_of_ones_own():
    """Whatever is split first, verdicts stay right."""
    weights, box, least = instance("residual", 1)
    first = lambda rows, below, above: jnp.abs(rows)
    found = jb.verify(
        question("residual"),
        weights,
        box,
        np.float32(least - 0.01),
        split="hidden",
        score=first,
        batch=16,
    )
    assert found.status == "verified"


# ---------------------------------------------------------------- unknown, and wrong inputs


def test_time_and_interruption_end_in_unknown_with_what_is_proved():
    weights, box, least = instance("residual", 2)
    ask = functools.partial(
        jb.verify, question("residual"), weights, box, split="hidden", attack=False
    )
    found = ask(np.float32(least - 1e-4), timeout=1e-3)
    assert found.status == "unknown" and found.witness is None
    assert -np.inf < found.lower <= 1e-4

    def interrupt(report):
        assert set(report) == {"open", "proved", "worst", "seconds"} and report["open"] > 0
        raise KeyboardInterrupt

    found = ask(np.float32(least - 1e-4), batch=2, steps=0, progress=interrupt)
    assert found.status == "unknown" and found.open > 0 and found.lower <= 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout is 0; expected a number of seconds > 0"),
        ({"timeout": np.ones(2)}, "timeout is .*; expected a number"),
        ({"batch": 0}, "batch is 0; expected a positive integer"),
        ({"split": "both"}, "split is 'both'; expected 'auto', 'hidden' or 'input'"),
        ({"steps": -1}, "steps is -1; expected an integer >= 0"),
        ({"any_axis": 3}, r"any_axis is 3 for values of shapes \[\(2,\)\]"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        jb.verify(lambda x: x + 3, jb.linf_ball(jnp.zeros(2), 1.0), **options)


def test_wrong_questions():
    box = jb.linf_ball(jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match="no argument is uncertain"):
        jb.verify(lambda x: x, jnp.zeros(2))
    with pytest.raises(ValueError, match="the regions have no volume"):
        jb.verify(lambda x: x, jb.linf_ball(jnp.zeros(2), 0.0))
    with pytest.raises(TypeError, match="returns bool; expected floating-point"):
        jb.verify(lambda x: x > 0, box)
    with pytest.raises(TypeError, match=r"is a Polytope; expected a jb\.Interval or a jb\.LpBall"):
        jb.verify(lambda x: x, jb.polytope(jnp.eye(2)))
    with pytest.raises(ValueError, match="returns no elements"):
        jb.verify(lambda x: x[:0], box)
    with pytest.raises(ValueError, match="split is 'input', but a region is no box"):
        jb.verify(
            lambda x: relu(x).sum() + x[0] + 1.2, jb.lp_ball(jnp.zeros(2), 1.0, 2), split="input"
        )
    with pytest.raises(ValueError, match="outside of JAX"):
        jax.jit(lambda box: jb.verify(lambda x: x, box).lower)(box)
