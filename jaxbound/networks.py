"""The networks of the certified-training papers (Flax linen), and BatchNorm in training.

Images are NHWC. Every network maps `[batch, height, width, channels]` to logits `[batch, classes]`;
every layer but the last is followed by the activation. `import jaxbound` does not import this
module, which needs Flax.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxbound.networks_ramp import NNXParamRamp as NNXParamRamp
from jaxbound.networks_ramp import ParamRamp as ParamRamp
from jaxbound.networks_ramp import noisy_ramps as noisy_ramps
from jaxbound.networks_ramp import project_ramps as project_ramps
from jaxbound.networks_ramp import ramp as ramp
from jaxbound.networks_ramp import set_eta as set_eta
from jaxbound.networks_ramp import set_nnx_ramps as set_nnx_ramps
from jaxbound.networks_ramp import set_ramps as set_ramps

Variables = dict[str, Any]


class ConvSpec(NamedTuple):
    """One square convolution: `padding` is Flax's ("VALID", "SAME" or pixels on every side)."""

    features: int
    size: int
    stride: int = 1
    padding: str | int = "VALID"


class ConvNet(nn.Module):
    """Convolutions, flatten, dense layers; `[batch, h, w, c] -> [batch, classes]`.

    Attributes:
      convs: the convolutions, in order.
      dense: widths of the hidden dense layers.
      classes: number of logits.
      activation: follows every layer but the last.
      batch_norm: normalise before every activation.
      kernel_init: of every layer but the last.

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
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for conv in self.convs:
            size, strides = (conv.size, conv.size), (conv.stride, conv.stride)
            x = nn.Conv(
                conv.features, size, strides, padding=conv.padding, kernel_init=self.kernel_init
            )(x)
            x = self.activation(_normalise(self, x, train))
        return _logits(self, x, train)


class BlockSpec(NamedTuple):
    """One residual block: two 3 x 3 convolutions, the first with the stride."""

    features: int
    stride: int = 1


class ResNet(nn.Module):
    """A 3 x 3 convolution, residual blocks, flatten, dense layers; `[batch, h, w, c] -> [batch, classes]`.

    A block adds its input to its second convolution, through a 1 x 1 convolution where the shapes
    differ, and activates the sum.

    Attributes:
      stem: features of the first convolution.
      blocks: the residual blocks, in order.
      dense: widths of the hidden dense layers.
      classes: number of logits.
      activation: follows the stem, the first convolution of a block, every sum and hidden dense layer.
      batch_norm: normalise after every layer but the last.
      kernel_init: of every layer but the last.

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
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def conv(x, features, size, stride=1):
            strides, padding = (stride, stride), size // 2
            layer = nn.Conv(
                features, (size, size), strides, padding=padding, kernel_init=self.kernel_init
            )
            return _normalise(self, layer(x), train)

        x = self.activation(conv(x, self.stem, 3))
        for features, stride in self.blocks:
            y = self.activation(conv(x, features, 3, stride))
            y = conv(y, features, 3)
            shortcut = x if x.shape == y.shape else conv(x, features, 1, stride)
            x = self.activation(y + shortcut)
        return _logits(self, x, train)


def _normalise(net: ConvNet | ResNet, x: jax.Array, train: bool) -> jax.Array:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x) if net.batch_norm else x


def _logits(net: ConvNet | ResNet, x: jax.Array, train: bool) -> jax.Array:
    """Flatten and the dense layers."""
    x = x.reshape(x.shape[0], -1)
    for width in net.dense:
        x = nn.Dense(width, kernel_init=net.kernel_init)(x)
        x = net.activation(_normalise(net, x, train))
    return nn.Dense(net.classes)(x)


_LARGE = (ConvSpec(64, 3, 1, 1),) * 2 + (ConvSpec(128, 3, 2, 1),) + (ConvSpec(128, 3, 1, 1),) * 2


def ibp_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """Normal weights of deviation sqrt(2 pi) / fan_in: interval radii keep their size with depth.

    `E|w| = 2 / fan_in`, so an affine layer doubles the mean radius and a ReLU halves it
    (Shi et al. 2021, arXiv:2103.17268).
    """
    return math.sqrt(2 * math.pi) / math.prod(shape[:-1]) * jax.random.normal(key, shape, dtype)


