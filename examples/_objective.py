"""The loss of a training step: which bound, with which weights, and what else is minimised."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from _presets import Preset

import jaxbound as jb
from jaxbound import networks, training

LEAST_EPS = 1e-6  # of the boxes whose bounds are regularised while eps is 0


class Phase(NamedTuple):
    """What the steps of an epoch compute, so that none pays for what is multiplied by 0."""

    loss: str
    regularized: bool


def phase_of(preset: Preset, start_eps: float, end_eps: float) -> Phase:
    """The phase of an epoch with these radii at its ends."""
    regularized = preset.regularizer > 0 and not preset.grown(start_eps)
    if end_eps == 0:
        return Phase("clean", regularized)
    settled = preset.grown(start_eps) and preset.beta == 0
    by_rows = preset.bound in ("crown_ibp", "fused")
    return Phase("ibp" if by_rows and settled else preset.bound, regularized)


def weights(preset: Preset, eps, adaptive) -> tuple[Any, Any]:
    """kappa, of the clean loss, and beta, of the CROWN-IBP bound."""
    beta = training.beta(eps, preset.eps_train, preset.beta)
    if preset.kappa is None:
        return 0.0, beta
    if preset.kappa == "adaptive":
        return adaptive, beta
    return training.kappa(eps, preset.eps_train, preset.kappa), beta


def loss_of(preset: Preset, phase: Phase, fn, x, y, eps, key, kappa, beta):
    """The loss of one example, and its terms."""
    box = jb.linf_ball(x, eps, clip=(0.0, 1.0))
    match phase.loss:
        case "clean":
            logits = fn(x)
            clean = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return clean, training.LossTerms(clean, clean, logits, None)
        case "pgd":
            steps = preset.attack_steps
            return training.adversarial_loss(fn, x, y, box, key, kappa=kappa, steps=steps)
        case "single_prop":
            lines = preset.relaxation
            return training.single_prop_loss(fn, x, y, eps, kappa=kappa, relaxation=lines)
        case "ibp":
            return training.ibp_loss(fn, x, y, box, kappa=kappa)
    by_rows = {"crown_ibp": training.crown_ibp_loss, "fused": training.fused_crown_ibp_loss}
    options = {"kappa": kappa, "beta": beta, "relaxation": preset.relaxation}
    return by_rows[phase.loss](fn, x, y, box, **options)


def make_loss(net: Any, preset: Preset) -> Callable:
    """`loss(params, variables, x, y, eps, adaptive, key, phase) -> (loss, (metrics, running))` of a batch."""

    def regularizers(variables, x, eps):
        def bounds(x):
            box = jb.linf_ball(x, jnp.maximum(eps, LEAST_EPS), clip=(0.0, 1.0))
            fn = functools.partial(net.apply, variables)
            return jb.intermediate_bounds(fn, box, method=jb.ibp), jb.ibp(net.normalise, box)

        return sum(training.bound_regularizers(*jax.vmap(bounds)(x)))

    def loss(params, variables, x, y, eps, adaptive, key, phase: Phase):
        used = params
        if preset.ramp_noise:
            used = networks.noisy_ramps(key, params, scale=preset.ramp_noise)
        clean = net.clean_pass(variables | {"params": used}, x)
        rounded = as_type(preset.dtype, clean.frozen)
        fn = lambda x: as_type("float32", net.apply(rounded, as_type(preset.dtype, x)))
        kappa, beta = weights(preset, eps, adaptive)
        each = functools.partial(loss_of, preset, phase, fn, eps=eps, kappa=kappa, beta=beta)
        losses, terms = jax.vmap(lambda x, y, key: each(x, y, key=key))(
            x, y, jax.random.split(key, len(x))
        )
        total = losses.mean()
        if phase.regularized:
            weight = training.regularizer_weight(eps, preset.eps_train, preset.regularizer)
            total += weight * regularizers(clean.frozen, x, eps)
        if preset.l1:
            total += preset.l1 * training.kernel_l1(params)
        metrics = {
            "loss": total,
            "clean_loss": terms.clean.mean(),
            "error": jnp.mean(terms.logits.argmax(-1) != y),
            "eps": eps,
        }
        if phase.loss != "clean":
            metrics["robust_loss"] = terms.robust.mean()
        if terms.lower is not None and preset.dtype == "float32":  # else rounding is no detail
            metrics["verified_error"] = jnp.mean(~(terms.lower > 0).all(-1))
        return total, (metrics, clean.running)

    return loss


def as_type(dtype: str, tree: Any) -> Any:
    """The tree with all floating-point numbers of one type."""
    floating = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if floating(x) else x, tree)
