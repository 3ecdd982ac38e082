"""Shows what a method finds on its way: intermediate bounds, linear bounds, alphas."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.linear import LinearBounds
from jaxbound._methods.prepare import outputs, precision, prepare
from jaxbound._methods.published import crown, resolve
from jaxbound._program.graph import Var
from jaxbound._walks.operands import lines_of, names_of
from jaxbound._walks.rows import linear_bounds_of


def linear_bounds(fn, *args, method=crown, **options):
    """Returns the linear bounds behind a method: ``<lower_coeffs, x> + lower_offset <= fn(x) <= ...``.

    Args:
      fn: as for the method.
      *args: as for the method.
      method: `lbp`, `crown_ibp`, `crown_lbp` or `crown` (or a `functools.partial` of one).
      **options: of the method (``early`` changes only the intermediate bounds).

    Returns:
      `LinearBounds` with respect to the uncertain leaves of ``args``, in the tree of ``fn``'s output.

    Raises:
      ValueError: the method has no linear bounds. Else as the method.
      MemoryError: the device cannot hold all coefficients.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> linear = jb.linear_bounds(lambda x: 3.0 * jax.nn.relu(x), box)
      >>> linear.lower_coeffs[0].tolist()
      [[3.0, 0.0], [0.0, 3.0]]
    """
    recipe, options = resolve(method, options)
    rows = recipe.rows
    if rows is None:
        raise ValueError(
            f"method={recipe.name} has no linear bounds; expected lbp, crown or the like"
        )
    with precision(options.rounding):
        context = prepare(recipe, fn, args, options)

        def constant(found: Interval) -> LinearBounds:
            zeros = tuple(jnp.zeros((*found.shape, *v.shape), v.dtype) for v in context.regions)
            return LinearBounds(zeros, found.lower, zeros, found.upper)

        def of(var: Var) -> LinearBounds:
            if var.is_float:
                return linear_bounds_of(rows, context, var)
            return constant(context.env[var])

        return outputs(context, of, constant)


def intermediate_bounds(fn, *args, method=crown, **options) -> dict[str, Interval]:
    """Returns the intervals of the operands of non-linear equations: ``lower <= operand(x) <= upper``.

    Args:
      fn: as for the method.
      *args: as for the method.
      method: any method, or a `functools.partial` of one.
      **options: of the method.

    Returns:
      Dict in graph order, keyed by the Flax layer that made the operand (else the user's line) and
      a counter. Every method takes it (or a part of it) back as ``intermediates=``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> found = jb.intermediate_bounds(jax.nn.relu, jb.linf_ball(jnp.zeros(2), 1.0))
      >>> found["input:0"].upper.tolist()
      [1.0, 1.0]
    """
    recipe, options = resolve(method, options)
    with precision(options.rounding):
        context = prepare(recipe, fn, args, options)
        return {name: context.env[var] for name, var in names_of(context.graph).items()}


def alphas(fn, *args, method=crown, **options) -> dict[str, dict[str, Any]]:
    """Returns where the free lines of a method lie: 0 at one of two extremes, 1 at the other.

    Any values in [0, 1] give sound lines: pass changed ones as ``relaxation=`` to any method but `ibp`.

    - "lower" of a relu is the slope of the line below; of leaky_relu, abs and the like, where that slope
      lies between their two; for ``minimum(x, c)`` the free line is "upper", and 0 is the slope 1.
    - Of a ParamRamp or a clip, 0 is the outer slope, below and above.
    - Of a tangent (sigmoid, exp, log), 0 is the leftmost point; of gelu, silu and mish, the least slope.
    - Of a product, 0 and 1 are McCormick's planes; of a maximum, the least and the greatest level.

    Args:
      fn: as for the method.
      *args: as for the method.
      method: `lbp`, `crown_ibp`, `crown_lbp` or `crown` (or a `functools.partial` of one). `alpha_crown`
        finds alphas for each output alone, and does not keep them.
      **options: of the method.

    Returns:
      Dict in graph order, keyed like `intermediate_bounds` (with a counter where an operand has several
      equations), of dicts by "lower" and "upper" of arrays of the shape of the equation's value.

    Raises:
      ValueError: the method has no free lines.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([0.2, -0.2]), 1.0)
      >>> found = jb.alphas(jax.nn.relu, box)
      >>> found["input:0"]["lower"].tolist()
      [1.0, 0.0]
      >>> halves = jax.tree.map(lambda alpha: 0 * alpha + 0.5, found)
      >>> fn = lambda x: jax.nn.relu(x) @ jnp.array([1.0, -1.0]) - x[0]
      >>> [round(jb.crown(fn, box, relaxation=r).lower.item(), 2) for r in ("adaptive", halves)]
      [-0.8, -1.4]
    """
    recipe, options = resolve(method, options)
    if recipe.rows is None:
        raise ValueError(
            f"method={recipe.name} has no alphas to show; expected lbp, crown or the like"
        )
    with precision(options.rounding):
        context = prepare(recipe, fn, args, options)
        named = {out: name for name, out in lines_of(context.graph).items()}
        found = {
            named[eqn.outputs[0]]: context.lines[eqn.outputs[0]].alphas
            for eqn in context.graph.equations
            if eqn.outputs[0] in named
        }
        return {name: sides for name, sides in found.items() if sides}
