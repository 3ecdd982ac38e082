"""The training loop: a compiled step, checkpoints, and a stop when it goes wrong."""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from _data import Data
from _presets import Preset

import jaxbound as jb
from jaxbound import networks, training


class Diverged(Exception):
    """Training went wrong; the message says where."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network behind the normalisation of its data: `apply(variables, image) -> logits`."""

    model: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, image: jax.Array) -> jax.Array:
        mean, std = (jnp.array(s, image.dtype).reshape(1, 1, -1) for s in (self.mean, self.std))
        return (image - mean) / std

    def init(self, seed: int, shape: tuple[int, ...]) -> Any:
        return jax.jit(self.model.init)(jax.random.key(seed), jnp.zeros((1, *shape)))

    def apply(self, variables: Any, image: jax.Array) -> jax.Array:
        return self.model.apply(variables, self.normalise(image)[None])[0]

    def clean_pass(self, variables: Any, images: jax.Array) -> networks.CleanPass:
        return networks.clean_pass(self.model, variables, jax.vmap(self.normalise)(images))


def classifier(preset: Preset, data: Data) -> Classifier:
    return Classifier(preset.model(data.classes), *data.statistics)


def augment(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Random crops of the images with `pad` black pixels around, and random flips."""
    if not pad:
        return images
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * pad + 1)
    crop = jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])
    )
    flip = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
    crops = crop(padded, corners)
    return jnp.where(flip, crops[:, :, ::-1], crops)


def phase_of(preset: Preset, start_eps: float, end_eps: float) -> str:
    """Which loss an epoch needs, so that no step pays for a bound that is multiplied by 0."""
    if end_eps == 0:
        return "clean"
    settled = start_eps >= preset.eps_train and preset.beta == 0
    return "ibp" if preset.bound == "ibp" or settled else "crown_ibp"


def make_step(net: Classifier, preset: Preset, steps_per_epoch: int, seed: int) -> Callable:
    """The compiled step `(state, images, labels, indices, phase=...) -> (state, metrics)`."""
    schedule, optimiser = preset.eps(steps_per_epoch), preset.optimiser(steps_per_epoch)

    def weights(eps):
        kappa = 0.0 if preset.kappa is None else training.kappa(eps, preset.eps_train, preset.kappa)
        return kappa, training.beta(eps, preset.eps_train, preset.beta)

    def terms_of(phase, variables, x, y, eps):
        fn = functools.partial(net.apply, variables)
        if phase == "clean":
            clean = optax.softmax_cross_entropy_with_integer_labels(fn(x), y)
            return clean, training.LossTerms(clean, clean, fn(x), jb.margins(fn(x), y))
        box, (kappa, beta) = jb.linf_ball(x, eps, clip=(0.0, 1.0)), weights(eps)
        if phase == "ibp":
            return training.ibp_loss(fn, x, y, box, kappa=kappa)
        return training.crown_ibp_loss(fn, x, y, box, kappa=kappa, beta=beta)

    def loss(params, variables, x, y, eps, phase):
        clean = net.clean_pass(variables | {"params": params}, x)
        each = functools.partial(terms_of, phase, clean.frozen, eps=eps)
        losses, terms = jax.vmap(each)(x, y)
        metrics = {
            "loss": losses.mean(),
            "clean_loss": terms.clean.mean(),
            "robust_loss": terms.robust.mean(),
            "error": jnp.mean(terms.logits.argmax(-1) != y),
            "verified_error": jnp.mean(~(terms.lower > 0).all(-1)),
            "eps": eps,
        }
        return metrics["loss"], (metrics, clean.running)

    @functools.partial(jax.jit, static_argnames="phase", donate_argnums=0)
    def step(state, images, labels, indices, phase):
        x = images[indices].astype(jnp.float32) / 255
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        x, y = augment(key, x, preset.augment), labels[indices]
        variables, eps = state["variables"], jnp.float32(schedule(state["step"]))
        grads, (metrics, running) = jax.grad(loss, has_aux=True)(
            variables["params"], variables, x, y, eps, phase
        )
        updates, opt = optimiser.update(grads, state["opt"], variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        new = {"variables": running | {"params": params}, "opt": opt, "step": state["step"] + 1}
        return new, metrics

    return step


class Checkpoints:
    """Orbax checkpoints of finite states, with the history of the run; the newest two are kept."""

    def __init__(self, folder: str):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(os.path.abspath(folder), options=options)

    def save(self, epoch: int, state: Any, history: list[dict[str, float]]) -> None:
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(history)
        )
        self._manager.save(epoch, args=parts)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def restore(self, state: Any) -> tuple[Any, list[dict[str, float]]]:
        """The newest state, shaped like `state`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        parts = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore()
        )
        found = self._manager.restore(self.latest(), args=parts)
        return found["state"], found["history"]


