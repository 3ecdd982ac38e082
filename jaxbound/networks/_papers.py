"""Defines the networks of the papers by name; options go to `ConvNet` or `ResNet`."""

from typing import Any

from jaxbound.networks._modules import BlockSpec, ConvNet, ConvSpec, ResNet


def small_cnn(**options: Any) -> ConvNet:
    """Returns two strided convolutions and a dense layer of 100: trains with bounds on a laptop CPU."""
    return ConvNet((ConvSpec(16, 4, 2, 1), ConvSpec(32, 4, 2, 1)), (100,), **options)


def small_mnist(**options: Any) -> ConvNet:
    """Returns the small MNIST network of Lyu et al. (arXiv:2104.00447): 28 x 28 -> 14 x 14 -> 7 x 7 -> 512."""
    convs = (ConvSpec(16, 3, 1, 1), ConvSpec(16, 4, 2, 1), ConvSpec(32, 3, 1, 1))
    return ConvNet((*convs, ConvSpec(32, 4, 2, 1)), (512,), **options)


def small_cifar(**options: Any) -> ConvNet:
    """Returns the small CIFAR-10 network of Lyu et al. (arXiv:2104.00447): 32 x 32 -> 16 x 16 -> 512."""
    return ConvNet((ConvSpec(64, 3, 1, 1), ConvSpec(64, 3, 2, 1)), (512,), **options)


def dm_small(**options: Any) -> ConvNet:
    """Returns DM-small of Gowal et al. (arXiv:1810.12715): 28 x 28 -> 13 x 13 -> 10 x 10 -> 100."""
    return ConvNet((ConvSpec(16, 4, 2), ConvSpec(32, 4)), (100,), **options)


def dm_medium(**options: Any) -> ConvNet:
    """Returns DM-medium of Gowal et al. (arXiv:1810.12715): four convolutions, two dense layers of 512."""
    convs = (ConvSpec(32, 3), ConvSpec(32, 4, 2), ConvSpec(64, 3), ConvSpec(64, 4, 2))
    return ConvNet(convs, (512, 512), **options)


def dm_large(**options: Any) -> ConvNet:
    """Returns DM-large of Gowal et al. (arXiv:1810.12715): five convolutions, a dense layer of 512."""
    return ConvNet(_large(64, 1), (512,), **options)


def cnn7_bn(*, width: int = 64, last_stride: int = 1, **options: Any) -> ConvNet:
    """Returns CNN-7: DM-large with BatchNorm before every activation (Shi et al., arXiv:2103.17268).

    On Tiny-ImageNet, the stride of the last convolution is 2.
    """
    return ConvNet(_large(width, last_stride), (512,), batch_norm=True, **options)


def _large(width: int, last_stride: int) -> tuple[ConvSpec, ...]:
    first, then = ConvSpec(width, 3, 1, 1), ConvSpec(2 * width, 3, 1, 1)
    return first, first, then._replace(stride=2), then, then._replace(stride=last_stride)


def resnet2(**options: Any) -> ResNet:
    """Returns two residual blocks: 32 x 32 x 16 -> 16 x 16 x 16 -> 8 x 8 x 32 -> 100."""
    return ResNet(16, (BlockSpec(16, 2), BlockSpec(32, 2)), (100,), **options)


def resnet4(**options: Any) -> ResNet:
    """Returns four residual blocks: `resnet2` with a second block at each size."""
    blocks = (BlockSpec(16, 2), BlockSpec(16), BlockSpec(32, 2), BlockSpec(32))
    return ResNet(16, blocks, (100,), **options)


def wide_resnet8(*, widen: int = 8, **options: Any) -> ResNet:
    """Returns WideResNet-8 with BatchNorm (Shi et al., arXiv:2103.17268): three blocks, a dense layer of 512.

    The blocks have `16 * widen`, twice and four times as many features; `widen` is 10 on Tiny-ImageNet.
    """
    blocks = (BlockSpec(16 * widen), BlockSpec(32 * widen, 2), BlockSpec(64 * widen, 2))
    return ResNet(16, blocks, (512,), batch_norm=True, **options)


def resnext(**options: Any) -> ResNet:
    """Returns ResNeXt with BatchNorm (Shi et al., arXiv:2103.17268): three grouped blocks, a dense layer of 512."""
    blocks = (
        BlockSpec(128, 1, bottleneck=64, groups=2),
        BlockSpec(256, 2, bottleneck=128, groups=2),
        BlockSpec(512, 2, bottleneck=256, groups=2),
    )
    return ResNet(64, blocks, (512,), batch_norm=True, **options)
