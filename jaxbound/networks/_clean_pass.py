"""Freezes BatchNorm in certified training: one affine map for the clean batch and for its bounds."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Variables = dict[str, Any]


class CleanPass(NamedTuple):
    """Holds what a training step needs of the clean batch; see `clean_pass`."""

    logits: jax.Array
    frozen: Variables
    running: Variables


def clean_pass(model: nn.Module, variables: Variables, images: jax.Array) -> CleanPass:
    """Runs a batch in training mode, and freezes its BatchNorm statistics for the bounds.

    With the statistics of the clean batch, BatchNorm is one affine map of each image, the same in
    the clean pass and in the bounds: `model.apply(frozen, images) == logits` up to rounding.
    Gradients flow through the statistics.

    Args:
      model: a linen module called as `model(images, train=...)`; without BatchNorm nothing changes.
      variables: its collections, `params` and perhaps `batch_stats`.
      images: the clean batch `[batch, ...]`.

    Returns:
      `logits` of the clean batch; `frozen`, the variables with the batch's own statistics, for
      bounds with `train=False`; `running`, the variables with the running averages moved on, to be
      stored.

    Raises:
      ValueError: a BatchNorm of momentum 1 never looks at the batch.

    References:
      Shi et al., arXiv:2103.17268.
    """
    if "batch_stats" not in variables:
        logits: Any = model.apply(variables, images)
        return CleanPass(logits, variables, variables)
    momenta: dict[tuple[str, ...], float] = {}

    def note_momentum(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            momenta[context.module.path] = context.module.momentum
        return call(*args, **kwargs)

    # From running averages of 0, Flax's update (momentum * 0 + (1 - momentum) * batch) holds the
    # batch's statistics.
    zeroed = variables | {"batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}
    with nn.intercept_methods(note_momentum):
        logits, moved = model.apply(zeroed, images, train=True, mutable=["batch_stats"])
    if 1.0 in momenta.values():
        raise ValueError("a BatchNorm layer has momentum 1, so its batch statistics cannot be read")

    def momentum_of(path):
        return momenta[tuple(entry.key for entry in path[:-1])]

    batch = jax.tree_util.tree_map_with_path(
        lambda path, scaled: scaled / (1 - momentum_of(path)), moved["batch_stats"]
    )
    running = jax.tree_util.tree_map_with_path(
        lambda path, old, scaled: momentum_of(path) * old + jax.lax.stop_gradient(scaled),
        variables["batch_stats"],
        moved["batch_stats"],
    )
    return CleanPass(
        logits, variables | {"batch_stats": batch}, variables | {"batch_stats": running}
    )
