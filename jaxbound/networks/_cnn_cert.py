"""Defines the networks of CNN-Cert (Boopathy et al., arXiv:1811.12395)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxbound.networks._modules import ConvNet, ConvSpec


def plain_cnn(layers: int, features: int, **options: Any) -> ConvNet:
    """Returns `layers - 1` convolutions 3 x 3 without padding, and a dense layer: "cnn_4layer_5" is (4, 5)."""
    return ConvNet((ConvSpec(features, 3),) * (layers - 1), (), **options)


class LeNet(nn.Module):
    """Represents LeNet: convolutions of 6 and 16 filters 5 x 5, dense layers of 100 and the classes.

    Attributes:
      classes: number of logits.
      activation: follows every layer but the last.
      pool: max-pooling 2 x 2 after both convolutions.

    >>> import jax, jax.numpy as jnp
    >>> variables = jax.eval_shape(LeNet().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> variables["params"]["Dense_0"]["kernel"].shape
    (400, 100)
    """

    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for features, padding in ((6, "SAME"), (16, "VALID")):
            x = self.activation(nn.Conv(features, (5, 5), padding=padding)(x))
            x = nn.max_pool(x, (2, 2), (2, 2)) if self.pool else x
        x = self.activation(nn.Dense(100)(x.reshape(len(x), -1)))
        return nn.Dense(self.classes)(x)


class PooledResNet(nn.Module):
    """Represents residual blocks with BatchNorm, an average pooling over the whole image, and a dense layer.

    A block is two 3 x 3 convolutions, the first with the stride; where that is 2, the shortcut is a 3 x
    3 convolution with the same stride. The activation follows every sum.

    Attributes:
      blocks: pairs of features and stride.
      classes: number of logits.
      activation: between the convolutions of a block, and after its sum.

    >>> import jax, jax.numpy as jnp
    >>> net = PooledResNet(((8, 2), (16, 2)))
    >>> x = jnp.zeros((2, 28, 28, 1))
    >>> jax.eval_shape(net.init_with_output, jax.random.key(0), x)[0].shape
    (2, 10)
    """

    blocks: Sequence[tuple[int, int]]
    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def conv(x, features, stride):
            x = nn.Conv(features, (3, 3), (stride, stride))(x)
            return nn.BatchNorm(use_running_average=not train, epsilon=1e-3)(x)

        for features, stride in self.blocks:
            y = self.activation(conv(x, features, stride))
            shortcut = x if stride == 1 else conv(x, features, stride)
            x = self.activation(conv(y, features, 1) + shortcut)
        return nn.Dense(self.classes)(x.mean((1, 2)))


# The blocks by depth, the number in a network's name.
_BLOCKS = {
    2: ((8, 2), (16, 2)),
    3: ((8, 2), (8, 1), (16, 2)),
    4: ((8, 2), (8, 1), (16, 2), (16, 1)),
    5: ((8, 2), (8, 1), (8, 1), (16, 2), (16, 1)),
}


def pooled_resnet(depth: int, **options: Any) -> PooledResNet:
    """Returns ResNet-2 to ResNet-5, by depth, for MNIST: 28 x 28 -> 14 x 14 x 8 -> 7 x 7 x 16."""
    return PooledResNet(_BLOCKS[depth], **options)
