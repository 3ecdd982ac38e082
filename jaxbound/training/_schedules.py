"""Defines schedules of certified training: eps over steps, and the loss weights as functions of eps."""

import jax
import jax.numpy as jnp
import optax


def linear_eps(start: int, end: int, eps_max: float, eps_min: float = 0.0) -> optax.Schedule:
    """Returns a schedule of the radius: linear from `eps_min` at step `start` to `eps_max` at step `end`.

    >>> float(linear_eps(10, 20, 0.4)(15))
    0.20000000298023224
    """
    _check_steps(start, end)
    return optax.linear_schedule(eps_min, eps_max, end - start, start)


def smoothed_eps(
    start: int,
    end: int,
    eps_max: float,
    eps_min: float = 0.0,
    *,
    mid: float = 0.25,
    power: float = 4.0,
) -> optax.Schedule:
    """Returns a schedule of the radius that grows like `t ** power` at first, then linearly, smooth at the joint.

    Args:
      start: last step at `eps_min`.
      end: first step at `eps_max`.
      eps_max: final radius.
      eps_min: first radius.
      mid: share of the steps in the power phase, rounded down to whole steps.
      power: exponent of the power phase.

    Returns:
      An optax schedule, step -> eps.

    References:
      Zhang et al., CROWN-IBP, arXiv:1906.06316.

    >>> round(float(smoothed_eps(0, 100, 1.0)(25)), 6)
    0.076923
    """
    _check_steps(start, end)
    knee = start + max(1, int(mid * (end - start)))
    # Equal slopes at the knee, knee_rise * power / (knee - start), fix the power phase's height.
    knee_rise = (eps_max - eps_min) * (knee - start) / ((end - knee) * power + (knee - start))

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        rising = jnp.clip((step - start) / (knee - start), 0.0, 1.0) ** power
        straight = jnp.clip((step - knee) / max(end - knee, 1), 0.0, 1.0)
        return eps_min + knee_rise * rising + (eps_max - eps_min - knee_rise) * straight

    return schedule


def linear_eta(start: int, end: int, eta: float = 0.01) -> optax.Schedule:
    """Returns a schedule of ParamRamp's outer slope: `eta` up to `start`, linearly to 0 at `end` (arXiv:2104.00447).

    A constant slope is `optax.constant_schedule`.

    >>> float(linear_eta(100, 200)(150))
    0.004999999888241291
    """
    _check_steps(start, end)
    falling = optax.linear_schedule(eta, 0.0, end - start, start)
    # Rounding must not make a slope negative: ParamRamp would decrease.
    return lambda step: jnp.maximum(falling(step), 0.0)


def _check_steps(start: int, end: int) -> None:
    if not 0 <= start < end:
        raise ValueError(f"a schedule needs 0 <= start < end, not start={start}, end={end}")


def kappa(eps: jax.typing.ArrayLike, eps_max: float, final: float = 0.5) -> jax.Array:
    """Returns the weight of the clean loss: 1 at `eps = 0`, `final` at `eps_max` (arXiv:1906.06316).

    >>> float(kappa(0.2, 0.4))
    0.75
    """
    return _fade(eps, eps_max, final)


def adaptive_kappa(
    clean: jax.typing.ArrayLike, robust: jax.typing.ArrayLike, gamma: float = 10.0
) -> jax.Array:
    """Returns the weight of the clean loss by both losses on held-out data: `robust / (robust + gamma * clean)`.

    Use 1 in the first epoch; afterwards, the mean losses at the current radius (arXiv:2102.01208).

    >>> float(adaptive_kappa(0.1, 3.0))
    0.75
    """
    clean, robust = jnp.asarray(clean), jnp.asarray(robust)
    total = robust + gamma * clean
    return jnp.where(total > 0, robust / jnp.where(total > 0, total, 1), 1)


def beta(eps: jax.typing.ArrayLike, eps_max: float, final: float = 0.0) -> jax.Array:
    """Returns the weight of CROWN-IBP against IBP: 1 at `eps = 0`, `final` at `eps_max` (arXiv:1906.06316).

    >>> float(beta(0.4, 0.4))
    0.0
    """
    return _fade(eps, eps_max, final)


def regularizer_weight(
    eps: jax.typing.ArrayLike, eps_max: float, initial: float = 0.5
) -> jax.Array:
    """Returns the weight of `bound_regularizers`: `initial` at `eps = 0`, 0 from `eps_max` on (arXiv:2103.17268).

    >>> float(regularizer_weight(0.1, 0.4, initial=1.0))
    0.75
    """
    return initial * jnp.maximum(_fade(eps, eps_max, 0.0), 0)


def _fade(eps: jax.typing.ArrayLike, eps_max: float, final: float) -> jax.Array:
    if not eps_max > 0:
        raise ValueError(f"eps_max must be positive, not {eps_max}")
    return 1 - (1 - final) * jnp.asarray(eps) / eps_max