def small_cnn(**options: Any) -> ConvNet:
    """Two strided convolutions and a dense layer of 100: trains with bounds on a laptop CPU."""
    return ConvNet((ConvSpec(16, 4, 2, 1), ConvSpec(32, 4, 2, 1)), (100,), **options)


def dm_small(**options: Any) -> ConvNet:
    """DM-small of Gowal et al. (arXiv:1810.12715): 28 x 28 -> 13 x 13 -> 10 x 10 -> 100."""
    return ConvNet((ConvSpec(16, 4, 2), ConvSpec(32, 4)), (100,), **options)


def dm_medium(**options: Any) -> ConvNet:
    """DM-medium of Gowal et al. (arXiv:1810.12715): four convolutions, two dense layers of 512."""
    convs = (ConvSpec(32, 3), ConvSpec(32, 4, 2), ConvSpec(64, 3), ConvSpec(64, 4, 2))
    return ConvNet(convs, (512, 512), **options)


def dm_large(**options: Any) -> ConvNet:
    """DM-large of Gowal et al. (arXiv:1810.12715): five convolutions, a dense layer of 512."""
    return ConvNet(_LARGE, (512,), **options)


def cnn7_bn(**options: Any) -> ConvNet:
    """CNN-7: DM-large with BatchNorm before every activation (Shi et al., arXiv:2103.17268)."""
    return ConvNet(_LARGE, (512,), batch_norm=True, **options)


def resnet2(**options: Any) -> ResNet:
    """Two residual blocks: 32 x 32 x 16 -> 16 x 16 x 16 -> 8 x 8 x 32 -> 100."""
    return ResNet(16, (BlockSpec(16, 2), BlockSpec(32, 2)), (100,), **options)


def resnet4(**options: Any) -> ResNet:
    """Four residual blocks: `resnet2` with a second block at each size."""
    blocks = (BlockSpec(16, 2), BlockSpec(16), BlockSpec(32, 2), BlockSpec(32))
    return ResNet(16, blocks, (100,), **options)


class CleanPass(NamedTuple):
    """What a training step needs of the clean batch; see `clean_pass`."""

    logits: jax.Array
    frozen: Variables
    running: Variables


def clean_pass(model: nn.Module, variables: Variables, images: jax.Array) -> CleanPass:
    """Runs a batch in training mode, and freezes its BatchNorm statistics for the bounds.

    With the statistics of the clean batch, BatchNorm is one affine map of each image, the same in
    the clean pass and in the bounds: `model.apply(frozen, images) == logits` up to rounding.
    Gradients flow through them.

    Args:
      model: a linen module called as `model(images, train=...)`; without BatchNorm nothing changes.
      variables: its collections, `params` and perhaps `batch_stats`.
      images: the clean batch `[batch, ...]`.

    Returns:
      `logits` of the clean batch; `frozen`, the variables with the batch's own statistics, for
      bounds with `train=False`; `running`, the variables with the running averages moved on, to be
      stored.

    Raises:
      ValueError: a BatchNorm of momentum 1 never looks at the batch.

    References:
      Shi et al., arXiv:2103.17268.
    """
    if "batch_stats" not in variables:
        logits: Any = model.apply(variables, images)
        return CleanPass(logits, variables, variables)
    momenta: dict[tuple[str, ...], float] = {}

    def note_momentum(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            momenta[context.module.path] = context.module.momentum
        return call(*args, **kwargs)

    # From running averages of 0, Flax's update (momentum * 0 + (1 - momentum) * batch) holds the
    # batch's statistics.
    zeroed = variables | {"batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}
    with nn.intercept_methods(note_momentum):
        logits, moved = model.apply(zeroed, images, train=True, mutable=["batch_stats"])
    if 1.0 in momenta.values():
        raise ValueError("a BatchNorm layer has momentum 1, so its batch statistics cannot be read")

    def momentum_of(path):
        return momenta[tuple(entry.key for entry in path[:-1])]

    batch = jax.tree_util.tree_map_with_path(
        lambda path, scaled: scaled / (1 - momentum_of(path)), moved["batch_stats"]
    )
    running = jax.tree_util.tree_map_with_path(
        lambda path, old, scaled: momentum_of(path) * old + jax.lax.stop_gradient(scaled),
        variables["batch_stats"],
        moved["batch_stats"],
    )
    return CleanPass(
        logits, variables | {"batch_stats": batch}, variables | {"batch_stats": running}
    )
