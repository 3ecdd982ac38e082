"""Bound a function with a primitive that jaxbound has no rule for: register one from outside.

    python examples/register_primitive.py

The error names the primitive; an interval rule makes every method work, a relaxation makes the
linear methods tight.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb


def energy(x):
    return (jnp.cosh(x) - x).sum()


def register_cosh() -> None:
    primitive = jax.lax.cosh_p

    @jb.register_interval_rule(primitive)
    def interval(x, **_params):
        # cosh falls left of 0 and rises right of it.
        nearest = jnp.clip(0.0, x.lower, x.upper)
        farthest = jnp.maximum(-x.lower, x.upper)
        return jb.Interval(jnp.cosh(nearest), jnp.cosh(farthest))

    @jb.register_relaxation(primitive)
    def relaxation(x, *, image, kind, **_params):
        # cosh is convex: a tangent below it, a chord above it (the tangent again where l == u).
        middle = x.center
        slope = jnp.sinh(middle)
        apart = x.upper > x.lower
        width = jnp.where(apart, x.upper - x.lower, 1.0)
        chord = jnp.where(apart, (jnp.cosh(x.upper) - jnp.cosh(x.lower)) / width, slope)
        return jb.Relaxation(
            lambda z: jnp.cosh(middle) + slope * (z - middle),
            lambda z: jnp.cosh(x.lower) + chord * (z - x.lower),
        )


def main() -> None:
    box = jb.linf_ball(jnp.array([0.2, 0.5, 1.1]), 0.3)
    try:
        jb.crown(energy, box)
    except jb.UnsupportedPrimitiveError as error:
        print(error, end="\n\n")
    register_cosh()

    samples = jax.random.uniform(jax.random.key(0), (10_000, 3), minval=box.lower, maxval=box.upper)
    values = np.asarray(jax.vmap(energy)(samples))
    print(f"{'samples':10s} [{values.min():.4f}, {values.max():.4f}]")
    for method in (jb.ibp, jb.lbp, jb.crown):
        bounds = method(energy, box)
        print(f"{method.__name__:10s} [{bounds.lower:.4f}, {bounds.upper:.4f}]")
        assert bounds.lower <= values.min() and values.max() <= bounds.upper


if __name__ == "__main__":
    main()
