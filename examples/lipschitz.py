"""A local Lipschitz constant of a network: bounds of its Jacobian over a box, beside samples.

    python examples/lipschitz.py

A derivative is a function like any other. For all x, y in the box,
``max |fn(x) - fn(y)| <= constant * max |x - y|``, where the constant is the largest sum of
``|d fn_i / d x_j|`` over j. Sampled Jacobians are a lower limit of what any method can prove.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxbound as jb

METHODS = (jb.ibp, jb.lbp, jb.crown_ibp, jb.crown)


def norm(jacobian):
    """The operator norm between largest absolute values, of ``[outputs, inputs]``."""
    return jnp.abs(jacobian).sum(-1).max(-1)


def lipschitz(method, fn, box):
    """A constant that ``fn`` has on ``box``."""
    bounds = method(jax.jacrev(fn), box)
    return norm(jnp.maximum(-bounds.lower, bounds.upper))


def main() -> None:
    model, x = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(2)]), jnp.array([0.5, -0.3, 0.8])
    variables = model.init(jax.random.key(0), x)
    fn = lambda x: model.apply(variables, x)

    @jax.jit
    def constants(box):
        shape = (10_000, *x.shape)
        points = jax.random.uniform(jax.random.key(1), shape, minval=box.lower, maxval=box.upper)
        sampled = norm(jax.vmap(jax.jacrev(fn))(points)).max()
        return [sampled, *(lipschitz(method, fn, box) for method in METHODS)]

    print(f"{'eps':6s}{'samples':>10s}" + "".join(f"{m.__name__:>10s}" for m in METHODS))
    for eps in (0.0, 0.01, 0.05, 0.2):
        lower, *found = constants(jb.linf_ball(x, eps))
        print(f"{eps:<6g}" + "".join(f"{value:10.3f}" for value in (lower, *found)))
        assert all(lower <= value + 1e-5 for value in found)


if __name__ == "__main__":
    main()
