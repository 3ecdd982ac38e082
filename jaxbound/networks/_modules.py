"""Defines convolutional and residual networks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax

from jaxbound.networks._initializers import Initializer, of_sum


class ConvSpec(NamedTuple):
    """Describes one square convolution: `padding` is Flax's ("VALID", "SAME" or pixels on every side).

    The channels are split into `groups` that do not mix.
    """

    features: int
    size: int
    stride: int = 1
    padding: str | int = "VALID"
    groups: int = 1


class ConvNet(nn.Module):
    """Represents convolutions, flatten, dense layers; `[batch, h, w, c] -> [batch, classes]`.

    Attributes:
      convs: the convolutions, in order.
      dense: widths of the hidden dense layers.
      classes: number of logits.
      activation: follows every layer but the last.
      batch_norm: normalise before every activation.
      kernel_init: of every layer but the last.
      logits_init: of the last layer's kernel.

    >>> import jax, jax.numpy as jnp
    >>> net = ConvNet((ConvSpec(4, 3),), (8,), classes=3)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> net.apply(variables, jnp.zeros((2, 8, 8, 1))).shape
    (2, 3)
    """

    convs: Sequence[ConvSpec]
    dense: Sequence[int] = ()
    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    batch_norm: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    logits_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for conv in self.convs:
            x = self.activation(_conv(self, x, conv, train))
        return _logits(self, x, train)


class BlockSpec(NamedTuple):
    """Describes one residual block: two 3 x 3 convolutions, the first with the stride.

    With a `bottleneck`: a 1 x 1 convolution to `bottleneck` features, a 3 x 3 with the stride, and a
    1 x 1 to `features`. `groups` are those of the 3 x 3 convolutions.
    """

    features: int
    stride: int = 1
    bottleneck: int | None = None
    groups: int = 1

    @property
    def convs(self) -> tuple[ConvSpec, ...]:
        """Returns the convolutions of the block, in order."""
        features, stride, width, groups = self
        if width is None:
            first = ConvSpec(features, 3, stride, 1, groups)
            return first, first._replace(stride=1)
        return ConvSpec(width, 1), ConvSpec(width, 3, stride, 1, groups), ConvSpec(features, 1)

    @property
    def shortcut(self) -> ConvSpec:
        """Returns the convolution of the input where its shape is not that of the last convolution's output."""
        return ConvSpec(self.features, 1, self.stride)


class ResNet(nn.Module):
    """Represents a 3 x 3 convolution, residual blocks, flatten, dense layers; `[batch, h, w, c] -> [batch, classes]`.

    A block adds its input to its last convolution, through a 1 x 1 convolution where the shapes
    differ, and activates the sum.

    Attributes:
      stem: features of the first convolution.
      blocks: the residual blocks, in order.
      dense: widths of the hidden dense layers.
      classes: number of logits.
      activation: follows the stem, every sum, every hidden dense layer, and every convolution of a
        block but its last.
      batch_norm: normalise after every layer but the last.
      kernel_init: of every layer but the last; a layer that reads an activated sum has twice its fan-in.
      logits_init: of the last layer's kernel.

    >>> import jax, jax.numpy as jnp
    >>> net = ResNet(4, (BlockSpec(8, 2),), classes=3)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> net.apply(variables, jnp.zeros((2, 8, 8, 1))).shape
    (2, 3)
    """

    stem: int
    blocks: Sequence[BlockSpec]
    dense: Sequence[int] = ()
    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    batch_norm: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    logits_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        terms = 1  # x is the activation of a sum of so many
        x = self.activation(_conv(self, x, ConvSpec(self.stem, 3, 1, 1), train))
        for block in self.blocks:
            first, *others = block.convs
            y = _conv(self, x, first, train, terms)
            for conv in others:
                y = _conv(self, self.activation(y), conv, train)
            shortcut = x if x.shape == y.shape else _conv(self, x, block.shortcut, train, terms)
            x, terms = self.activation(y + shortcut), 2
        return _logits(self, x, train, terms)


def _conv(
    net: ConvNet | ResNet, x: jax.Array, conv: ConvSpec, train: bool, terms: int = 1
) -> jax.Array:
    """Applies a convolution and the network's normalisation."""
    layer = nn.Conv(
        conv.features,
        (conv.size, conv.size),
        (conv.stride, conv.stride),
        padding=conv.padding,
        feature_group_count=conv.groups,
        kernel_init=of_sum(net.kernel_init, terms),
    )
    return _normalise(net, layer(x), train)


def _normalise(net: ConvNet | ResNet, x: jax.Array, train: bool) -> jax.Array:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x) if net.batch_norm else x


def _logits(net: ConvNet | ResNet, x: jax.Array, train: bool, terms: int = 1) -> jax.Array:
    """Flattens and applies the dense layers."""
    x = x.reshape(x.shape[0], -1)
    for width in net.dense:
        x = nn.Dense(width, kernel_init=of_sum(net.kernel_init, terms))(x)
        x, terms = net.activation(_normalise(net, x, train)), 1
    return nn.Dense(net.classes, kernel_init=net.logits_init)(x)
