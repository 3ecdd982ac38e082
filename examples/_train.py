"""The training loop: a compiled step, checkpoints, and a stop when it goes wrong."""

import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

import _objective
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from _data import Data
from _presets import Preset
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

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
    mean, std = data.statistics
    if preset.mean is not None:
        mean, std = (preset.mean,) * len(mean), (1.0,) * len(mean)
    return Classifier(preset.model(data.classes), mean, std)


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


def make_step(net: Classifier, preset: Preset, steps_per_epoch: int, seed: int) -> Callable:
    """The compiled steps `(state, images, labels, indices [n, batch], phase=...) -> (state, metrics [n])`."""
    schedule, optimiser = preset.eps(steps_per_epoch), preset.optimiser(steps_per_epoch)
    slope, loss = preset.slope(steps_per_epoch), _objective.make_loss(net, preset)

    def step(phase, images, labels, state, indices):
        x = images[indices].astype(jnp.float32) / 255
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state["step"]))
        x, y = augment(keys[0], x, preset.augment), labels[indices]
        variables, eps = state["variables"], jnp.float32(schedule(state["step"]))
        variables = networks.set_eta(variables, slope(state["step"]))
        params = variables["params"]
        grads, (metrics, running) = jax.grad(loss, has_aux=True)(
            params, variables, x, y, eps, state["kappa"], keys[1], phase
        )
        updates, opt = optimiser.update(grads, state["opt"], params)
        new = {"variables": running | {"params": optax.apply_updates(params, updates)}, "opt": opt}
        return state | new | {"step": state["step"] + 1}, metrics

    @functools.partial(jax.jit, static_argnames="phase", donate_argnums=0)
    def steps(state, images, labels, indices, phase):
        one = functools.partial(step, phase, images, labels)
        if len(indices) > 1:
            return jax.lax.scan(one, state, indices)
        state, metrics = one(state, indices[0])
        return state, jax.tree.map(lambda x: x[None], metrics)

    return steps


def make_validation(net: Classifier, preset: Preset, x, y) -> Callable[[Any], float]:
    """The error by IBP at the largest test radius, on images that nothing else is done with."""
    eps = max(preset.eps_test, default=0.0)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def verified(variables, x, y):
        margins = lambda x: jb.margins(net.apply(variables, x), y)
        return jb.verified(jb.ibp(margins, jb.linf_ball(x, eps, clip=(0.0, 1.0))))

    def error(variables) -> float:
        parts = range(0, len(x), 250)
        images = (jnp.float32(x[i : i + 250]) / 255 for i in parts)
        found = [verified(variables, z, y[i : i + 250]) for z, i in zip(images, parts, strict=True)]
        return float(1 - jnp.concatenate(found).mean())

    return error


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
    state = {"variables": variables, "opt": opt, "step": jnp.int32(0), "kappa": jnp.float32(1)}
    if preset.validation:
        best = {"variables": jax.tree.map(jnp.copy, variables), "error": jnp.float32(2)}
        state["best"] = best | {"epoch": jnp.int32(0)}
    return state


def chosen(preset: Preset, state: dict[str, Any]) -> tuple[Any, str]:
    """The variables to certify, and how they were chosen: never by test images."""
    best = state.get("best")
    if best is None or not best["epoch"]:  # eps never grew
        return state["variables"], "last epoch"
    how = (
        f"epoch {int(best['epoch'])}, chosen by IBP on {preset.validation} training images held out"
    )
    return best["variables"], how


def with_ramps(net: Classifier, preset: Preset, variables: Any, images) -> Any:
    """ParamRamp's kinks set from the data, when eps begins to grow."""
    params = jax.tree_util.tree_leaves_with_path(variables["params"])
    kinks = [leaf for path, leaf in params if path[-1].key == "r"]
    if preset.eta is None or not any(bool(jnp.isinf(r).any()) for r in kinks):
        return variables
    batches = (images[i : i + 1000].astype(jnp.float32) / 255 for i in range(0, len(images), 1000))
    return networks.set_ramps(net.model, variables, map(jax.vmap(net.normalise), batches))


# Steps of one dispatch: XLA:CPU is slow in loops, on a GPU Python would be.
AT_ONCE = {"cpu": 1}
MOST_AT_ONCE = 8


