"""Schedules, losses, the attack and the evaluator."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbound as jb
from jaxbound import networks, training


@pytest.mark.parametrize(
    ("step", "eps"), [(0, 0), (10, 0.00196923), (25, 1 / 13), (50, 0.384615), (100, 1), (999, 1)]
)
def test_smoothed_eps_golden(step, eps):
    np.testing.assert_allclose(training.smoothed_eps(0, 100, 1.0)(step), eps, rtol=3e-6, atol=1e-9)


def test_smoothed_eps_starts_late_and_keeps_its_slope_at_the_joint():
    schedule = training.smoothed_eps(500, 900, 0.4, 0.1)
    assert schedule(0) == schedule(500) == pytest.approx(0.1)
    before, joint, after = (float(schedule(step)) for step in (599.9, 600, 600.1))
    assert joint - before == pytest.approx(after - joint, rel=1e-2)
    assert float(schedule(900)) == pytest.approx(0.4)


def test_linear_eps():
    schedule = training.linear_eps(10, 20, 0.4)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 10, 15, 20, 30)], [0, 0, 0.2, 0.4, 0.4], rtol=1e-6
    )


@pytest.mark.parametrize("schedule", [training.linear_eps, training.smoothed_eps])
def test_schedules_refuse_empty_ramps(schedule):
    with pytest.raises(ValueError, match="start < end"):
        schedule(5, 5, 0.1)


def test_kappa_and_beta_follow_eps():
    eps = jnp.array([0.0, 0.1, 0.2])
    np.testing.assert_allclose(training.kappa(eps, 0.2, final=0.5), [1, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(training.beta(eps, 0.2), [1, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(training.beta(eps, 0.2, final=1.0), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="eps_max"):
        training.kappa(eps, 0.0)


def test_worst_case_cross_entropy():
    lower = jnp.array([[0.0, 1.0], [-2000.0, 0.0], [np.inf, np.inf]])
    got = training.worst_case_cross_entropy(lower)
    np.testing.assert_allclose(got, [np.log(2 + np.exp(-1.0)), 2000.0, 0.0], rtol=1e-6)


@pytest.fixture(scope="module")
def small():
    """A small network as `apply(params, x)`, a few images and labels."""
    model = networks.ConvNet((networks.ConvSpec(4, 3, 2),), (8,), classes=4)
    images = jax.random.uniform(jax.random.key(1), (7, 8, 8, 1))
    params = jax.jit(model.init)(jax.random.key(0), images)
    labels = jnp.argmax(model.apply(params, images), -1).at[0].add(1) % 4  # the first one wrong
    return lambda params, x: model.apply(params, x[None])[0], params, images, labels


def batch_loss(loss, apply, labels, eps, **options):
    def total(params, images):
        def one(x, y):
            box = jb.linf_ball(x, eps, clip=(0.0, 1.0))
            return loss(functools.partial(apply, params), x, y, box, **options)

        losses, terms = jax.vmap(one)(images, labels)
        return losses.mean(), terms

    return jax.jit(total)


@pytest.mark.parametrize("loss", [training.ibp_loss, training.crown_ibp_loss])
def test_losses_at_radius_zero_are_the_cross_entropy(small, loss):
    apply, params, images, labels = small
    value, terms = batch_loss(loss, apply, labels, 0.0)(params, images)
    logits = jax.vmap(functools.partial(apply, params))(images)
    clean = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(terms.clean, clean, rtol=1e-4)
    np.testing.assert_allclose(terms.robust, clean, rtol=1e-4)
    np.testing.assert_allclose(value, clean.mean(), rtol=1e-4)


def test_beta_multiplies_the_crown_ibp_bound(small):
    apply, params, images, labels = small

    def lower(loss, **options):
        return batch_loss(loss, apply, labels, 0.05, **options)(params, images)[1].lower

    ibp, crown, half = (
        lower(training.ibp_loss),
        lower(training.crown_ibp_loss, beta=1.0),
        lower(training.crown_ibp_loss, beta=0.25),
    )
    assert jnp.abs(ibp - crown).max() > 1e-3
    np.testing.assert_allclose(half, 0.25 * crown + 0.75 * ibp, rtol=1e-5, atol=1e-5)


def test_kappa_weighs_the_clean_loss(small):
    apply, params, images, labels = small
    value, terms = batch_loss(training.ibp_loss, apply, labels, 0.05, kappa=0.2)(params, images)
    np.testing.assert_allclose(value, jnp.mean(0.2 * terms.clean + 0.8 * terms.robust), rtol=1e-5)
    assert (terms.robust >= terms.clean).all()


def test_what_a_python_zero_multiplies_costs_nothing(small):
    apply, params, images, labels = small

    def convolutions(loss, **weights):
        total = batch_loss(loss, apply, labels, 0.05, **weights)
        step = jax.jit(jax.grad(lambda *call: total(*call)[0]))
        return step.lower(params, images).as_text().count("stablehlo.convolution")

    alone = convolutions(training.ibp_loss, kappa=0.0)
    assert alone < convolutions(training.ibp_loss, kappa=jnp.array(0.0))
    assert alone == convolutions(training.crown_ibp_loss, kappa=0.0, beta=0.0)
    crown = convolutions(training.crown_ibp_loss, kappa=0.0, beta=1.0)
    assert alone < crown < convolutions(training.crown_ibp_loss, kappa=0.0, beta=jnp.array(1.0))


def test_training_lowers_the_certified_loss(small):
    apply, params, images, labels = small
    loss = batch_loss(training.crown_ibp_loss, apply, labels, 0.02)
    optimiser = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, images)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    state, values = optimiser.init(params), []
    for _ in range(30):
        params, state, value = step(params, state)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < 0.5 * values[0]


def test_bounds_with_the_clean_batch_statistics():
    model = networks.ConvNet((networks.ConvSpec(3, 3, 2),), (5,), classes=4, batch_norm=True)
    images = jax.random.uniform(jax.random.key(1), (6, 8, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    labels = jnp.arange(6) % 4

    @jax.jit
    def loss(params):
        clean = networks.clean_pass(model, variables | {"params": params}, images)

        def one(x, y):
            box = jb.linf_ball(x, 0.01)
            return training.ibp_loss(lambda x: model.apply(clean.frozen, x[None])[0], x, y, box)

        losses, terms = jax.vmap(one)(images, labels)
        return losses.mean(), (terms, clean.logits)

    (_, (terms, logits)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    np.testing.assert_allclose(terms.logits, logits, rtol=1e-4, atol=1e-5)
    margins = jax.vmap(jb.margins)(logits, labels)
    assert (terms.lower <= margins + 1e-5).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_pgd_stays_inside_the_box_and_finds_the_corner_of_a_linear_map(key):
    weights = jax.random.normal(key, (3, 5))
    box = jb.linf_ball(jnp.linspace(0.0, 1.0, 5), 0.3, clip=(0.0, 1.0))

    def fn(x):
        return weights @ x

    attack = training.pgd(fn, box, jnp.array(0), key, steps=20, restarts=3)
    assert (attack.x >= box.lower).all()
    assert (attack.x <= box.upper).all()
    exact = jb.ibp(lambda x: jb.margins(fn(x), 0), box).lower.min()
    np.testing.assert_allclose(attack.margins.min(), exact, rtol=1e-5)
    np.testing.assert_allclose(attack.margins, jb.margins(fn(attack.x), 0), rtol=1e-6)


def test_pgd_steps_decay():
    from jaxbound.training import _attack

    np.testing.assert_allclose(_attack.step_sizes(8, 1.0), [1] * 4 + [0.1] * 2 + [0.01] * 2 + [0])


METHODS = {
    "ibp": jb.ibp,
    "crown_ibp": jb.crown_ibp,
    "crown": functools.partial(jb.crown, relaxation="tight"),
}


def test_evaluator(small):
    apply, params, images, labels = small
    evaluate = training.evaluator(
        apply, METHODS, batch_size=3, limits={"crown": 4}, batch_sizes={"crown": 2}
    )
    seen = []
    result = evaluate(params, images, labels, 0.002, lambda *progress: seen.append(progress))
    assert seen[:3] == [("clean", 3, 7), ("clean", 6, 7), ("clean", 7, 7)]
    assert seen[-2:] == [("crown", 2, 4), ("crown", 4, 4)]
    assert result.clean_error == pytest.approx(1 / 7)
    for lower in result.lower.values():
        assert (lower <= result.attacked[: len(lower)] + 1e-5).all()
    assert (result.attacked <= result.clean).all()
    summary = result.summary()
    assert summary["verified_images"] == {"ibp": 7, "crown_ibp": 7, "crown": 4, "union": 7}
    assert set(summary["contradictions"].values()) == {0}
    assert result.clean_error <= result.pgd_error <= result.verified_error["union"]
    assert result.verified_error["union"] <= result.verified_error["ibp"]
    one = training.evaluator(apply, {"ibp": jb.ibp}, batch_size=1, attack_steps=0)
    again = one(params, images, labels, 0.002)
    np.testing.assert_allclose(again.lower["ibp"], result.lower["ibp"], rtol=1e-4, atol=1e-6)


def test_evaluation_counts_contradictions_zero_margins_and_slack():
    clean, attacked = np.array([1.0, 1.0, 0.0, 2.0]), np.array([0.5, -0.1, 0.0, 1.0])
    lower, labels = {"a": np.array([0.4, 0.2, 0.0, 0.001])}, np.zeros(4, int)
    result = training.Evaluation(clean, attacked, lower, labels, slack=0.01)
    assert result.clean_error == 0.25
    assert result.pgd_error == 0.5
    assert result.verified_error == {"a": 0.5, "union": 0.5}
    assert result.contradictions == {"a": 1, "union": 1}


def test_errors_of_every_class():
    clean, attacked = np.array([1.0, -1.0, 1.0, 2.0, 1.0]), np.array([1.0, -1.0, -0.1, 2.0, 1.0])
    lower = {"all": np.array([0.5, -2.0, -0.1, 0.5, -1.0]), "two": np.array([0.5, -2.0])}
    result = training.Evaluation(clean, attacked, lower, np.array([3, 7, 7, 3, 5]))
    summary = result.summary()
    assert summary["images"] == 5
    assert summary["classes"] == {
        "3": {
            "images": 2,
            "clean_error": 0.0,
            "pgd_error": 0.0,
            "verified_error": {"all": 0.0, "two": 0.0, "union": 0.0},
            "verified_images": {"all": 2, "two": 1, "union": 2},
            "contradictions": {"all": 0, "two": 0, "union": 0},
            "undecided": 0,
        },
        "5": {
            "images": 1,
            "clean_error": 0.0,
            "pgd_error": 0.0,
            "verified_error": {"all": 1.0, "union": 1.0},
            "verified_images": {"all": 1, "union": 1},
            "contradictions": {"all": 0, "union": 0},
            "undecided": 1,
        },
        "7": {
            "images": 2,
            "clean_error": 0.5,
            "pgd_error": 1.0,
            "verified_error": {"all": 1.0, "two": 1.0, "union": 1.0},
            "verified_images": {"all": 2, "two": 1, "union": 2},
            "contradictions": {"all": 0, "two": 0, "union": 0},
            "undecided": 0,
        },
    }
    assert json.loads(json.dumps(summary)) == summary


def test_what_methods_leave_is_decided_completely():
    """Of four images one is attacked, one verified by IBP, one by branch and bound, and one is not looked at."""

    def apply(w, x):
        greatest = jnp.abs(x[0] - x[1]) + jnp.abs(x[0] + x[1])  # 2 max(|x_0|, |x_1|)
        return jnp.stack([w * greatest - x[0] + 0.1 + x[2], jnp.zeros(())])

    images = jnp.array([[0.0, 0.0, -1.0], [0.0, 0.0, 5.0], [0.1, 0.0, 0.15], [0.0, 0.0, 0.2]])
    labels, told = jnp.array([0, 0, 0, 0]), []
    complete = functools.partial(jb.verify, timeout=60.0, split="hidden", batch=8)
    evaluate = training.evaluator(
        apply, {"ibp": jb.ibp}, clip=None, complete=complete, limits={"ibp": 3}
    )
    found = evaluate(jnp.array(-0.05), images, labels, 0.5, lambda *stage: told.append(stage))
    assert found.verified["ibp"].tolist() == [False, True, False]
    assert found.verified["complete"].tolist() == [False, True, False]
    found = evaluate(jnp.array(1.0), images, labels, 0.2, lambda *stage: told.append(stage))
    assert found.verified["ibp"].tolist() == [False, True, False]
    assert found.verified["complete"].tolist() == [False, True, True]
    assert (
        found.undecided == 1 and found.summary()["undecided"] == 1
    )  # the last, which no method saw
    assert found.contradictions == {"ibp": 0, "complete": 0, "union": 0}
    assert ("complete", 1, 1) in told
    with pytest.raises(ValueError, match="complete"):
        training.evaluator(apply, {"complete": jb.ibp})


def test_restarts_attack_what_still_stands():
    """A margin with two valleys: the walk from the centre finds the shallow one."""

    def apply(depth, x):
        valley = jnp.maximum(0.5 - 5 * jnp.abs(x[0] - 0.1), depth * (x[0] < -0.5) * (-x[0]))
        return jnp.stack([x[1] - valley, x[1] * 0])

    images = jnp.array([[0.0, 2.0], [0.0, 1.4], [0.0, -1.0], [0.0, 5.0]])
    labels, seen = jnp.zeros(4, int), []

    def found(restarts, tell=lambda *progress: None):
        evaluate = training.evaluator(
            apply, {}, clip=None, attack_restarts=restarts, batch_size=3, seed=1
        )
        return evaluate(jnp.array(3.0), images, labels, 1.0, tell)

    once, often = found(1), found(8, lambda *progress: seen.append(progress))
    rounds = [total for stage, done, total in seen if stage == "pgd" and done == total]
    assert len(rounds) == 8
    assert rounds[0] == 3  # the third image is wrong as it is
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[-1] == 1  # the last image withstands
    assert (often.attacked <= once.attacked).all()
    assert often.pgd_error > once.pgd_error
    assert often.pgd_error == 0.75
    again = training.evaluator(apply, {}, clip=None, attack_restarts=8, batch_size=1, seed=1)
    np.testing.assert_allclose(
        again(jnp.array(3.0), images, labels, 1.0).attacked, often.attacked, rtol=1e-5
    )


def test_evaluator_refuses_unknown_names_and_nan():
    with pytest.raises(ValueError, match="typo"):
        training.evaluator(lambda p, x: x, {"ibp": jb.ibp}, limits={"typo": 1})
    with pytest.raises(ValueError, match="union"):
        training.evaluator(lambda p, x: x, {"union": jb.ibp})

    def broken(fn, box):
        return jb.Interval(*2 * (jnp.full(2, jnp.nan),))

    images, labels = jnp.ones((1, 3)), jnp.zeros(1, int)
    with pytest.raises(FloatingPointError, match="NaN"):
        training.evaluator(lambda p, x: x, {"broken": broken})(None, images, labels, 0.1)


@pytest.mark.parametrize(("p", "clip"), [(1, (0.0, 1.0)), (2, (0.0, 1.0)), (3, None)])
def test_pgd_on_balls(p, clip):
    """On a linear function it finds the minimum; it stays in the ball and in its box."""
    rows = jnp.array([[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.2]])
    x = jnp.array([0.5, 0.5, 0.9, 0.0])
    fn = lambda z: rows @ z + jnp.array([2.0, 0.0])

    @jax.jit
    def attacked(x, key):
        ball = jb.lp_ball(x, 0.7, p, clip)
        found = training.pgd(fn, ball, 0, key, steps=60, restarts=2)
        return found, jb.ibp(lambda z: jb.margins(fn(z), 0), ball).lower[0]

    found, least = attacked(x, jax.random.key(0))
    assert jnp.linalg.norm(found.x - x, p) <= 0.7 * (1 + 1e-6)
    assert clip is None or ((found.x >= 0) & (found.x <= 1)).all()
    assert least - 1e-5 <= found.margins[0] <= least + 0.01
