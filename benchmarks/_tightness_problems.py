"""The networks and images whose bounds `tightness.py` compares: random, trained here, and kept runs."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import jaxbound as jb
from jaxbound import networks, training
from jaxbound.networks import BlockSpec, ConvNet, ConvSpec, ResNet

sys.path.append(str(Path(__file__).parent.parent / "examples"))
import _data
import certify
from _train import Classifier

DENSE = (20, 20, 20)
CONVS = (ConvSpec(4, 5, 3, 1), ConvSpec(8, 4, 2, 1))
MODELS = {
    "mlp": ConvNet((), DENSE),
    "conv": ConvNet(CONVS, (20,)),
    "residual": ResNet(2, (BlockSpec(4, 2),), (20,)),
    "sigmoid": ConvNet((), DENSE, activation=nn.sigmoid),
    "ramp": ConvNet(CONVS, (20,), activation=networks.ramp),
}
EPS = {"random": 0.02, "plain": 0.02, "ibp": 0.1}  # radius that is measured, by training
HERE = tuple(f"{model}_random" for model in MODELS) + tuple(
    f"{model}_{kind}" for model in ("mlp", "conv") for kind in ("plain", "ibp")
)
KEPT = tuple(sorted((Path(__file__).parent / "networks").glob("*/")))


load_data = functools.cache(_data.load)


class Problem(NamedTuple):
    """A network, images of which the margins are bounded, and the radius around them."""

    name: str
    net: Classifier
    variables: Any
    images: jax.Array
    labels: jax.Array
    eps: float

    @property
    def model(self) -> Any:
        return self.net.model

    def plain(self) -> Callable:
        """The logits of every image."""
        return functools.partial(logits(self.net), self.variables, self.images)

    def first(self, count: int) -> "Problem":
        return self._replace(images=self.images[:count], labels=self.labels[:count])


@functools.cache
def logits(net: Classifier) -> Callable:
    return jax.jit(jax.vmap(net.apply, (None, 0)))


def load_images(name: str, data_dir: str | None) -> _data.Data:
    """MNIST, or where it cannot be had the digits."""
    try:
        return load_data(name, data_dir)
    except _data.Unavailable as reason:
        print(f"no {name}: {reason}; going on with scikit-learn's digits", flush=True)
        return load_data("digits", None)


def made_here(name: str, data: _data.Data, count: int, steps: int) -> Problem:
    """A network of this file, at random weights or trained on the spot."""
    network, kind = name.split("_")
    model = MODELS[network]
    pixels = lambda images: jnp.float32(images) / 255
    start = model.init(jax.random.key(0), pixels(data.x_train[:1]))
    if network == "ramp":
        start = networks.set_ramps(model, start, [pixels(data.x_train[:1000])])
    if kind != "random":
        eps = EPS[kind] if kind == "ibp" else 0.0
        train = pixels(data.x_train[:20000]), jnp.asarray(data.y_train[:20000])
        start = fit(model, start, *train, steps, eps)
    images, labels = pixels(data.x_test[:count]), jnp.asarray(data.y_test[:count])
    if kind == "random":  # certified for what it takes them for
        labels = jnp.argmax(model.apply(start, images), -1)
    return Problem(name, Classifier(model, (0.0,), (1.0,)), start, images, labels, EPS[kind])


def kept(folder: Path, data_dir: str | None, count: int) -> Problem:
    """The network of a finished run of the examples, at the radius that it was tested with."""
    recipe, data, net, variables = certify.load(str(folder), data_dir, load_data)
    images = jnp.float32(data.x_test[:count]) / 255
    labels = jnp.asarray(data.y_test[:count])
    return Problem(folder.name, net, variables, images, labels, recipe.eps_test[0])


def fit(model, variables, images, labels, steps: int, eps: float) -> Any:
    """Adam on random batches: cross-entropy where `eps` is 0, else the IBP loss with a growing radius."""
    optimizer = optax.adam(1e-3)
    radius = training.linear_eps(steps // 10, steps // 2, max(eps, 1e-9))

    def loss(variables, step, x, y):
        fn = lambda x: model.apply(variables, x[None])[0]
        if not eps:
            return optax.softmax_cross_entropy_with_integer_labels(fn(x), y)
        kappa = training.kappa(radius(step), eps)
        return training.ibp_loss(fn, x, y, jb.linf_ball(x, radius(step), (0, 1)), kappa=kappa)[0]

    @jax.jit
    def advance(variables, state, step):
        batch = jax.random.choice(jax.random.fold_in(jax.random.key(1), step), len(labels), (64,))
        mean = lambda v: jax.vmap(loss, (None, None, 0, 0))(
            v, step, images[batch], labels[batch]
        ).mean()
        updates, state = optimizer.update(jax.grad(mean)(variables), state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for step in range(steps):
        variables, state = advance(variables, state, step)
    return variables


def problems(names, data_dir, dataset, count, steps) -> Iterator[Problem]:
    """What `--networks` names, one after another; a kept run whose data are missing is passed over."""
    for name in names:
        if name in HERE:
            yield made_here(name, load_images(dataset, data_dir), count, steps)
            continue
        try:
            yield kept(Path(name), data_dir, count)
        except _data.Unavailable as reason:
            print(f"\n{name}: passed over, {reason}", flush=True)
