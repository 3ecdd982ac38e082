"""Derives what a window of an equation's output needs of its operands.

A neuron of a convolutional net reads a window of each earlier value: strides, offsets and sizes follow
primitive by primitive. Along an axis that a primitive cannot follow, whole values are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import primitives as jp

from jaxbound._program.graph import Equation, shape_of
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.linear_rules import linear_rules


class Span(NamedTuple):
    """Describes a window along one axis: ``stride * position[axis] + offset + [0, size)``.

    If the axis is None, the window is the same at all positions.
    """

    axis: int | None
    stride: int
    offset: int
    size: int


Window = tuple[Span, ...]


class Needs(NamedTuple):
    """Holds what an equation on windows takes: a window per operand (None: all of it), and its parameters."""

    windows: Sequence[Window | None]
    params: dict[str, Any]
    sums: bool = False  # operands outside of the image count as 0
    each: bool = False  # elements are treated one by one


# Axes of the target that an equation cannot follow.
Lost = set[int]


def all_of(size: int) -> Span:
    return Span(None, 0, 0, size)


def sizes(window: Window) -> tuple[int, ...]:
    return tuple(span.size for span in window)


def axes_of(window: Sequence[Span]) -> Lost:
    return {span.axis for span in window if span.axis is not None}


def long(window: Window) -> tuple[int, ...]:
    return tuple(n for n in sizes(window) if n != 1)


def union(a: Window, b: Window) -> Window:
    spans = []
    for one, two in zip(a, b, strict=True):
        start = min(one.offset, two.offset)
        stop = max(one.offset + one.size, two.offset + two.size)
        spans.append(Span(one.axis, one.stride, start, stop - start))
    return tuple(spans)


def apart(a: Window, b: Window) -> Lost:
    """Returns the axes along which two windows of one value do not move together."""
    return axes_of(
        [s for pair in zip(a, b, strict=True) if pair[0][:2] != pair[1][:2] for s in pair]
    )


def leaves(window: Window, shape: Sequence[int], counts: Sequence[int]) -> bool:
    """Tells whether a window leaves a value of this shape at some place."""
    for span, n in zip(window, shape, strict=True):
        last = 0 if span.axis is None else span.stride * (counts[span.axis] - 1)
        if span.offset < 0 or last + span.offset + span.size > n:
            return True
    return False


# ---------------------------------------------------------------- what a window of an output needs


def _whole(eqn: Equation, window: Window) -> Needs | Lost:
    """Returns all of the operands for all of the output: right for any primitive. A moving window is lost."""
    every = [tuple(map(all_of, shape_of(atom))) if atom.uncertain else None for atom in eqn.inputs]
    return axes_of(window) or Needs(every, eqn.params)


def _each(eqn: Equation, window: Window) -> Needs | Lost:
    """Follows elements one by one; operands may have axes of length 1, or none."""
    full = eqn.outputs[0].shape
    shapes = [shape_of(atom) for atom in eqn.inputs]
    if any(shape and len(shape) != len(full) for shape in shapes):
        return _whole(eqn, window)
    reads = [tuple(map(_along, shape, full, window)) for shape in shapes]
    return Needs(reads, eqn.params, each=True)


def _along(n: int, full: int, span: Span) -> Span:
    """Returns what is read of an axis of length n that is repeated to a full length."""
    return span if n == full else all_of(n)


def _slide(span: Span, n: int, stride: int, padding, size: int, dilation: int):
    """Returns what a sliding window reads of an axis of length n, and the padding that is left to do."""
    if span.axis is None:
        return all_of(n), padding
    reach = (span.size - 1) * stride + (size - 1) * dilation + 1
    return Span(span.axis, span.stride * stride, span.offset * stride - padding[0], reach), (0, 0)


def _convolution(eqn: Equation, window: Window) -> Needs | Lost:
    """Follows a convolution by known kernels along batch and image, not along features: it sums over them."""
    (lhs, rhs, out), params = eqn.params["dimension_numbers"], eqn.params
    plain = params["batch_group_count"] == 1 and set(params["lhs_dilation"]) <= {1}
    if not plain or list(eqn.moving) != [0]:
        return _whole(eqn, window)
    if features := axes_of([window[out[1]]]):
        return features
    shape, kernel = shape_of(eqn.inputs[0]), shape_of(eqn.inputs[1])
    reads, left = [all_of(n) for n in shape], []
    reads[lhs[0]] = window[out[0]]
    names = ("window_strides", "padding", "rhs_dilation")
    for i, (stride, padding, dilation) in enumerate(zip(*map(params.get, names), strict=True), 2):
        found = _slide(window[out[i]], shape[lhs[i]], stride, padding, kernel[rhs[i]], dilation)
        reads[lhs[i]] = found[0]
        left.append(found[1])
    return Needs([tuple(reads), None], params | {"padding": tuple(left)}, sums=True)


def _pooling(eqn: Equation, window: Window) -> Needs | Lost:
    """Follows sliding sums along all axes, and sliding maxima along axes without padding."""
    params = eqn.params
    if set(params["base_dilation"]) != {1}:
        return _whole(eqn, window)
    names = ("window_strides", "padding", "window_dimensions", "window_dilation")
    options = zip(*map(params.get, names), strict=True)
    pairs = [
        _slide(span, n, *rest)
        for span, n, rest in zip(window, shape_of(eqn.inputs[0]), options, strict=True)
    ]
    reads, left = (tuple(side) for side in zip(*pairs, strict=True))
    sums = eqn.primitive is jp.reduce_window_sum_p
    # Beyond the edge, a maximum would have to read -inf.
    lost = axes_of(
        [s for s, p in zip(window, params["padding"], strict=True) if any(p) and not sums]
    )
    return lost or Needs([reads], params | {"padding": left}, sums)


def _dense(eqn: Equation, window: Window) -> Needs | Lost:
    """Follows a product that mixes features at every place of an image."""
    ((mixed, _), batch) = eqn.params["dimension_numbers"]
    if list(eqn.moving) != [0] or any(batch):
        return _whole(eqn, window)
    reads = [all_of(n) for n in shape_of(eqn.inputs[0])]
    free = [axis for axis in range(len(reads)) if axis not in mixed]
    for axis, span in zip(free, window, strict=False):
        reads[axis] = span
    return axes_of(window[len(free) :]) or Needs([tuple(reads), None], eqn.params)


def _broadcast(eqn: Equation, window: Window) -> Needs | Lost:
    shape, axes = shape_of(eqn.inputs[0]), eqn.params["broadcast_dimensions"]
    full = eqn.outputs[0].shape
    reads = (_along(n, full[i], window[i]) for n, i in zip(shape, axes, strict=True))
    return Needs([tuple(reads)], eqn.params | {"shape": sizes(window)})


def _transpose(eqn: Equation, window: Window) -> Needs:
    order = eqn.params["permutation"]
    return Needs([tuple(window[order.index(i)] for i in range(len(order)))], eqn.params)


def _reshape(eqn: Equation, window: Window) -> Needs | Lost:
    """Follows a reshape that only adds or drops axes of length 1."""
    before, after = shape_of(eqn.inputs[0]), eqn.outputs[0].shape
    if [n for n in before if n > 1] != [n for n in after if n > 1]:
        return _whole(eqn, window)
    lost = axes_of([span for span, n in zip(window, after, strict=True) if n == 1])
    kept = iter([span for span, n in zip(window, after, strict=True) if n > 1])
    reads = tuple(next(kept) if n > 1 else all_of(1) for n in before)
    params = eqn.params | ({"new_sizes": sizes(window)} if "new_sizes" in eqn.params else {})
    return lost or Needs([reads], params)


def _concatenate(eqn: Equation, window: Window) -> Needs | Lost:
    axis = eqn.params["dimension"]
    reads = [
        (*window[:axis], all_of(shape_of(atom)[axis]), *window[axis + 1 :]) for atom in eqn.inputs
    ]
    return axes_of([window[axis]]) or Needs(reads, eqn.params)


_RULES: dict[Any, Callable[[Equation, Window], Needs | Lost]] = {
    jp.conv_general_dilated_p: _convolution,
    jp.reduce_window_sum_p: _pooling,
    jp.reduce_window_max_p: _pooling,
    jp.dot_general_p: _dense,
    jp.broadcast_in_dim_p: _broadcast,
    jp.transpose_p: _transpose,
    jp.reshape_p: _reshape,
    jp.squeeze_p: _reshape,
    jp.concatenate_p: _concatenate,
}


def needs_of(eqn: Equation, window: Window) -> Needs | Lost:
    """Returns what ``window`` of the output of ``eqn`` needs, or the axes that it cannot follow."""
    linear = linear_rules.get(eqn.primitive)
    each = eqn.primitive in ELEMENTWISE or (linear is not None and linear.keeps == "place")
    return _RULES.get(eqn.primitive, _each if each else _whole)(eqn, window)
