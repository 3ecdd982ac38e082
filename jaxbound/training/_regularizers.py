"""Defines regularisers of certified training: of the bounds of a batch, and of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxbound as jb


class BoundRegularizers(NamedTuple):
    """Holds means over the activation layers, each at least 0: scalars, to be added to the loss."""

    tightness: jax.Array
    balance: jax.Array


def bound_regularizers(
    bounds: Mapping[str, jb.Interval], boxes: jb.Interval, *, tolerance: float = 0.5
) -> BoundRegularizers:
    """Measures how far the bounds of a batch widen with depth, and how unequal its ReLUs' states are.

    With `[t] = max(t, 0) / tolerance`, a layer's centres `c` and radii `r` of all examples and
    neurons, and `A`, `D` the indicators of active (`lower > 0`) and inactive (`upper < 0`) neurons:

      tightness: [tolerance - mean(radius of boxes) / mean(r)]
      balance:   [tolerance - ratio(mean(c A), -mean(c D))]
                 + [tolerance - ratio(sum((c - mean(c))^2 A), sum((c - mean(c))^2 D))]

    where `ratio` is the smaller value over the larger one. A layer without inactive neurons, or
    with both sums of squares 0, has balance 0. Gradients are finite.

    Every entry of `bounds` counts as a layer. In networks whose only non-linear operations are
    ReLU-like activations, as all in `jaxbound.networks`, these are the activations' operands; where
    there are other operations (max-pooling, a softmax at the end), leave theirs out by name.

    Args:
      bounds: name -> intervals `[batch, ...]`, of a batch's `jaxbound.intermediate_bounds(fn, box,
        method=jaxbound.ibp)`. Their radii should not be 0: while eps is 0, take boxes of radius 1e-6.
      boxes: the intervals of the batch's inputs `[batch, ...]`, of their first layer: where `fn`
        normalises, `jaxbound.ibp(normalise, boxes)`.
      tolerance: a ratio below it adds to the loss.

    Returns:
      `BoundRegularizers`, to be weighted by `regularizer_weight`.

    Raises:
      ValueError: `bounds` is empty.

    References:
      Shi et al., arXiv:2103.17268.

    >>> import jax, jax.numpy as jnp, jaxbound as jb
    >>> fn = lambda x: jax.nn.relu(4.0 * x)
    >>> boxes = jb.linf_ball(jnp.array([[3.0, -1.0], [0.0, -2.0]]), 0.5)
    >>> bounds = jax.vmap(lambda box: jb.intermediate_bounds(fn, box, method=jb.ibp))(boxes)
    >>> [round(float(term), 3) for term in bound_regularizers(bounds, boxes)]
    [0.5, 0.0]
    """
    if not bounds:
        raise ValueError("bounds is empty; expected the intervals of at least one activation layer")
    radius = _mean_radius(boxes)
    layers = bounds.values()
    tightness = [_lack(radius / jnp.maximum(_mean_radius(b), 1e-12), tolerance) for b in layers]
    balance = [_imbalance(b, tolerance) for b in layers]
    return BoundRegularizers(jnp.stack(tightness).mean(), jnp.stack(balance).mean())


def _mean_radius(box: jb.Interval) -> jax.Array:
    return jnp.mean(box.upper - box.lower) / 2


def _lack(ratio: jax.Array, tolerance: float) -> jax.Array:
    return jax.nn.relu(tolerance - ratio) / tolerance


def _imbalance(layer: jb.Interval, tolerance: float) -> jax.Array:
    """Returns a layer's balance term, as in `bound_regularizers`."""
    centre = (layer.lower + layer.upper) / 2
    active, inactive = layer.lower > 0, layer.upper < 0
    square = (centre - centre.mean()) ** 2

    def both(value):
        return (jnp.where(mask, value, 0) for mask in (active, inactive))

    above, below = (masked.mean() for masked in both(centre))
    more, less = (masked.sum() for masked in both(square))
    counts = inactive.any() & (jnp.maximum(more, less) > 0)
    return jnp.where(
        counts, _lack(_ratio(above, -below), tolerance) + _lack(_ratio(more, less), tolerance), 0
    )


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the smaller of two values over the larger one, for values of at least 0; 0 where both are."""
    larger = jnp.maximum(a, b)
    return jnp.minimum(a, b) / jnp.where(larger > 0, larger, 1)


def kernel_l1(params: Any) -> jax.Array:
    """Returns the sum of the absolute weights of all dense and convolutional kernels, a scalar.

    Args:
      params: a tree of parameters in which kernels, and nothing else, are called "kernel" (as Flax
        does), at any depth.

    Raises:
      ValueError: no parameter is called so.

    >>> import jax.numpy as jnp
    >>> layer = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0, 5.0])}
    >>> float(kernel_l1({"Dense_0": layer, "Norm": {"scale": jnp.ones(2)}}))
    3.0
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    kernels = [
        leaf for name, (_, leaf) in zip(names, leaves, strict=True) if "kernel" in name.split("/")
    ]
    if not kernels:
        raise ValueError(f'no parameter is called "kernel"; there are {", ".join(names) or "none"}')
    return optax.tree.norm(kernels, ord=1)
