"""Networks at random weights, images in boxes and their labels: what the benchmarks of cost measure."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from _timing import Timed

import jaxbound as jb
from jaxbound import networks

HE = {"kernel_init": jax.nn.initializers.he_normal()}


class Setting(NamedTuple):
    """A network, the shape of its images and the radius around them."""

    model: networks.ConvNet | networks.ResNet
    shape: tuple[int, int, int] = (32, 32, 3)
    eps: float = 0.01


NETWORKS = {
    "mlp": Setting(networks.ConvNet((), (256,) * 3, **HE), (28, 28, 1)),
    "dm_small": Setting(networks.dm_small(**HE)),
    "dm_large": Setting(networks.dm_large(**HE), eps=1 / 255),
    "cnn7_bn": Setting(networks.cnn7_bn(**HE), eps=1 / 255),
    "resnet2": Setting(networks.resnet2(**HE)),
    "resnet4": Setting(networks.resnet4(**HE)),
}


class Problem(NamedTuple):
    """A batch of images, to be certified for what the network takes them for."""

    model: networks.ConvNet | networks.ResNet
    variables: Any
    images: jax.Array
    labels: jax.Array
    eps: float

    def plain(self) -> Timed:
        """The logits of every image."""
        fn = jax.vmap(functools.partial(apply, self.model), (None, 0))
        return Timed(fn, self.variables, self.images)

    def of_margins(self, bound: Callable) -> Timed:
        """`bound(margins, box)` of every image."""

        def one(variables, x, y):
            fn = lambda x: jb.margins(apply(self.model, variables, x), y)
            return bound(fn, jb.linf_ball(x, self.eps, clip=(0, 1)))

        return Timed(jax.vmap(one, (None, 0, 0)), self.variables, self.images, self.labels)


def apply(model, variables, x):
    return model.apply(variables, x[None])[0]


@functools.cache
def weights(setting: Setting) -> Any:
    """Random weights; BatchNorm with the statistics of random images."""
    model, shape, _ = setting
    images = jax.random.uniform(jax.random.key(2), (32, *shape))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    return jax.jit(networks.clean_pass, static_argnums=0)(model, variables, images).frozen


def problem(setting: Setting, batch: int) -> Problem:
    model, shape, eps = setting
    images = jax.random.uniform(jax.random.key(0), (batch, *shape))
    labels = jnp.argmax(jax.jit(model.apply)(weights(setting), images), -1)
    return Problem(model, weights(setting), images, labels, eps)
