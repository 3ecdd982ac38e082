"""Defines losses of certified training, for one example; a batch is `jax.vmap`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxbound as jb
from jaxbound.training._attack import Logits, pgd


class LossTerms(NamedTuple):
    """Holds both cross-entropies, the logits `[K]` and the margins' lower bounds `[K-1]`.

    `lower` is None for a loss that bounds no margins: it certifies nothing.
    """

    clean: jax.Array
    robust: jax.Array
    logits: jax.Array
    lower: jax.Array | None


def worst_case_cross_entropy(lower: jax.Array) -> jax.Array:
    """Returns `log(1 + sum_j exp(-lower_j))`, at least the loss wherever the margins exceed `lower`.

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
    """Returns `kappa * CE(fn(x)) + (1 - kappa) * worst-case CE` of IBP's margins over the box.

    The second term is at least the cross-entropy at every point of `box`.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      box: the inputs to be robust on.
      kappa: weight of the clean loss; a Python 0 drops its cost too.

    Returns:
      The loss, and its `LossTerms`: the order that `jax.value_and_grad(..., has_aux=True)` takes.

    References:
      Gowal et al., arXiv:1810.12715.
    """
    lower = jb.ibp(lambda x: jb.margins(fn(x), label), box).lower
    return _blend(fn(x), label, worst_case_cross_entropy(lower), lower, kappa)


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
    """Returns `ibp_loss` with the margins' lower bounds `beta * CROWN-IBP + (1 - beta) * IBP`.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      box: the inputs to be robust on.
      kappa: weight of the clean loss; a Python 0 drops its cost too.
      beta: weight of the CROWN-IBP bound, in [0, 1]; a traced 0 still pays for its backward walk, a
        Python 0 does not.
      relaxation: lines of the backward walk, as in `jaxbound.crown_ibp`.

    Returns:
      The loss, and its `LossTerms`.

    References:
      Zhang et al., arXiv:1906.06316.
    """

    def margins(x):
        return jb.margins(fn(x), label)

    crown = jb.crown_ibp(margins, box, relaxation=relaxation, published=True).lower
    lower = _mean(beta, crown, jb.ibp(margins, box).lower)
    return _blend(fn(x), label, worst_case_cross_entropy(lower), lower, kappa)


def fused_crown_ibp_loss(
    fn: Logits,
    x: jax.Array,
    label: jax.Array,
    box: jb.Interval,
    *,
    kappa: jax.typing.ArrayLike = 0.5,
    beta: jax.typing.ArrayLike = 1.0,
    relaxation: str = "adaptive",
) -> tuple[jax.Array, LossTerms]:
    """Returns `crown_ibp_loss` by one backward row, whatever the number of classes (loss fusion).

    Bounds the loss itself: its second term is at least the cross-entropy at every point of `box`, but
    says nothing of single margins. The margins in its `LossTerms` are IBP's.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      box: the inputs to be robust on.
      kappa: weight of the clean loss; a Python 0 drops its cost too.
      beta: weight of the bound by CROWN-IBP on `exp(cross-entropy)`, against that by IBP, in [0, 1].
      relaxation: lines of the backward walk, as in `jaxbound.crown_ibp`.

    Returns:
      The loss, and its `LossTerms`.

    References:
      Xu et al., arXiv:2002.12920.
    """

    def margins(x):
        return jb.margins(fn(x), label)

    bounds = jb.ibp(margins, box)
    lower, upper = bounds.lower, bounds.upper
    # exp(CE) = 1 + sum_j exp(-m_j), in units of exp(shift). On [lower, upper], exp(-m) is at most the chord
    # exp(-lower) - slope (m - lower), so that one row, -slope . m, remains to be bounded.
    shift = jax.lax.stop_gradient(jnp.maximum(0, -lower.min()))
    width = jnp.where(upper > lower, upper - lower, 1)
    highest = jnp.exp(-lower - shift)
    slope = highest * jnp.where(upper > lower, -jnp.expm1(-width) / width, 1)
    row = jb.crown_ibp(
        lambda x: -jnp.dot(slope, margins(x)), box, relaxation=relaxation, published=True
    ).upper
    interval = jnp.exp(-shift) + highest.sum()
    total = _mean(beta, interval + row + jnp.dot(slope, lower), interval)
    robust = jnp.log(jnp.maximum(total, jnp.finfo(total.dtype).tiny)) + shift
    return _blend(fn(x), label, robust, lower, kappa)


def single_prop_loss(
    fn: Logits,
    x: jax.Array,
    label: jax.Array,
    eps: jax.typing.ArrayLike,
    *,
    kappa: jax.typing.ArrayLike = 0.5,
    relaxation: str = "constant",
) -> tuple[jax.Array, LossTerms]:
    """Returns `kappa * CE(fn(x)) + (1 - kappa) * CE` of the logits moved by their SingleProp radii. No bound.

    The label's logit moves down, the others up. A regulariser: the cross-entropy in the ball of radius
    `eps` may exceed its second term, so `LossTerms.lower` is None. Certify with another method.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      eps: non-negative radius in the units of `x`, against which it broadcasts; not clipped.
      kappa: weight of the clean loss: `training.kappa` or `training.adaptive_kappa`.
      relaxation: the radius of an activation, as in `jaxbound.single_prop`.

    Returns:
      The loss, and its `LossTerms`.

    References:
      Boopathy et al., arXiv:2102.01208.
    """
    logits, radius = jb.single_prop(fn, x, eps, relaxation=relaxation)
    moved = logits + jnp.where(jnp.arange(len(logits)) == label, -radius, radius)
    robust = optax.softmax_cross_entropy_with_integer_labels(moved, label)
    return _blend(logits, label, robust, None, kappa)


def adversarial_loss(
    fn: Logits,
    x: jax.Array,
    label: jax.Array,
    box: jb.Interval,
    key: jax.Array,
    *,
    kappa: jax.typing.ArrayLike = 0.0,
    steps: int = 7,
) -> tuple[jax.Array, LossTerms]:
    """Returns `kappa * CE(fn(x)) + (1 - kappa) * CE` at the worst point that `pgd` finds. No bound.

    The second term is at most the largest cross-entropy over `box`: an attack proves nothing, so
    `LossTerms.lower` is None.

    Args:
      fn: one example `[...]` -> logits `[K]`.
      x: the clean example.
      label: its class, an integer scalar.
      box: the inputs to be robust on.
      key: randomness of the attack's start.
      kappa: weight of the clean loss; a Python 0 drops its cost too.
      steps: of the attack.

    Returns:
      The loss, and its `LossTerms`.

    References:
      Madry et al., arXiv:1706.06083.
    """
    found = jax.lax.stop_gradient(pgd(fn, box, label, key, steps=steps).x)
    robust = optax.softmax_cross_entropy_with_integer_labels(fn(found), label)
    return _blend(fn(x), label, robust, None, kappa)


def _blend(logits, label, robust, lower, kappa) -> tuple[jax.Array, LossTerms]:
    clean = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return _mean(kappa, clean, robust), LossTerms(clean, robust, logits, lower)


def _mean(weight, first, second):
    """Returns `weight * first + (1 - weight) * second`, without what a Python 0 multiplies.

    XLA computes `0 * x`, and all that its gradient goes through, because x may be infinite or NaN.
    """
    if isinstance(weight, int | float) and weight in (0, 1):
        return first if weight else second
    return weight * first + (1 - weight) * second
