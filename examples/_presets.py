"""What a run is: data, network, schedules and optimiser, by name."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxbound import networks, training


def tiny(**options: Any) -> networks.ConvNet:
    """A strided convolution and a dense layer: compiles fast."""
    return networks.ConvNet((networks.ConvSpec(8, 4, 2, 1),), (32,), **options)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "tiny": tiny,
    "small_cnn": networks.small_cnn,
    "small_mnist": networks.small_mnist,
    "small_cifar": networks.small_cifar,
    "dm_small": networks.dm_small,
    "dm_medium": networks.dm_medium,
    "dm_large": networks.dm_large,
    "cnn7_bn": networks.cnn7_bn,
    "wide_resnet8": networks.wide_resnet8,
    "resnext": networks.resnext,
    **{  # of CNN-Cert
        f"cnn_{layers}layer_{features}": functools.partial(networks.plain_cnn, layers, features)
        for layers in range(2, 9)
        for features in (5, 10, 20)
    },
    "cnn_4layer_5_bn": functools.partial(networks.plain_cnn, 4, 5, batch_norm=True),
    "lenet": networks.LeNet,
    "lenet_nopool": functools.partial(networks.LeNet, pool=False),
    **{
        f"resnet-{depth}": functools.partial(networks.pooled_resnet, depth) for depth in range(2, 6)
    },
}
ACTIVATIONS = {"relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": nn.tanh, "atan": jnp.arctan}
BOUNDS = ("clean", "pgd", "single_prop", "ibp", "crown_ibp", "fused")


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe. Epochs may be fractions; radii are in pixels of [0, 1]."""

    dataset: str
    network: str
    epochs: int
    batch_size: int
    learning_rate: float
    drops: tuple[float, ...]  # epochs after which the learning rate is multiplied by `drop`
    eps_train: float
    eps_test: tuple[float, ...]
    ramp_start: float  # epochs at eps = 0; with ParamRamp a whole number: then its kinks are set
    ramp_length: float  # epochs from eps = 0 to eps_train
    drop: float = 0.1
    momentum: float | None = None  # SGD with Nesterov's momentum in place of Adam
    activation: str = "relu"
    mean: float | None = (
        None  # subtracted from all pixels, in place of the data's own normalisation
    )
    smooth: bool = False  # the shape of the ramp
    bound: str = "crown_ibp"  # one of BOUNDS
    relaxation: str = "adaptive"  # of its lines
    kappa: float | str | None = 0.5  # final weight of the clean loss; None: it has none
    beta: float = 0.0  # final weight of the CROWN-IBP bound
    attack_steps: int = 7  # of "pgd"
    eta: float | None = None  # ParamRamp with this slope in place of ReLU
    eta_start: float = 0.0  # epochs until the slope falls
    eta_length: float = 0.0  # epochs until it is 0; 0: it stays
    ramp_noise: float = 0.0  # on ParamRamp's kinks, in their means
    regularizer: float = 0.0  # weight at eps = 0 of what keeps bounds narrow and ReLUs balanced
    l1: float = 0.0  # weight of the kernels' absolute values
    augment: int = 0  # pixels of padding for random crops, with random flips; 0: neither
    ibp_init: bool = False
    clip_norm: float | None = None
    accumulate: int = 1  # batches per step of the optimiser
    validation: int = 0  # training images that choose the epoch; 0: the last one
    dtype: str = "float32"  # of the training losses alone
    pgd_steps: int = 20
    pgd_restarts: int = 1
    lbp_images: int = 256  # test images for the methods with forward linear bounds
    lbp_batch: int = 8  # at once: they hold a row for every pixel

    def scaled(self, epochs: int) -> "Preset":
        """The same recipe in another number of epochs, all its schedules stretched alike."""
        share = epochs / self.epochs
        start = self.ramp_start * share
        return dataclasses.replace(
            self,
            epochs=epochs,
            drops=tuple(drop * share for drop in self.drops),
            # ParamRamp's kinks are set between epochs, when those at eps = 0 have ended.
            ramp_start=start if self.eta is None else math.ceil(start),
            ramp_length=self.ramp_length * share,
            eta_start=self.eta_start * share,
            eta_length=self.eta_length * share,
        )

    def eps(self, steps_per_epoch: int) -> optax.Schedule:
        start = round(self.ramp_start * steps_per_epoch)
        end = max(start + 1, round((self.ramp_start + self.ramp_length) * steps_per_epoch))
        shape = training.smoothed_eps if self.smooth else training.linear_eps
        return shape(start, end, self.eps_train)

    def grown(self, eps: float) -> bool:
        """Whether a radius of the schedule is the final one, up to rounding."""
        return eps >= self.eps_train * (1 - 1e-6)

    def slope(self, steps_per_epoch: int) -> optax.Schedule:
        """ParamRamp's, over the steps."""
        eta = self.eta or 0.0
        if not self.eta_length:
            return optax.constant_schedule(eta)
        ends = (self.eta_start, self.eta_start + self.eta_length)
        return training.linear_eta(*(round(epoch * steps_per_epoch) for epoch in ends), eta)

    def optimiser(self, steps_per_epoch: int) -> optax.GradientTransformation:
        updates = steps_per_epoch / self.accumulate
        drops = {round(epoch * updates): self.drop for epoch in self.drops}
        rate = optax.piecewise_constant_schedule(self.learning_rate, drops)
        sgd = self.momentum is not None
        parts = [optax.sgd(rate, self.momentum, nesterov=True) if sgd else optax.adam(rate)]
        if self.clip_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.eta is not None:
            parts.append(networks.project_ramps())
        chain = optax.chain(*parts)
        every = optax.MultiSteps(chain, self.accumulate).gradient_transformation()
        return chain if self.accumulate == 1 else every

    def model(self, classes: int) -> nn.Module:
        options: dict[str, Any] = {"kernel_init": networks.ibp_init} if self.ibp_init else {}
        if self.activation != "relu":
            options["activation"] = ACTIVATIONS[self.activation]
        if self.eta is not None:
            options["activation"] = functools.partial(networks.ramp, eta=self.eta)
        return NETWORKS[self.network](classes=classes, **options)


