"""Defines the specification of certified classification: margins of the label over every other class."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import concrete


def margins(logits, label):
    """Returns the differences ``logits[label] - logits[j]`` for ``j != label``, by increasing j.

    Compose them into the function that is bounded: a classification is certified where all lower
    bounds of its margins are positive.

    Args:
      logits: ``[K]``, of one example (a batch is `jax.vmap`).
      label: integer scalar in ``[0, K)``, may be traced.

    Returns:
      ``[K - 1]``.

    Raises:
      ValueError: ``logits`` is not a vector of at least two classes, or ``label`` is no class.
      TypeError: ``label`` is not an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.margins(jnp.array([1.0, 5.0, 2.0]), 1).tolist()
      [4.0, 3.0]
    """
    logits, label = jnp.asarray(logits), jnp.asarray(label)
    if logits.ndim != 1 or logits.shape[0] < 2:
        raise ValueError(
            f"logits has shape {logits.shape}; expected [K], one example (a batch is jax.vmap), K >= 2"
        )
    if label.shape != () or not jnp.issubdtype(label.dtype, jnp.integer):
        raise TypeError(
            f"label has shape {label.shape} and dtype {label.dtype}; expected an integer scalar"
        )
    value = concrete(label)
    if value is not None and not 0 <= value < logits.shape[0]:
        raise ValueError(f"label is {value}; expected a class in [0, {logits.shape[0]})")
    others = jnp.where(jnp.arange(logits.shape[0] - 1) < label, logits[:-1], logits[1:])
    return lax.dynamic_index_in_dim(logits, label, keepdims=True) - others


def verified(margins):
    """Tells whether all margins are certified: ``all(lower > 0)`` along the last axis.

    Args:
      margins: `Interval` of margins, or their lower bounds, ``[*batch, K - 1]``.

    Returns:
      Boolean ``[*batch]``. A lower bound of 0 is not verified.

    Raises:
      ValueError: a bound is NaN (seen outside `jax.jit`; inside, a NaN is not verified).

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.verified(jnp.array([[0.1, 2.0], [0.0, 1.0]])).tolist()
      [True, False]
    """
    lower = margins.lower if isinstance(margins, Interval) else jnp.asarray(margins)
    value = concrete(lower)
    if value is not None and np.isnan(value).any():
        raise ValueError(
            f"margins contains {int(np.isnan(value).sum())} NaN; a bound was computed wrongly"
        )
    return jnp.all(lower > 0, axis=-1)
