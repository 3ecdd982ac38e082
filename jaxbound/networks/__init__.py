"""Defines the networks of the certified-training papers (Flax linen), and BatchNorm in training.

Images are NHWC. Every network maps `[batch, height, width, channels]` to logits `[batch, classes]`;
every layer but the last is followed by the activation. `import jaxbound` does not import this
package, which needs Flax.
"""

from jaxbound.networks._clean_pass import CleanPass as CleanPass
from jaxbound.networks._clean_pass import clean_pass as clean_pass
from jaxbound.networks._cnn_cert import LeNet as LeNet
from jaxbound.networks._cnn_cert import PooledResNet as PooledResNet
from jaxbound.networks._cnn_cert import plain_cnn as plain_cnn
from jaxbound.networks._cnn_cert import pooled_resnet as pooled_resnet
from jaxbound.networks._initializers import ibp_init as ibp_init
from jaxbound.networks._modules import BlockSpec as BlockSpec
from jaxbound.networks._modules import ConvNet as ConvNet
from jaxbound.networks._modules import ConvSpec as ConvSpec
from jaxbound.networks._modules import ResNet as ResNet
from jaxbound.networks._papers import cnn7_bn as cnn7_bn
from jaxbound.networks._papers import dm_large as dm_large
from jaxbound.networks._papers import dm_medium as dm_medium
from jaxbound.networks._papers import dm_small as dm_small
from jaxbound.networks._papers import resnet2 as resnet2
from jaxbound.networks._papers import resnet4 as resnet4
from jaxbound.networks._papers import resnext as resnext
from jaxbound.networks._papers import small_cifar as small_cifar
from jaxbound.networks._papers import small_cnn as small_cnn
from jaxbound.networks._papers import small_mnist as small_mnist
from jaxbound.networks._papers import wide_resnet8 as wide_resnet8
from jaxbound.networks._ramp import NNXParamRamp as NNXParamRamp
from jaxbound.networks._ramp import ParamRamp as ParamRamp
from jaxbound.networks._ramp import noisy_ramps as noisy_ramps
from jaxbound.networks._ramp import project_ramps as project_ramps
from jaxbound.networks._ramp import ramp as ramp
from jaxbound.networks._ramp import set_eta as set_eta
from jaxbound.networks._ramp import set_nnx_ramps as set_nnx_ramps
from jaxbound.networks._ramp import set_ramps as set_ramps
