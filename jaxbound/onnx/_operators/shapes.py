"""Maps the operators that move values, and those that make values from shapes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._operators._table import Operator, integers, positive, within_memory


def reshape(a, x, shape):
    """Reshapes to given sizes, of which 0 keeps one and -1 stands for what is left."""
    sizes = [
        x.shape[i] if size == 0 and not a.allowzero else size
        for i, size in enumerate(integers(shape))
    ]
    return x.reshape(sizes)


def flatten(a, x):
    """Joins the axes before one, and those from it on."""
    axis = x.ndim if a.axis == x.ndim else positive(a.axis, x.ndim)
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


def chosen_axes(a, axes) -> tuple[int, ...] | None:
    """Returns the axes that an attribute names, or an input; None where both are absent."""
    axes = a.axes if axes is None else axes
    return None if axes is None else integers(axes)


def squeeze(a, x, axes=None):
    """Drops axes of size 1."""
    return a.np.squeeze(x, chosen_axes(a, axes))


def unsqueeze(a, x, axes=None):
    """Inserts axes of size 1."""
    return a.np.expand_dims(x, chosen_axes(a, axes))


def slices(a, x, starts=None, ends=None, axes=None, steps=None):
    """Takes a slice along some axes."""
    starts, ends = (integers(a.starts), integers(a.ends)) if starts is None else (starts, ends)
    starts, ends = integers(starts), integers(ends)
    axes = chosen_axes(a, axes) or tuple(range(len(starts)))
    steps = [1] * len(starts) if steps is None else integers(steps)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = positive(axis, x.ndim)
        size = x.shape[axis]
        # An end before the first element means, for steps back, that the first is included.
        start = max(start + size, 0 if step > 0 else -1) if start < 0 else start
        end = max(end + size, -1) if end < 0 else end
        if step < 0:
            start = min(start, size - 1)
            end = None if end < 0 else end
        index[axis] = slice(0, 0) if start < 0 else slice(start, end, step)
    return x[tuple(index)]


def split(a, x, sizes=None):
    """Splits along an axis, into parts of given sizes or into equal ones, of which the last may be smaller."""
    axis = positive(a.axis, x.ndim)
    sizes = a.split if sizes is None else sizes
    if sizes is None:
        parts = a.num_outputs or a.count
        each = -(-x.shape[axis] // parts)
        sizes = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    sizes = integers(sizes)
    if sum(sizes) != x.shape[axis] or min(sizes) < 0:
        raise OnnxError(f"an axis of size {x.shape[axis]} is split into {sizes}")
    return tuple(a.np.split(x, np.cumsum(sizes)[:-1], axis))


def wrapped(a, indices, size: int):
    """Returns indices counted from the front."""
    if isinstance(indices, np.ndarray) and ((indices < -size) | (indices >= size)).any():
        raise OnnxError(f"an index beyond an axis of size {size}")
    return a.np.where(indices < 0, indices + size, indices)


def gather(a, x, indices):
    """Takes entries along an axis."""
    axis = positive(a.axis, x.ndim)
    indices = wrapped(a, indices, x.shape[axis])
    if a.np is np:
        return np.take(x, indices, axis)
    return jnp.take(x, indices, axis, mode="clip")


def gather_elements(a, x, indices):
    """Takes an entry along an axis for every element of the indices."""
    axis = positive(a.axis, x.ndim)
    indices = wrapped(a, indices, x.shape[axis])
    inside = tuple(
        slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape)
    )
    return a.np.take_along_axis(x[inside], indices, axis)


def gather_nd(a, x, indices):
    """Takes slices at tuples of indices."""
    return x[tuple(jnp.moveaxis(indices, -1, 0))]


def scatter_nd(a, x, indices, updates):
    """Writes slices at tuples of indices."""
    target = x.at[tuple(jnp.moveaxis(indices, -1, 0))]
    write = {"add": target.add, "mul": target.multiply, "max": target.max, "min": target.min}
    return write.get(a.reduction, target.set)(updates)


def pad(a, x, pads=None, value=None, axes=None):
    """Adds a margin, or with negative numbers cuts one off."""
    pads = integers(a.pads if pads is None else pads)
    axes = range(x.ndim) if axes is None else [positive(axis, x.ndim) for axis in integers(axes)]
    before, after = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    widths = [(0, 0)] * x.ndim
    for axis, *width in zip(axes, before, after, strict=True):
        widths[axis] = tuple(width)
    within_memory([max(size + sum(width), 0) for size, width in zip(x.shape, widths, strict=True)])
    x = x[
        tuple(
            slice(max(-i, 0), size - max(-j, 0))
            for (i, j), size in zip(widths, x.shape, strict=True)
        )
    ]
    widths = [(max(i, 0), max(j, 0)) for i, j in widths]
    if a.mode != "constant":
        return a.np.pad(x, widths, mode={"reflect": "reflect", "edge": "edge"}.get(a.mode, "wrap"))
    value = a.value if value is None else value
    value = 0 if value is None else a.np.asarray(value).reshape(()).astype(x.dtype)
    return a.np.pad(x, widths, mode="constant", constant_values=value)


def expand(a, x, shape):
    """Broadcasts to a shape, and to the value's own."""
    return a.np.broadcast_to(x, within_memory(np.broadcast_shapes(x.shape, integers(shape))))


