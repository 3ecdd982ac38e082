"""Bound a function with a primitive that jaxbound has no rule for: register one from outside.

    python examples/register_primitive.py

The error names the primitive; an interval rule makes every method work, a relaxation makes the
linear methods tight.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxbound as jb


def energy(x):
    return (lax.bessel_i0e(x) + x / 4).sum()


def register_bessel() -> None:
    """``exp(-|x|) I0(x)`` falls with |x|, and is convex on either side of 0."""
    primitive = lax.bessel_i0e_p

    @jb.register_interval_rule(primitive)
    def interval(x, **_params):
        nearest = jnp.clip(0.0, x.lower, x.upper)
        farthest = jnp.maximum(-x.lower, x.upper)
        return jb.Interval(lax.bessel_i0e(farthest), lax.bessel_i0e(nearest))

    @jb.register_relaxation(primitive)
    def relaxation(x, *, image, choice, **_params):
        # On one side of 0, a tangent below it and a chord above it; across 0, its interval.
        one_side = (x.lower >= 0) | (x.upper <= 0)
        apart = one_side & (x.upper > x.lower)
        value, slope = jax.jvp(lax.bessel_i0e, (x.center,), (jnp.ones_like(x.center),))
        first, last = lax.bessel_i0e(x.lower), lax.bessel_i0e(x.upper)
        below = jnp.where(one_side, slope, 0)
        above = jnp.where(apart, (last - first) / jnp.where(apart, x.upper - x.lower, 1), 0)
        low = jnp.where(one_side, value - below * x.center, image.lower)
        high = jnp.where(one_side, first - above * x.lower, image.upper)
        return jb.Relaxation(lambda z: below * z + low, lambda z: above * z + high)


def main() -> None:
    box = jb.linf_ball(jnp.array([0.2, 0.5, 1.1]), 0.3)
    try:
        jb.crown(energy, box)
    except jb.UnsupportedPrimitiveError as error:
        print(error, end="\n\n")
    register_bessel()

    samples = jax.random.uniform(jax.random.key(0), (10_000, 3), minval=box.lower, maxval=box.upper)
    values = np.asarray(jax.vmap(energy)(samples))
    print(f"{'samples':10s} [{values.min():.4f}, {values.max():.4f}]")
    for method in (jb.ibp, jb.lbp, jb.crown):
        bounds = method(energy, box)
        print(f"{method.__name__:10s} [{bounds.lower:.4f}, {bounds.upper:.4f}]")
        assert bounds.lower <= values.min() and values.max() <= bounds.upper


if __name__ == "__main__":
    main()
