"""Recipes in the examples' one training loop, on tiny data in this process."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import _data  # noqa: E402
import _objective  # noqa: E402
import _presets  # noqa: E402
import _train  # noqa: E402

SMOKE = dataclasses.replace(
    _presets.PRESETS["smoke"],
    batch_size=16,
    epochs=6,
    ramp_start=2,
    ramp_length=2,
    learning_rate=5e-3,
    eps_train=0.02,
    eps_test=(0.02,),
)


def data(count=160):
    """Two easy classes of 8 x 8 images."""
    rng = np.random.default_rng(0)
    y = (np.arange(count + 16) % 2).astype(np.int32)
    x = np.clip(rng.normal(80 + 100 * y[:, None, None, None], 30, (len(y), 8, 8, 1)), 0, 255)
    x = x.astype(np.uint8)
    return _data.Data("tiny", "made up", x[:count], y[:count], x[count:], y[count:])


def train(tmp_path, **options):
    recipe = dataclasses.replace(SMOKE, **options)
    checkpoints = _train.Checkpoints(str(tmp_path / "checkpoints"))
    state, history = _train.train(recipe, data(), 0, checkpoints)
    return recipe, state, history


@pytest.mark.parametrize("options", [
    {"bound": "pgd", "kappa": None, "attack_steps": 2, "l1": 1e-4},
    {"bound": "single_prop", "kappa": "adaptive", "relaxation": "parallel"},
    {"bound": "ibp", "regularizer": 0.5, "ibp_init": True, "kappa": None},
    {"bound": "fused", "beta": 0.5, "eta": 0.1, "eta_start": 2, "eta_length": 2, "ramp_noise": 0.1},
], ids=lambda o: o["bound"])  # fmt: skip
def test_a_recipe_learns(options, tmp_path):
    recipe, state, history = train(tmp_path, **options)
    assert history[-1]["error"] <= 0.1 < history[0]["error"]
    assert ("verified_error" in history[-1]) == (recipe.bound in ("ibp", "fused"))
    if recipe.kappa == "adaptive":
        assert 0 < float(state["kappa"]) < 1
    if recipe.eta is not None:
        kinks, slopes = (leaves(state["variables"], name) for name in ("r", "eta"))
        assert all(np.isfinite(r).all() and (r > 0.99e-4).all() for r in kinks)
        assert not np.any(slopes)  # the schedule has ended


def leaves(tree, name):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [np.asarray(leaf) for path, leaf in found if path[-1].key == name]


def test_the_epoch_is_chosen_by_images_that_are_held_out(tmp_path):
    recipe, state, history = train(tmp_path, bound="ibp", validation=16)
    errors = {h["epoch"]: h["validation_error"] for h in history if "validation_error" in h}
    assert set(errors) == {5, 6}  # eps has grown by then
    variables, how = _train.chosen(recipe, state)
    best = min(errors, key=lambda epoch: (errors[epoch], epoch))
    assert int(state["best"]["epoch"]) == best and f"epoch {best}" in how
    net = _train.classifier(recipe, data())
    held_out = data().x_train[144:], data().y_train[144:]
    assert _train.make_validation(net, recipe, *held_out)(variables) == pytest.approx(errors[best])


def test_many_steps_of_one_dispatch(tmp_path, monkeypatch):
    _, one, _ = train(tmp_path / "one", bound="ibp")
    monkeypatch.setattr(_train, "AT_ONCE", {})
    monkeypatch.setattr(_train, "MOST_AT_ONCE", 3)  # of 10 steps
    _, many, _ = train(tmp_path / "many", bound="ibp")
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    jax.tree.map(close, one["variables"], many["variables"])


def test_batches_are_accumulated(tmp_path):
    """The optimiser moves with every second batch."""
    _, state, _ = train(tmp_path, bound="ibp", accumulate=2)
    assert int(state["opt"].gradient_step) == 30 and int(state["step"]) == 60


def test_half_precision_is_of_the_loss_alone():
    losses, recipe = {}, dataclasses.replace(SMOKE, bound="ibp")
    net = _train.classifier(recipe, data())
    state = _train.initial_state(net, recipe, data(), 0)
    x, y = jnp.float32(data().x_train) / 255, data().y_train
    for dtype in ("float32", "bfloat16"):
        loss = _objective.make_loss(net, dataclasses.replace(recipe, dtype=dtype))
        variables = state["variables"]
        phase = _objective.Phase("ibp", False)
        args = (
            variables["params"],
            variables,
            x,
            y,
            jnp.float32(0.05),
            jnp.float32(1),
            jax.random.key(0),
        )
        both = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=7)
        (total, (_, running)), grads = both(*args, phase)
        losses[dtype] = float(total)
        assert {leaf.dtype for leaf in jax.tree.leaves((running, grads))} == {jnp.dtype("float32")}
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.03)
    assert losses["float32"] != losses["bfloat16"]


DEVICES = """
import sys; sys.path.insert(0, {tests!r})
import pathlib, jax, numpy as np, test_recipes as t
assert len(jax.local_devices()) == 8
_, state, history = t.train(pathlib.Path(sys.argv[1]), bound="ibp", epochs=4)
leaf = jax.tree.leaves(state["variables"])[0]
assert len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated
print(*[h["loss"] for h in history])
"""


def test_eight_devices_share_a_batch(tmp_path):
    """The same losses as on one device."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    program = DEVICES.format(tests=str(ROOT / "tests"))
    command = [sys.executable, "-c", program, str(tmp_path / "eight")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, _, history = train(tmp_path / "one", bound="ibp", epochs=4)
    np.testing.assert_allclose(
        [float(loss) for loss in done.stdout.split()], [h["loss"] for h in history], rtol=1e-4
    )