def tile(a, x, repeats):
    """Repeats along all axes."""
    repeats = integers(repeats)
    within_memory([size * times for size, times in zip(x.shape, repeats, strict=True)])
    return a.np.tile(x, repeats)


def constant(a):
    """Returns a known value, in any of the ways to write one."""
    if a.value is not None:
        return a.value
    for number, dtype in (("float", np.float32), ("int", np.int64)):
        for name in (f"value_{number}", f"value_{number}s"):
            if name in a.values:
                return np.array(a.values[name], dtype)
    raise OnnxError("a constant without a value")


def constant_of_shape(a, shape):
    """Returns one number in all elements of a shape."""
    value = np.zeros(1, np.float32) if a.value is None else a.value
    return np.full(within_memory(shape), value.reshape(()))


def shape_of(a, x):
    """Returns the sizes of the axes, or of some."""
    return np.array(x.shape[slice(a.start or 0, a.end)], np.int64)


def arange(a, start, limit, delta):
    """Returns numbers in equal steps."""
    start, limit, delta = (value.reshape(()) for value in (start, limit, delta))
    count = np.ceil((float(limit) - float(start)) / float(delta))
    (count,) = within_memory([max(count, 0)])
    return (start + np.arange(count, dtype=start.dtype) * delta).astype(start.dtype)


def trilu(a, x, diagonal=0):
    """Keeps the upper or the lower triangle of matrices."""
    return (a.np.triu if a.upper else a.np.tril)(x, int(diagonal))


def depth_to_space(a, x):
    """Moves channels into blocks of an image."""
    batch, channels, height, width = x.shape
    size = a.blocksize
    if a.mode == "CRD":
        x = x.reshape(batch, channels // size**2, size, size, height, width)
        x = x.transpose(0, 1, 4, 2, 5, 3)
    else:
        x = x.reshape(batch, size, size, channels // size**2, height, width)
        x = x.transpose(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, channels // size**2, height * size, width * size)


def space_to_depth(a, x):
    """Moves blocks of an image into channels."""
    batch, channels, height, width = x.shape
    size = a.blocksize
    x = x.reshape(batch, channels, height // size, size, width // size, size)
    x = x.transpose(0, 1, 3, 5, 2, 4) if a.mode == "CRD" else x.transpose(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * size**2, height // size, width // size)


TABLE = {
    "Reshape": Operator(reshape, static=(1,)),
    "Flatten": Operator(flatten),
    "Transpose": Operator(lambda a, x: x.transpose(a.perm)),
    "Squeeze": Operator(squeeze, static=(1,)),
    "Unsqueeze": Operator(unsqueeze, static=(1,)),
    "Concat": Operator(lambda a, *xs: a.np.concatenate(xs, a.axis)),
    "Slice": Operator(slices, static=(1, 2, 3, 4)),
    "Split": Operator(split, static=(1,), outputs=None),
    "Gather": Operator(gather),
    "GatherElements": Operator(gather_elements),
    "GatherND": Operator(gather_nd, plain=False, allowed={"batch_dims": (0,)}),
    "ScatterND": Operator(scatter_nd, plain=False),
    "Pad": Operator(pad, static=(1, 3)),
    "Expand": Operator(expand, static=(1,)),
    "Tile": Operator(tile, static=(1,)),
    "Constant": Operator(constant),
    "ConstantOfShape": Operator(constant_of_shape, static=(0,)),
    "Shape": Operator(shape_of),
    "Size": Operator(lambda a, x: np.array(x.size, np.int64)),
    "Range": Operator(arange, static=(0, 1, 2)),
    "Trilu": Operator(trilu, static=(1,)),
    "DepthToSpace": Operator(depth_to_space),
    "SpaceToDepth": Operator(space_to_depth),
}
