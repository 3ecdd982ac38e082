"""Defines ParamRamp in Flax (linen and nnx): the modules, and what training does to their right kinks.

A module has one right kink `r` per neuron, infinite at first: until it is set, ParamRamp is a leaky
ReLU of slope `eta`. Functions that change kinks or slopes in training find them by the names `r` and `eta`,
so that they take linen's variables and nnx's states alike.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxbound as jb

LEAST = 1e-4  # lower limit of a right kink (Lyu et al., arXiv:2104.00447)


class ParamRamp(nn.Module):
    """Represents `jaxbound.param_ramp` with a right kink per neuron; `[batch, ...] -> [batch, ...]`.

    The kinks are the parameter `r` `[...]`, infinite at first (see `set_ramps`); the slope outside of the
    kinks is the variable `eta` of the collection `ramps` (see `set_eta`).

    Attributes:
      eta: the slope at first.

    References:
      Lyu et al., arXiv:2104.00447.

    >>> import jax, jax.numpy as jnp
    >>> variables = ParamRamp(eta=0.5).init(jax.random.key(0), jnp.ones((1, 2)))
    >>> ParamRamp().apply(variables, jnp.array([[-1.0, 3.0]])).tolist()
    [[-0.5, 3.0]]
    """

    eta: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        r = self.param("r", nn.initializers.constant(jnp.inf), x.shape[1:])
        eta = self.variable("ramps", "eta", jnp.full, (), self.eta, float)
        return jb.param_ramp(x, r, eta.value)


def ramp(x: jax.Array, eta: float = 0.0) -> jax.Array:
    """Applies a new `ParamRamp` wherever a linen module calls it: the `activation` of a network.

    >>> import jax, jax.numpy as jnp
    >>> from jaxbound import networks
    >>> net = networks.ConvNet((), (8,), classes=3, activation=networks.ramp)
    >>> net.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))["params"]["ParamRamp_0"]["r"].shape
    (8,)
    """
    return ParamRamp(eta)(x)


class NNXParamRamp(nnx.Module):
    """Represents `ParamRamp` for Flax nnx: the parameter `r` and the variable `eta`.

    Args:
      shape: of one example's activations.
      eta: the slope at first.

    >>> import jax.numpy as jnp
    >>> NNXParamRamp((2,), eta=0.5)(jnp.array([[-1.0, 3.0]])).tolist()
    [[-0.5, 3.0]]
    """

    def __init__(self, shape: Sequence[int], *, eta: float = 0.0):
        self.r = nnx.Param(jnp.full(shape, jnp.inf, float))
        self.eta = nnx.Variable(jnp.full((), eta, float))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jb.param_ramp(x, self.r[...], self.eta[...])


def set_eta(variables: Any, eta: jax.typing.ArrayLike) -> Any:
    """Returns the variables with the slope `eta`, such as the value of a schedule, in every ParamRamp.

    >>> set_eta({"ramps": {"ParamRamp_0": {"eta": jnp.array(0.0)}}}, 0.5)
    {'ramps': {'ParamRamp_0': {'eta': Array(0.5, dtype=float32)}}}
    """
    return _named("eta", lambda _, old: jnp.full(old.shape, eta, old.dtype), variables)


def set_ramps(
    model: nn.Module, variables: Any, batches: Iterable[jax.Array], *, least: float = LEAST
) -> Any:
    """Sets every right kink to the mean of its neuron's activation, at least `least`.

    To be called once, on the clean training images, when training on radius 0 ends.

    Args:
      model: a linen module called as `model(images)`.
      variables: its collections, with the kinks' parameters in `params`.
      batches: clean images `[batch, ...]`.
      least: lower limit of a kink.

    Returns:
      The variables with new kinks.

    Raises:
      ValueError: `batches` is empty, or the model has no ParamRamp.

    References:
      Lyu et al., arXiv:2104.00447.
    """

    @jax.jit
    def sums(variables, images):
        ramps = lambda module, _: isinstance(module, ParamRamp)
        _, state = model.apply(
            variables, images, capture_intermediates=ramps, mutable=["intermediates"]
        )
        return jax.tree.map(lambda y: y.sum(0), state.get("intermediates", {}))

    means = _mean_of(sums, variables, batches, model)

    def mean(path, _):
        layer = means
        for entry in path[:-1]:
            layer = layer[entry.key]
        (first, *others) = layer["__call__"]
        return jnp.maximum(sum(others, first) / (1 + len(others)), least)

    return variables | {"params": _named("r", mean, variables["params"])}


def set_nnx_ramps(model: nnx.Module, batches: Iterable[jax.Array], *, least: float = LEAST) -> None:
    """Sets every right kink of a Flax nnx model in place, as `set_ramps` does for linen.

    Args:
      model: an nnx module called as `model(images)`, in the mode of evaluation.
      batches: clean images `[batch, ...]`.
      least: lower limit of a kink.

    Raises:
      ValueError: `batches` is empty, or the model has no NNXParamRamp.

    References:
      Lyu et al., arXiv:2104.00447.
    """
    ramps = {p: m for p, m in nnx.iter_modules(model) if isinstance(m, NNXParamRamp)}
    graph, state = nnx.split(model)

    @jax.jit
    def sums(state, images):
        outputs = nnx.capture(
            nnx.merge(graph, state), nnx.Intermediate, method_outputs=nnx.Intermediate
        )
        flat = nnx.to_flat_state(outputs(images)[1])
        calls = {path[:-1]: found.get_value() for path, found in flat if path[-1] == "__call__"}
        return {path: sum(y.sum(0) for y in calls[path]) / len(calls[path]) for path in ramps}

    for path, mean in _mean_of(sums, state, batches, model).items():
        ramps[path].r[...] = jnp.maximum(mean, least)


def _mean_of(sums: Callable[..., Any], variables, batches: Iterable[jax.Array], model) -> Any:
    """Returns the total of `sums(variables, images)` over all batches, divided by the number of images."""
    total, count = None, 0
    for images in batches:
        found = sums(variables, images)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        count += len(images)
    if count == 0:
        raise ValueError("batches is empty; expected the training images")
    if not total:
        raise ValueError(f"{type(model).__name__} has no ParamRamp to set")
    return jax.tree.map(lambda y: y / count, total)


def noisy_ramps(
    key: jax.Array, variables: Any, *, scale: float = 0.01, least: float = LEAST
) -> Any:
    """Returns the variables with `r + noise` for every right kink, to be used for one step and thrown away.

    The noise is normal, with `scale` times the layer's mean kink as deviation; it is a constant for
    gradients. A countermeasure to overfitting in training by IBP.

    Args:
      key: randomness; a fresh one for each step.
      variables: linen's variables or nnx's state; what is not called `r` stays.
      scale: deviation of the noise, relative to the mean of a layer's kinks.
      least: lower limit of a kink.

    References:
      Lyu et al., arXiv:2104.00447.
    """
    layers = iter(range(len(jax.tree.leaves(variables))))

    def noisy(_, r):
        layer = jax.random.fold_in(key, next(layers))
        deviation = scale * jax.lax.stop_gradient(jnp.mean(r))
        noise = deviation * jax.random.normal(layer, r.shape, r.dtype)
        return jnp.where(jnp.isinf(r), r, jnp.maximum(r + noise, least))

    return _named("r", noisy, variables)


def project_ramps(least: float = LEAST) -> optax.GradientTransformation:
    """Keeps parameters called `r` at least `least`: the last transformation of an `optax.chain`.

    Guarantee: after `optax.apply_updates`, `r == max(r + update, least)` up to rounding.

    >>> updates, params = {"r": jnp.array([-0.5, 0.5])}, {"r": jnp.array([0.25, 0.25])}
    >>> updates, _ = project_ramps(least=0.125).update(updates, optax.EmptyState(), params)
    >>> optax.apply_updates(params, updates)["r"].tolist()
    [0.125, 0.75]

    References:
      Lyu et al., arXiv:2104.00447.
    """

    def update(updates, params):
        def project(_, step, r):
            return jnp.where(r + step >= least, step, least - r)

        return _named("r", project, updates, params)

    return optax.stateless(update)


def _named(name: str, fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Applies `fn(path, leaf, ...)` to the leaves called `name`, and keeps the others as they are."""

    def at(path, leaf, *rest):
        # In a state of nnx, an attribute of the variable comes last.
        names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        return fn(path, leaf, *rest) if names[-1:] == [name] else leaf

    return jax.tree_util.tree_map_with_path(at, tree, *others)