def train(
    preset: Preset,
    data: Data,
    seed: int,
    checkpoints: Checkpoints,
    report: Callable[[int, int, dict[str, float]], None] = lambda epoch, step, metrics: None,
    epoch_done: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Trains from the newest checkpoint, or from the start where there is none.

    On all local devices that share the batch evenly: images and parameters on each, a part of the
    batch for each.

    Returns:
      The final state, and every epoch's mean metrics.

    Raises:
      Diverged: the loss or a parameter is not finite, or the loss is absurd.
    """
    count = len(data.x_train) - preset.validation
    steps = count // preset.batch_size
    if steps < 1:
        raise ValueError(f"{count} images do not fill a batch of {preset.batch_size}")
    net = classifier(preset, data)
    state, history = initial_state(net, preset, data, seed), []
    if checkpoints.latest() is not None:
        state, history = checkpoints.restore(state)
    run, schedule = make_step(net, preset, steps, seed), preset.eps(steps)
    validate = make_validation(net, preset, data.x_train[count:], data.y_train[count:])
    everywhere, split = shardings(preset.batch_size)
    images, labels = jax.device_put((data.x_train[:count], data.y_train[:count]), everywhere)
    save_every = max(1, preset.epochs // 20)
    at_once = AT_ONCE.get(jax.default_backend(), MOST_AT_ONCE)
    for epoch in range(len(history), preset.epochs):
        started, metrics = time.monotonic(), []
        radii = [float(schedule(step)) for step in (epoch * steps, (epoch + 1) * steps - 1)]
        phase = _objective.phase_of(preset, *radii)
        if radii[1] > 0:
            state["variables"] = with_ramps(net, preset, state["variables"], images)
        state = jax.device_put(state, everywhere)
        order = np.random.default_rng((seed, epoch)).permutation(count)
        batches = order[: steps * preset.batch_size].reshape(steps, -1)
        for start in range(0, steps, at_once):
            indices = jax.device_put(batches[start : start + at_once], split)
            state, of_steps = run(state, images, labels, indices, phase=phase)
            metrics.append(of_steps)
            done = start + len(indices)
            if done % 10 < at_once or done == steps:
                last = {k: float(v[-1]) for k, v in of_steps.items()}
                report(epoch, done, check(last, epoch, done - 1))
        history.append(summarise(metrics, epoch, time.monotonic() - started, state))
        after_epoch(preset, state, history[-1], validate)
        if len(history) % save_every == 0 or len(history) == preset.epochs:
            checkpoints.save(len(history), state, history)
        epoch_done(history[-1])
    return state, history


def shardings(batch_size: int) -> tuple[NamedSharding, NamedSharding]:
    """Everything on each of the devices that share a batch evenly; and a part of it `[n, batch]` on each."""
    devices = jax.local_devices()
    mesh = Mesh(devices[: math.gcd(len(devices), batch_size)], ("batch",))
    return NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "batch"))


def after_epoch(preset: Preset, state, metrics: dict[str, float], validate) -> None:
    """What an epoch's results change: the weight of the clean loss, the best epoch."""
    if preset.kappa == "adaptive":
        robust = metrics.get("robust_loss", metrics["clean_loss"])
        state["kappa"] = jnp.float32(training.adaptive_kappa(metrics["clean_loss"], robust))
    if preset.validation and preset.grown(metrics["eps"]):
        metrics["validation_error"] = error = validate(state["variables"])
        if error < state["best"]["error"]:
            best = {"variables": jax.tree.map(jnp.copy, state["variables"])}
            state["best"] = best | {
                "error": jnp.float32(error),
                "epoch": jnp.int32(metrics["epoch"]),
            }


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
    columns = {
        key: np.concatenate([m[key] for m in on_host]).astype(np.float64) for key in on_host[0]
    }
    for i, loss in enumerate(columns["loss"]):
        check({"loss": loss, "eps": columns["eps"][i]}, epoch, i)
    # A kink of ParamRamp is infinite until it is set.
    leaves = jax.tree_util.tree_leaves_with_path(state["variables"])
    kinks = [path[-1:] == (jax.tree_util.DictKey("r"),) for path, _ in leaves]
    finite = (
        jnp.isfinite(x) | (k & (x == jnp.inf)) for k, (_, x) in zip(kinks, leaves, strict=True)
    )
    if not all(bool(of.all()) for of in finite):
        raise Diverged(f"parameters are not finite after epoch {epoch + 1}")
    means = {key: float(column.mean()) for key, column in columns.items()}
    return means | {"eps": float(columns["eps"][-1]), "epoch": epoch + 1, "seconds": seconds}


def save_weights(path: str, variables: Any) -> None:
    """Writes the variables in half precision where that holds them; `load_weights` reads them."""
    flat = flatten_dict(jax.device_get(variables), sep="/")
    halves = {name: x.astype(np.float16) if abs(x).max() < 6e4 else x for name, x in flat.items()}
    with open(path + ".tmp", "wb") as file:
        np.savez_compressed(file, **halves)
    os.replace(path + ".tmp", path)


def load_weights(path: str) -> Any:
    with np.load(path) as file:
        flat = {name: jnp.float32(file[name]) for name in file.files}
    return unflatten_dict(flat, sep="/")


def write_json(path: str, value: Any) -> None:
    """Writes all of it or nothing."""
    with open(path + ".tmp", "w") as file:
        json.dump(value, file, indent=2)
    os.replace(path + ".tmp", path)
