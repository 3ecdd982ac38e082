"""Maps the layers of networks: convolutions, pooling, normalisation, dropout."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._operators._table import EXACT, Call, Operator

AUTOMATIC = {"auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")}


class Window:
    """Holds where a window of a convolution or of pooling stands along every spatial axis."""

    def __init__(self, a: Call, sizes, kernel):
        ones = [1] * len(sizes)
        self.sizes, self.kernel = list(sizes), list(kernel)
        self.strides, self.dilations = list(a.strides or ones), list(a.dilations or ones)
        if not len(sizes) == len(kernel) == len(self.strides) == len(self.dilations):
            raise OnnxError(f"a kernel of shape {tuple(kernel)} on {len(sizes)} spatial axes")
        self.extents = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        pads = list(a.pads or [0] * (2 * len(sizes)))
        self.pads = list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
        if a.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            self.pads = [self.same(i, a.auto_pad == "SAME_UPPER") for i in range(len(sizes))]
        elif a.auto_pad == "VALID":
            self.pads = [(0, 0)] * len(sizes)

    def same(self, i: int, upper: bool) -> tuple[int, int]:
        """Returns the padding with which an axis has as many windows as strides."""
        count = -(-self.sizes[i] // self.strides[i])
        total = max((count - 1) * self.strides[i] + self.extents[i] - self.sizes[i], 0)
        less, more = total // 2, total - total // 2
        return (less, more) if upper else (more, less)

    def counts(self, ceil: bool) -> list[int]:
        """Returns how many windows there are; those that begin in the padding at the end do not count."""
        found = []
        for size, extent, stride, (before, after) in zip(
            self.sizes, self.extents, self.strides, self.pads, strict=True
        ):
            room = size + before + after - extent
            count = (-(-room // stride) if ceil else room // stride) + 1
            found.append(count - (ceil and (count - 1) * stride >= size + before))
        if min(found) < 1:
            raise OnnxError(f"no window of extent {self.extents} fits into {self.sizes}")
        return found

    def places(self, i: int, count: int) -> np.ndarray:
        """Returns the positions along an axis that each window reads, counted from the first of the value."""
        starts = np.arange(count) * self.strides[i] - self.pads[i][0]
        return starts[:, None] + np.arange(self.kernel[i]) * self.dilations[i]


def conv(a, x, kernel, bias=None):
    """Convolves with a kernel."""
    if kernel.ndim != x.ndim or kernel.shape[1] * a.group != x.shape[1]:
        raise OnnxError(f"a kernel of shape {kernel.shape} in {a.group} groups on {x.shape}")
    window = Window(a, x.shape[2:], kernel.shape[2:])
    found = lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.pads,
        rhs_dilation=window.dilations,
        feature_group_count=a.group,
        precision=EXACT,
    )
    return with_bias(found, bias)


def with_bias(x, bias):
    """Adds one number to each channel."""
    return x if bias is None else x + per_channel(bias, x.ndim)


def per_channel(values, ndim: int):
    """Reshapes one number a channel to lie along the second axis."""
    return values.reshape(-1, *[1] * (ndim - 2))


def conv_transpose(a, x, kernel, bias=None):
    """Convolves the value, spread by the strides, with the mirrored kernel."""
    spatial = tuple(range(2, x.ndim))
    window = Window(a, x.shape[2:], kernel.shape[2:])
    more = list(a.output_padding or [0] * len(spatial))
    pads = transposed_pads(a, window, more)
    grouped = kernel.reshape(a.group, -1, *kernel.shape[1:]).swapaxes(1, 2)
    mirrored = jnp.flip(grouped.reshape(-1, *grouped.shape[2:]), spatial)
    found = lax.conv_general_dilated(
        x,
        mirrored,
        [1] * len(spatial),
        [
            (extent - 1 - before, extent - 1 - after + beyond)
            for extent, (before, after), beyond in zip(window.extents, pads, more, strict=True)
        ],
        lhs_dilation=window.strides,
        rhs_dilation=window.dilations,
        feature_group_count=a.group,
        precision=EXACT,
    )
    return with_bias(found, bias)


def transposed_pads(a, window: Window, more: list[int]) -> list[tuple[int, int]]:
    """Returns what a transposed convolution cuts off: given, or what leads to the asked output shape."""
    same = a.auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if a.output_shape is None and not same:
        return window.pads
    sizes = zip(window.sizes, window.strides, strict=True)
    shape = a.output_shape or [size * stride for size, stride in sizes]
    pads = []
    for i, wanted in enumerate(shape[-len(window.sizes) :]):
        full = window.strides[i] * (window.sizes[i] - 1) + more[i] + window.extents[i]
        less, rest = (full - wanted) // 2, full - wanted - (full - wanted) // 2
        pads.append((less, rest) if a.auto_pad == "SAME_UPPER" else (rest, less))
    return pads


def pooled(a, x, start, combine):
    """Returns the combination of all windows, and what the windows are."""
    window = Window(a, x.shape[2:], a.kernel_shape)
    counts = window.counts(bool(a.ceil_mode))
    pads = [
        (before, (count - 1) * stride + extent - size - before)
        for count, stride, extent, size, (before, _) in zip(
            counts, window.strides, window.extents, window.sizes, window.pads, strict=True
        )
    ]
    # A window that ends before the padding does reads none of it.
    x = x[
        (
            ...,
            *(
                slice(size + min(after, 0))
                for size, (_, after) in zip(window.sizes, pads, strict=True)
            ),
        )
    ]
    found = lax.reduce_window(
        x,
        np.array(start, x.dtype),
        combine,
        (1, 1, *window.kernel),
        (1, 1, *window.strides),
        ((0, 0), (0, 0), *((before, max(after, 0)) for before, after in pads)),
        window_dilation=(1, 1, *window.dilations),
    )
    return found, window, counts


def max_pool(a, x):
    """Returns the maximum of each window."""
    least = -np.inf if jnp.issubdtype(x.dtype, np.floating) else jnp.iinfo(x.dtype).min
    return pooled(a, x, least, lax.max)[0]


def average_pool(a, x):
    """Returns the mean of each window: of what is inside, or of the padding too."""
    found, window, counts = pooled(a, x, 0, lax.add)
    inside = []
    for i, count in enumerate(counts):
        before, after = window.pads[i] if a.count_include_pad else (0, 0)
        places = window.places(i, count)
        inside.append(((places >= -before) & (places < window.sizes[i] + after)).sum(1))
    number = functools.reduce(np.multiply.outer, inside)
    return found / (number.flat[0] if (number == number.flat[0]).all() else number).astype(x.dtype)


def global_pool(name: str) -> Operator:
    """Returns the operator that reduces all spatial axes."""
    return Operator(lambda a, x: getattr(a.np, name)(x, tuple(range(2, x.ndim)), keepdims=True))


def batch_normalization(a, x, scale, bias, mean, variance):
    """Scales and shifts each channel by known statistics."""
    factor = scale / a.np.sqrt(variance + a.np.asarray(a.epsilon, variance.dtype))
    centred = x - per_channel(mean, x.ndim)
    return (centred * per_channel(factor, x.ndim) + per_channel(bias, x.ndim)).astype(x.dtype)


def standardised(a, x, axes):
    """Returns a value less its mean, over its deviation, with both of these."""
    mean = a.np.mean(x, axes, keepdims=True)
    centred = x - mean
    variance = a.np.mean(centred * centred, axes, keepdims=True)
    inverse = 1 / a.np.sqrt(variance + a.np.asarray(a.epsilon, x.dtype))
    return centred * inverse, mean, inverse


def layer_normalization(a, x, scale, bias=None):
    """Normalises along the last axes, from a given one on."""
    axes = tuple(range(a.axis % x.ndim, x.ndim))
    found, mean, inverse = standardised(a, x, axes)
    found = found * scale if bias is None else found * scale + bias
    return (found, mean, inverse)[: a.count]


def instance_normalization(a, x, scale, bias):
    """Normalises each channel of each example."""
    found, _, _ = standardised(a, x, tuple(range(2, x.ndim)))
    return found * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)


def dropout(a, x, ratio=None, training=None):
    """Returns the value itself, and that nothing is dropped."""
    if training is not None and bool(training) and (ratio is None or float(ratio)):
        raise OnnxError("dropout in training is random")
    return (x, a.np.ones(x.shape, bool))[: a.count]


TABLE = {
    "Conv": Operator(conv, plain=False, allowed=AUTOMATIC),
    "ConvTranspose": Operator(conv_transpose, plain=False, allowed=AUTOMATIC),
    "MaxPool": Operator(max_pool, plain=False, allowed=AUTOMATIC),
    "AveragePool": Operator(average_pool, plain=False, allowed=AUTOMATIC),
    "GlobalAveragePool": global_pool("mean"),
    "GlobalMaxPool": global_pool("max"),
    "BatchNormalization": Operator(
        batch_normalization, allowed={"training_mode": (0,), "spatial": (1,)}
    ),
    "LayerNormalization": Operator(layer_normalization, outputs=3, allowed={"stash_type": (1,)}),
    "InstanceNormalization": Operator(instance_normalization),
    "Dropout": Operator(dropout, static=(1, 2), outputs=2),
}