# Zhang et al., CROWN-IBP (arXiv:1906.06316); Shi et al. (arXiv:2103.17268) for cnn7_bn.
_MNIST = Preset(
    dataset="mnist",
    network="dm_large",
    epochs=200,
    batch_size=256,
    learning_rate=5e-4,
    drops=(130, 190),
    eps_train=0.4,
    eps_test=(0.3, 0.4),
    ramp_start=10,
    ramp_length=50,
    pgd_steps=200,
    lbp_images=64,
    lbp_batch=1,
    pgd_restarts=10,
)
# The same schedules in a tenth of the epochs, for a network that a CPU trains.
_MNIST_SMALL = Preset(
    dataset="mnist",
    network="dm_small",
    epochs=20,
    batch_size=100,
    learning_rate=1e-3,
    drops=(14, 18),
    drop=0.2,
    eps_train=0.4,
    eps_test=(0.3,),
    ramp_start=1,
    ramp_length=8,
    bound="ibp",
    clip_norm=10.0,
    validation=5000,
    pgd_steps=40,
    lbp_images=500,
)
_CIFAR = Preset(
    dataset="cifar10",
    network="dm_large",
    epochs=3200,
    batch_size=1024,
    learning_rate=5e-4,
    drops=(2600, 3040),
    eps_train=2.2 / 255,
    eps_test=(2 / 255,),
    ramp_start=320,
    ramp_length=1600,
    smooth=True,
    kappa=None,
    beta=1.0,
    augment=4,
    pgd_steps=200,
    lbp_images=64,
    lbp_batch=1,
    pgd_restarts=10,
)
_DIGITS = Preset(
    dataset="digits",
    network="small_cnn",
    epochs=60,
    batch_size=64,
    learning_rate=2e-3,
    drops=(45, 55),
    drop=0.2,
    eps_train=0.11,
    eps_test=(0.1,),
    ramp_start=4,
    ramp_length=30,
    clip_norm=10.0,
    lbp_images=10_000,
)

