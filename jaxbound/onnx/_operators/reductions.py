"""Maps the operators that combine values along axes: sums, extrema, norms, softmax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound.onnx._operators._table import Operator, integers, positive


def reduced(compute) -> Operator:
    """Returns a reduction; its axes are an attribute or an input, and none stands for all of them."""

    def apply(a, x, axes=None):
        axes = integers(() if a.axes is None and axes is None else a.axes if axes is None else axes)
        if not axes and not a.noop_with_empty_axes:
            axes = tuple(range(x.ndim))
        return compute(a, x, axis=axes, keepdims=bool(a.keepdims)).astype(x.dtype)

    return Operator(apply, static=(1,))


def named(name: str) -> Operator:
    """Returns the reduction that NumPy and JAX call by the same name."""
    return reduced(lambda a, x, **where: getattr(a.np, name)(x, **where))


def extremum(name: str, least: bool) -> Operator:
    """Returns the maximum or minimum: of nothing, the least or largest number."""

    def compute(a, x, **where):
        if x.dtype == bool:
            return getattr(a.np, "any" if name == "max" else "all")(x, **where)
        limits = a.np.finfo if a.np.issubdtype(x.dtype, np.floating) else a.np.iinfo
        worst = limits(x.dtype).min if least else limits(x.dtype).max
        if a.np.issubdtype(x.dtype, np.floating):
            worst = -np.inf if least else np.inf
        return (
            getattr(a.np, name)(x, initial=worst, **where)
            if not x.size
            else getattr(a.np, name)(x, **where)
        )

    return reduced(compute)


def log_sum_exp(a, x, **where):
    """Returns the logarithm of a sum of exponentials."""
    return jax.nn.logsumexp(x, **where)


def arg(name: str) -> Operator:
    """Returns the position of the first, or of the last, largest or smallest entry."""

    def apply(a, x):
        axis = positive(a.axis, x.ndim)
        if a.select_last_index:
            last = x.shape[axis] - 1
            found = last - getattr(a.np, name)(a.np.flip(x, axis), axis=axis)
        else:
            found = getattr(a.np, name)(x, axis=axis)
        return a.np.expand_dims(found, axis) if a.keepdims else found

    return Operator(apply)


def softmax(compute) -> Operator:
    """Returns a softmax along an axis; before version 13 it was along all axes from that one on."""

    def apply(a, x):
        axis = positive(a.axis, x.ndim)
        return compute(x, axis=axis if a.opset >= 13 else tuple(range(axis, x.ndim)))

    return Operator(apply, plain=False)


def cumsum(a, x, axis):
    """Sums up to each element, from the end or without the element itself if asked for."""
    (axis,) = integers(axis)
    axis = positive(axis, x.ndim)
    x = a.np.flip(x, axis) if a.reverse else x
    if a.exclusive:
        shifted = [(0, 0)] * x.ndim
        shifted[axis] = (1, 0)
        kept = tuple(slice(-1) if i == axis else slice(None) for i in range(x.ndim))
        x = a.np.pad(x[kept], shifted)
    found = a.np.cumsum(x, axis, dtype=x.dtype)
    return a.np.flip(found, axis) if a.reverse else found


def lp_normalization(a, x):
    """Divides by a norm along an axis; what is 0 stays 0."""
    if a.p == 1:
        norm = a.np.abs(x).sum(a.axis, keepdims=True)
    else:
        norm = a.np.sqrt((x * x).sum(a.axis, keepdims=True))
    return x / a.np.maximum(norm, a.np.finfo(x.dtype).tiny)


def top_k(a, x, k):
    """Returns the largest entries along an axis, and where they stand."""
    (k,) = integers(k)
    axis = positive(a.axis, x.ndim)
    moved = jnp.moveaxis(x, axis, -1)
    if a.largest:
        values, places = jax.lax.top_k(moved, k)
    else:
        places = jnp.argsort(moved, -1)[..., :k]
        values = jnp.take_along_axis(moved, places, -1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(places.astype(int), -1, axis)


TABLE = {
    "ReduceSum": named("sum"),
    "ReduceMean": named("mean"),
    "ReduceProd": named("prod"),
    "ReduceMax": extremum("max", least=True),
    "ReduceMin": extremum("min", least=False),
    "ReduceL1": reduced(lambda a, x, **where: a.np.sum(a.np.abs(x), **where)),
    "ReduceL2": reduced(lambda a, x, **where: a.np.sqrt(a.np.sum(x * x, **where))),
    "ReduceSumSquare": reduced(lambda a, x, **where: a.np.sum(x * x, **where)),
    "ReduceLogSum": reduced(lambda a, x, **where: a.np.log(a.np.sum(x, **where))),
    "ReduceLogSumExp": reduced(log_sum_exp),
    "ArgMax": arg("argmax"),
    "ArgMin": arg("argmin"),
    "CumSum": Operator(cumsum, static=(1,)),
    "Softmax": softmax(jax.nn.softmax),
    "LogSoftmax": softmax(jax.nn.log_softmax),
    "LpNormalization": Operator(lp_normalization),
    "TopK": Operator(top_k, plain=False, static=(1,), outputs=2),
}
