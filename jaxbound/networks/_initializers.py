"""Draws initial weights for training with bounds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def ibp_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """Draws normal weights of deviation sqrt(2 pi) / fan_in: interval radii keep their size with depth.

    `E|w| = 2 / fan_in`, so an affine layer doubles the mean radius and a ReLU halves it.

    Args:
      key: randomness.
      shape: of the kernel, `[..., features]`; `fan_in` is the product of all others.
      dtype: of the kernel.

    Returns:
      The kernel.

    References:
      Shi et al., arXiv:2103.17268.

    >>> import jax
    >>> weights = ibp_init(jax.random.key(0), (3, 3, 64, 100))
    >>> round(float(abs(weights).mean() * 3 * 3 * 64), 2)
    2.0
    """
    return math.sqrt(2 * math.pi) / math.prod(shape[:-1]) * jax.random.normal(key, shape, dtype)


def of_sum(init: Initializer, terms: int) -> Initializer:
    """Returns `init` for a kernel that reads a sum, as if it read the terms side by side.

    The fan-in is then `terms` times as large, so that the sum counts no more than one term would:
    `ibp_init` is divided by `terms`, an initializer that keeps variances by the square root of `terms`.
    """

    def kernel(key: jax.Array, shape: Sequence[int], *args: Any, **options: Any) -> jax.Array:
        return init(key, (terms * shape[0], *shape[1:]), *args, **options)[: shape[0]]

    return kernel
