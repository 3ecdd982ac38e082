"""Losses of certified training, for one example; a batch is `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxbound as jb

Logits = Callable[[jax.Array], jax.Array]  # one example -> [classes]


class LossTerms(NamedTuple):
    """Both cross-entropies, the logits `[K]` and the margins' lower bounds `[K-1]`."""

    clean: jax.Array
    robust: jax.Array
    logits: jax.Array
    lower: jax.Array


def worst_case_cross_entropy(lower: jax.Array) -> jax.Array:
    """`log(1 + sum_j exp(-lower_j))`, at least the loss wherever the margins exceed `lower`.

    Args:
      lower: lower bounds on the margins `[..., K-1]`, as of `jaxbound.margins`.

    Returns:
      The loss `[...]`; 0 for margins of +inf, and inf for -inf.

    >>> import jax.numpy as jnp
    >>> float(worst_case_cross_entropy(jnp.array([0.0])))
    0.6931471824645996
    """
    zero = jnp.zeros((*lower.shape[:-1], 1), lower.dtype)  # the label's own margin
    return jax.nn.logsumexp(jnp.concatenate([zero, -lower], -1), -1)


def ibp_loss(
    fn: Logits,
    x: jax.Array,
    label: jax.Array,
    box: jb.Interval,
    *,
    kappa: jax.typing.ArrayLike = 0.5,
) -> tuple[jax.Array, LossTerms]:
    """`kappa * CE(fn(x)) + (1 - kappa) * worst-case CE` of IBP's margins over the box.

    The second term is at least the cross-entropy at every point of `box`.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      box: the inputs to be robust on.
      kappa: weight of the clean loss.

    Returns:
      The loss, and its `LossTerms`: the order that `jax.value_and_grad(..., has_aux=True)` takes.

    References:
      Gowal et al., arXiv:1810.12715.
    """
    lower = jb.ibp(lambda x: jb.margins(fn(x), label), box).lower
    return _blend(fn(x), label, lower, kappa)


def crown_ibp_loss(
    fn: Logits,
    x: jax.Array,
    label: jax.Array,
    box: jb.Interval,
    *,
    kappa: jax.typing.ArrayLike = 0.5,
    beta: jax.typing.ArrayLike = 1.0,
    relaxation: str = "adaptive",
) -> tuple[jax.Array, LossTerms]:
    """`ibp_loss` with the margins' lower bounds `beta * CROWN-IBP + (1 - beta) * IBP`.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      box: the inputs to be robust on.
      kappa: weight of the clean loss.
      beta: weight of the CROWN-IBP bound, in [0, 1]; a traced 0 still pays for its backward walk.
      relaxation: lines of the backward walk, as in `jaxbound.crown_ibp`.

    Returns:
      The loss, and its `LossTerms`.

    References:
      Zhang et al., arXiv:1906.06316.
    """

    def margins(x):
        return jb.margins(fn(x), label)

    crown = jb.crown_ibp(margins, box, relaxation=relaxation).lower
    lower = beta * crown + (1 - beta) * jb.ibp(margins, box).lower
    return _blend(fn(x), label, lower, kappa)


def _blend(logits, label, lower, kappa) -> tuple[jax.Array, LossTerms]:
    clean = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    robust = worst_case_cross_entropy(lower)
    return kappa * clean + (1 - kappa) * robust, LossTerms(clean, robust, logits, lower)
