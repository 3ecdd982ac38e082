"""Maps the operators that resize images: along each axis, a choice of entries or a product with a known matrix."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._operators._table import EXACT, Operator, integers, positive, within_memory

ROUND = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def coordinates(mode: str, size: int, length: int, scale: float, box: tuple[float, float]):
    """Returns where, along an axis of a size, each of ``length`` new elements lies."""
    x = np.arange(length, dtype=np.float64)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * (size - 1) / (scale * size - 1) if length > 1 else x
    if mode == "tf_crop_and_resize":
        start, end = box
        if length == 1:
            return np.array([0.5 * (start + end) * (size - 1)])
        return start * (size - 1) + x * (end - start) * (size - 1) / (length - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return np.full(1, -0.5)
    shift = 0.0
    if mode == "half_pixel_symmetric":
        shift = size / 2 * (1 - length / (scale * size))
    return (x + 0.5) / scale - 0.5 + shift


def hat(x, _):
    """Returns the weight of a distance in linear interpolation."""
    return np.maximum(0, 1 - abs(x))


def cubic(x, slope: float):
    """Returns the weight of a distance in cubic convolution."""
    x = abs(x)
    near = ((slope + 2) * x - (slope + 3)) * x * x + 1
    far = ((slope * x - 5 * slope) * x + 8 * slope) * x - 4 * slope
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def matrix(a, where: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Returns the weights with which each new element reads the old ones; smoothing widens them."""
    weigh, reach = (hat, 1) if a.mode == "linear" else (cubic, 2)
    width = max(1.0, 1 / scale) if a.antialias else 1.0
    steps = np.arange(np.floor(-reach * width) + 1, np.ceil(reach * width) + 1)
    places = np.floor(where)[:, None] + steps
    weights = weigh((where[:, None] - places) / width, a.cubic_coeff_a)
    if a.exclude_outside:
        weights = np.where((places >= 0) & (places < size), weights, 0)
    # Beyond the ends, the value at the end is read.
    found = np.zeros((len(where), size))
    nearest = np.clip(places, 0, size - 1).astype(np.int64)
    np.add.at(found, (np.arange(len(where))[:, None], nearest), weights)
    return found / weights.sum(1, keepdims=True)


def resized(a, x, lengths, scales, boxes):
    """Returns a value with other sizes of its axes."""
    within_memory(lengths)
    mode = a.coordinate_transformation_mode or "asymmetric"
    nearest = ROUND[a.nearest_mode or "floor"]
    for axis, (length, scale, box) in enumerate(zip(lengths, scales, boxes, strict=True)):
        size = x.shape[axis]
        if length == size and scale == 1 and mode != "tf_crop_and_resize":
            continue
        where = coordinates(mode, size, length, scale, box)
        outside = (where < 0) | (where > size - 1)
        if a.mode == "nearest":
            places = np.clip(nearest(where), 0, size - 1).astype(np.int64)
            x = jnp.take(x, places, axis, mode="clip")
        else:
            weights = matrix(a, where, size, scale).astype(x.dtype)
            moved = jnp.tensordot(x, weights, (axis, 1), precision=EXACT)
            x = jnp.moveaxis(moved, -1, axis)
        if mode == "tf_crop_and_resize" and outside.any():
            spread = outside.reshape(-1, *[1] * (x.ndim - axis - 1))
            x = jnp.where(spread, jnp.asarray(a.extrapolation_value, x.dtype), x)
    return x


def resize(a, x, *inputs):
    """Resizes to given sizes, or by factors."""
    # Version 10 has the factors alone.
    roi, scales, sizes = (
        (None, *inputs, None)[:3] if a.opset < 11 else (*inputs, None, None, None)[:3]
    )
    axes = list(range(x.ndim)) if a.axes is None else [positive(i, x.ndim) for i in a.axes]
    old = [x.shape[axis] for axis in axes]
    if sizes is not None and np.size(sizes):
        new = list(integers(sizes))
        factors = [length / size for length, size in zip(new, old, strict=True)]
        if a.keep_aspect_ratio_policy in ("not_larger", "not_smaller"):
            chosen = min if a.keep_aspect_ratio_policy == "not_larger" else max
            factors = [chosen(factors)] * len(old)
            new = [int(np.floor(factors[0] * size + 0.5)) for size in old]
    elif scales is not None and np.size(scales):
        factors = [float(scale) for scale in known(scales)]
        new = [int(np.floor(size * f)) for size, f in zip(old, factors, strict=True)]
    else:
        raise OnnxError("neither sizes nor scales")
    lengths, all_factors, boxes = list(x.shape), [1.0] * x.ndim, [(0.0, 1.0)] * x.ndim
    for i, axis in enumerate(axes):
        lengths[axis], all_factors[axis] = new[i], factors[i]
        if roi is not None and np.size(roi):
            boxes[axis] = float(known(roi)[i]), float(known(roi)[i + len(axes)])
    return resized(a, x, lengths, all_factors, boxes)


def known(values) -> np.ndarray:
    """Returns values as an array, if they do not depend on the inputs."""
    if not isinstance(values, np.ndarray):
        raise OnnxError("a factor depends on the inputs of the model")
    return values.ravel()


def upsample(a, x, scales):
    """Resizes by factors of at least 1."""
    scales = [float(scale) for scale in known(scales)]
    lengths = [int(np.floor(n * scale)) for n, scale in zip(x.shape, scales, strict=True)]
    return resized(a, x, lengths, scales, [(0.0, 1.0)] * x.ndim)


TABLE = {
    "Resize": Operator(
        resize,
        plain=False,
        static=(1, 2, 3),
        allowed={"mode": ("nearest", "linear", "cubic")},
    ),
    "Upsample": Operator(
        upsample, plain=False, static=(1,), allowed={"mode": ("nearest", "linear")}
    ),
}