def initial_state(net: Classifier, preset: Preset, data: Data, seed: int) -> dict[str, Any]:
    variables = dict(net.init(seed, data.x_train.shape[1:]))
    opt = preset.optimiser(1).init(variables["params"])
    return {"variables": variables, "opt": opt, "step": jnp.int32(0)}


def train(
    preset: Preset,
    data: Data,
    seed: int,
    checkpoints: Checkpoints,
    report: Callable[[int, int, dict[str, float]], None] = lambda epoch, step, metrics: None,
    epoch_done: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Trains from the newest checkpoint, or from the start where there is none.

    Returns:
      The final state, and every epoch's mean metrics.

    Raises:
      Diverged: the loss or a parameter is not finite, or the loss is absurd.
    """
    steps = len(data.x_train) // preset.batch_size
    if not steps:
        raise ValueError(f"{len(data.x_train)} images do not fill a batch of {preset.batch_size}")
    net = classifier(preset, data)
    state, history = initial_state(net, preset, data, seed), []
    if checkpoints.latest() is not None:
        state, history = checkpoints.restore(state)
    step, schedule = make_step(net, preset, steps, seed), preset.eps(steps)
    images, labels = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    save_every = max(1, preset.epochs // 20)
    for epoch in range(len(history), preset.epochs):
        started, metrics = time.monotonic(), []
        phase = phase_of(preset, schedule(epoch * steps), schedule((epoch + 1) * steps - 1))
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
        for i, indices in enumerate(order[: steps * preset.batch_size].reshape(steps, -1)):
            state, of_step = step(state, images, labels, indices, phase=phase)
            metrics.append(of_step)
            if i % 10 == 9 or i == steps - 1:
                report(epoch, i + 1, check({k: float(v) for k, v in of_step.items()}, epoch, i))
        history.append(summarise(metrics, epoch, time.monotonic() - started, state))
        if len(history) % save_every == 0 or len(history) == preset.epochs:
            checkpoints.save(len(history), state, history)
        epoch_done(history[-1])
    return state, history


def check(metrics: dict[str, float], epoch: int, step: int) -> dict[str, float]:
    if not metrics["loss"] < 1e4:  # a NaN too
        raise Diverged(
            f"the loss is {metrics['loss']:.3g} at epoch {epoch + 1}, step {step + 1}, "
            f"eps {metrics['eps']:.5f}"
        )
    return metrics


def summarise(metrics: list[dict], epoch: int, seconds: float, state: Any) -> dict[str, float]:
    """Means over an epoch (eps: its last), after a look at every loss and parameter."""
    on_host = jax.device_get(metrics)
    columns = {key: np.array([m[key] for m in on_host], np.float64) for key in on_host[0]}
    for i, loss in enumerate(columns["loss"]):
        check({"loss": loss, "eps": columns["eps"][i]}, epoch, i)
    finite = jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), state["variables"])
    if not all(jax.tree.leaves(finite)):
        raise Diverged(f"parameters are not finite after epoch {epoch + 1}")
    means = {key: float(column.mean()) for key, column in columns.items()}
    return means | {"eps": float(columns["eps"][-1]), "epoch": epoch + 1, "seconds": seconds}


def write_json(path: str, value: Any) -> None:
    """Writes all of it or nothing."""
    with open(path + ".tmp", "w") as file:
        json.dump(value, file, indent=2)
    os.replace(path + ".tmp", path)
