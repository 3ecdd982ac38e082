"""Finds the largest radius at which a method certifies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.balls import lp_ball
from jaxbound._methods.margins import margins, verified
from jaxbound._methods.published import crown
from jaxbound._walks.batch import examples, inside_a_loop


def certified_radius(
    fn,
    x,
    label,
    *,
    p=jnp.inf,
    method: Callable[..., Any] = crown,
    clip=None,
    limits: tuple[float, float] = (1e-5, 10.0),
    steps: int = 15,
    rounding: str | None = None,
):
    """Returns the largest radius found certified: ``margins(fn(z), label) > 0`` where ``norm(z - x, p) <= radius``.

    Bisects the logarithm of the radius between the limits. The radius that is returned was itself
    certified by ``method``, or is 0; some radius that is larger by a factor of at most ``(limits[1] /
    limits[0]) ** (2 ** -steps)``, 1.0005 by default, was not. Still larger ones may be certified: a
    method may certify a radius and not a smaller one (which the larger one proves).

    Args:
      fn: one example ``[...]`` -> logits ``[K]``. A batch is `jax.vmap`, or `jax.lax.map` where the
        rows that a method keeps for every example do not fit side by side. Against one target class
        t, be it random, the least likely or the runner-up: ``lambda z: fn(z)[jnp.array([label, t])]``
        with the label 0.
      x: floating-point array, the centre of the balls.
      label: integer scalar, the class to certify; may be traced.
      p: the norm, a number >= 1 or ``inf``.
      method: `ibp`, `lbp`, `crown` or the like, or a `functools.partial` of one.
      clip: optional pair of limits of the input domain, as of `lp_ball`; z lies between them.
      limits: the smallest and the largest radius to try, in the units of ``x``.
      steps: bisections after the two limits.
      rounding: what the certificates hold for: of ``method`` (`crown`) and, for ``p=inf``, of `linf_ball`.

    Returns:
      Scalar radius of the dtype of ``x``: 0 where ``limits[0]`` is not certified (so where ``x`` is
      misclassified), ``limits[1]`` where that is certified.

    Raises:
      ValueError: an argument is not valid. Else as `lp_ball` and the method.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> x = jnp.array([0.75, 0.25])
      >>> round(jb.certified_radius(lambda z: z, x, 0).item(), 3)
      0.25
      >>> jb.certified_radius(lambda z: z, x, 1).item()
      0.0

    References: Boopathy et al., arXiv 1811.12395 (the search).
    """
    if not 0 < limits[0] < limits[1]:
        raise ValueError(f"limits is {limits}; expected 0 < limits[0] < limits[1]")
    if not (isinstance(steps, int) and steps >= 0):
        raise ValueError(f"steps is {steps!r}; expected an integer >= 0")
    x = jnp.asarray(x)
    least, most = (jnp.asarray(limit, x.dtype) for limit in limits)
    lp_ball(x, least, p, clip)  # raises here, where values can be seen
    if rounding is not None:
        method = functools.partial(method, rounding=rounding)
    right, beside = verified(margins(fn(x), label)), examples((x, label))

    def step(i, ends):
        best, failed = ends
        known = jnp.maximum(best, least)
        middle = jnp.clip(jnp.sqrt(known) * jnp.sqrt(failed), known, failed)
        # Tries the limits first: if the search ends at one of them, it stays there from then on.
        radius = jnp.where(i == 0, least, jnp.where(i == 1, failed, middle))
        with inside_a_loop(beside):
            found = method(lambda z: margins(fn(z), label), lp_ball(x, radius, p, clip, rounding))
        ok = right & verified(found)
        return jnp.where(ok, radius, best), jnp.where(ok, failed, radius)

    return lax.fori_loop(0, steps + 2, step, (jnp.zeros((), x.dtype), most))[0]