# Boopathy et al., CNN-Cert (arXiv:1811.12395): plain training.
_CNN_CERT = Preset(
    dataset="mnist",
    network="cnn_4layer_5",
    epochs=10,
    batch_size=128,
    learning_rate=1e-3,
    drops=(),
    eps_train=0.1,  # eps stays 0: the ramp would begin at the end
    eps_test=(),
    ramp_start=10,
    ramp_length=1,
    bound="clean",
    kappa=None,
    mean=0.5,
)

PRESETS = {
    # The ramp lasts to the end, so that only one loss is compiled.
    "smoke": dataclasses.replace(
        _DIGITS,
        network="tiny",
        epochs=8,
        drops=(7,),
        eps_train=0.05,
        eps_test=(0.05,),
        ramp_start=0,
        ramp_length=8,
    ),
    "digits": _DIGITS,
    # One epoch of CROWN-IBP while eps grows, then IBP, whose steps cost a fraction.
    "laptop": Preset(
        dataset="cifar10",
        network="small_cnn",
        epochs=7,
        batch_size=128,
        learning_rate=2e-3,
        drops=(5.3, 6.4),
        drop=0.2,
        eps_train=2.2 / 255,
        eps_test=(2 / 255,),
        ramp_start=0,
        ramp_length=1,
        kappa=None,
        augment=2,
        clip_norm=10.0,
        lbp_images=64,
    ),
    "cnn_cert": _CNN_CERT,
    "cnn_cert_lenet": dataclasses.replace(
        _CNN_CERT, network="lenet", learning_rate=0.01, momentum=0.9
    ),
    "cnn_cert_digits": dataclasses.replace(
        _CNN_CERT, dataset="digits", network="cnn_3layer_5", epochs=60, ramp_start=60, batch_size=64
    ),
    "mnist_small_clean": dataclasses.replace(_MNIST_SMALL, bound="clean", validation=0),
    "mnist_small_pgd": dataclasses.replace(
        _MNIST_SMALL, bound="pgd", eps_train=0.3, kappa=None, validation=0
    ),
    "mnist_small_single_prop": dataclasses.replace(
        _MNIST_SMALL, bound="single_prop", relaxation="constant", eps_train=0.3
    ),
    "mnist_small_ibp": _MNIST_SMALL,
    "mnist_small_crown_ibp": dataclasses.replace(_MNIST_SMALL, bound="crown_ibp"),
    "mnist_small_fast": dataclasses.replace(
        _MNIST_SMALL, kappa=None, ramp_start=0, smooth=True, ibp_init=True, regularizer=0.5
    ),
    "mnist_small_ramp": dataclasses.replace(
        _MNIST_SMALL,
        bound="crown_ibp",
        epochs=12,
        drops=(9, 11),
        ramp_length=5,
        kappa=None,
        eta=0.01,
        eta_start=4,
        eta_length=4,
    ),
    "mnist_.3": dataclasses.replace(_MNIST, eps_test=(0.3,)),
    "mnist_.4": _MNIST,
    "cifar_2": _CIFAR,
    "cifar_8": dataclasses.replace(_CIFAR, eps_train=8.8 / 255, eps_test=(8 / 255,), beta=0.0),
    "cifar_8_cnn7": dataclasses.replace(
        _CIFAR,
        network="cnn7_bn",
        epochs=160,
        batch_size=128,
        drops=(120, 140),
        drop=0.2,
        eps_train=8 / 255,
        eps_test=(8 / 255,),
        ramp_start=1,
        ramp_length=80,
        bound="ibp",
        augment=2,
        ibp_init=True,
        clip_norm=10.0,
        regularizer=0.5,
    ),
}
# The same by fast IBP.
PRESETS["laptop_fast"] = dataclasses.replace(
    PRESETS["laptop"],
    bound="ibp",
    eps_train=2 / 255,
    smooth=True,
    ramp_length=4,
    ibp_init=True,
    regularizer=0.5,
)


def default_preset() -> str:
    """What fits this machine."""
    return "laptop" if jax.default_backend() == "cpu" else "cifar_2"


def fast_preset() -> str:
    """The same of fast IBP."""
    return "laptop_fast" if jax.default_backend() == "cpu" else "cifar_8_cnn7"
