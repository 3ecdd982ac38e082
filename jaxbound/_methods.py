"""The published methods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxbound import _rows
from jaxbound import _strategies as s
from jaxbound._call import names_of, outputs, precision, prepare
from jaxbound._interval import Interval, cast
from jaxbound._linear import LinearBounds
from jaxbound._program import Var
from jaxbound._rows import linear_bounds_of
from jaxbound._strategies import Recipe


def _bound(method, fn, args, **options) -> Any:
    recipe = RECIPES[method]
    with precision():
        walk = prepare(recipe, fn, args, **options)

        def of(var: Var) -> Interval:
            return cast(recipe.output(walk, var), var.dtype) if var.is_float else walk.env[var]

        return outputs(walk, of, lambda value: Interval(value, value))


def ibp(fn, *args, intermediates=None, chunk_size=None):
    """Interval bound propagation: ``lower <= fn(x) <= upper`` for all x in the arguments' regions.

    The affine equations after the last non-linear one are bounded as one map, and so are those
    before the first one after an `LpBall`.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      *args: pytrees. Every `Interval` or `LpBall` leaf is uncertain, all else is known.
      intermediates: optional dict from `intermediate_bounds`; intersected with what is found.
      chunk_size: how many rows walk back at once; by default as many as suit the device (see `crown`).

    Returns:
      `Interval`s in the tree and shapes of ``fn``'s output. The guarantee is for real arithmetic on
      the traced function; rounding is not accounted for. Infinite where no finite bound exists.

    Raises:
      UnsupportedPrimitiveError: ``fn`` uses primitives without a rule.
      ValueError, TypeError: an argument is not a valid region, or no argument is uncertain.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> bounds = jb.ibp(lambda x: jax.nn.relu(x).sum(), jb.linf_ball(jnp.zeros(3), 1.0))
      >>> bounds.lower.item(), bounds.upper.item()
      (0.0, 3.0)

    References: Gowal et al., arXiv 1810.12715.
    """
    return _bound(ibp, fn, args, intermediates=intermediates, chunk_size=chunk_size)


def lbp(fn, *args, relaxation="adaptive", intermediates=None, chunk_size=None):
    """Forward linear bound propagation: ``lower <= fn(x) <= upper`` in the regions.

    Every value is kept between two affine functions of the inputs. Where the coefficients of all
    inputs do not fit, a few inputs walk up at a time, anew for every operand: less memory, more
    time. Arguments, result and errors as in `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.lbp(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Lyu et al., arXiv 2104.00447; Weng et al., arXiv 1804.09699.
    """
    return _bound(
        lbp, fn, args, relaxation=relaxation, intermediates=intermediates, chunk_size=chunk_size
    )


def crown_ibp(fn, *args, relaxation="adaptive", intermediates=None, chunk_size=None):
    """CROWN-IBP: ``lower <= fn(x) <= upper``; intervals inside, one walk back from the output.

    Arguments, result and errors as in `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.crown_ibp(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Zhang et al., arXiv 1906.06316.
    """
    return _bound(
        crown_ibp,
        fn,
        args,
        relaxation=relaxation,
        intermediates=intermediates,
        chunk_size=chunk_size,
    )


def crown_lbp(fn, *args, relaxation="adaptive", intermediates=None, chunk_size=None):
    """CROWN-LBP: ``lower <= fn(x) <= upper``; forward linear bounds inside, one walk back from the output.

    Arguments, result and errors as in `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.crown_lbp(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Lyu et al., arXiv 2104.00447.
    """
    return _bound(
        crown_lbp,
        fn,
        args,
        relaxation=relaxation,
        intermediates=intermediates,
        chunk_size=chunk_size,
    )


def crown(fn, *args, relaxation="adaptive", intermediates=None, chunk_size=None, capacity=None):
    """CROWN: ``lower <= fn(x) <= upper`` for all x in the arguments' regions; everything by walking back.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      *args: pytrees. Every `Interval` or `LpBall` leaf is uncertain, all else is known.
      relaxation: the lines of piecewise-linear activations: "adaptive" (least area, CROWN), "tight"
        (nested, never worse than intervals; Lyu et al.), "parallel" (Fast-Lin), or "constant" (for
        all activations: intervals).
      intermediates: optional dict from `intermediate_bounds`; intersected with what is found.
      chunk_size: how many rows walk back at once (at least those of one place in an image), or, in
        forward bounds, how many directions of the input walk up. By default what a CPU's cache holds,
        more on other devices, of the examples of a `jax.vmap` together: memory grows with no batch.
      capacity: how many elements of each operand of a non-linear equation walk back, of those whose
        lines are not exact yet; the others keep their intervals, which is sound if there are more.
        An integer, or one per name as `capacities` gives them; None: all elements.

    Returns:
      `Interval`s in the tree and shapes of ``fn``'s output. The guarantee is for real arithmetic on
      the traced function; rounding is not accounted for. Infinite where no finite bound exists.

    Raises:
      UnsupportedPrimitiveError: ``fn`` uses primitives without a rule.
      ValueError, TypeError: an argument or option is not valid, or no argument is uncertain.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.crown(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Zhang et al., arXiv 1811.00866.
    """
    return _bound(
        crown,
        fn,
        args,
        relaxation=relaxation,
        intermediates=intermediates,
        chunk_size=chunk_size,
        capacity=capacity,
    )


RECIPES: dict[Callable[..., Any], Recipe] = {
    ibp: Recipe(s.keep, s.interval_output, None),
    lbp: Recipe(s.forward, s.forward_output, _rows.through_linear_bounds),
    crown_ibp: Recipe(s.keep, s.backward_output, _rows.from_inputs),
    crown_lbp: Recipe(s.forward, s.backward_output, _rows.from_inputs),
    crown: Recipe(s.backward, s.backward_output, _rows.from_inputs),
}


def linear_bounds(fn, *args, method=crown, **options):
    """The linear bounds behind a method: ``<lower_coeffs, x> + lower_offset <= fn(x) <= ...``.

    Args:
      fn: as for the method.
      *args: as for the method.
      method: `lbp`, `crown_ibp`, `crown_lbp` or `crown` (or a `functools.partial` of one).
      **options: of the method.

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
    method, options = resolve(method, options)
    recipe = RECIPES[method]
    rows = recipe.rows
    if rows is None:
        raise ValueError(
            f"method={method.__name__} has no linear bounds; expected lbp, crown or the like"
        )
    with precision():
        walk = prepare(recipe, fn, args, **options)

        def constant(low, high) -> LinearBounds:
            zeros = tuple(jnp.zeros((*low.shape, *v.shape), v.dtype) for v in walk.regions)
            return LinearBounds(zeros, low, zeros, high)

        def of(var: Var) -> LinearBounds:
            if var.is_float:
                return linear_bounds_of(rows, walk, var)
            return constant(walk.env[var].lower, walk.env[var].upper)

        return outputs(walk, of, lambda value: constant(value, value))


def intermediate_bounds(fn, *args, method=crown, **options) -> dict[str, Interval]:
    """Intervals of the operands of non-linear equations: ``lower <= operand(x) <= upper``.

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
    method, options = resolve(method, options)
    with precision():
        walk = prepare(RECIPES[method], fn, args, **options)
        return {name: walk.env[var] for name, var in names_of(walk.graph).items()}


def resolve(method, options):
    while isinstance(method, functools.partial):
        options = method.keywords | options
        method = method.func
    if method not in RECIPES:
        known = ", ".join(recipe.__name__ for recipe in RECIPES)
        raise ValueError(f"method is {method!r}; expected one of the functions {known}")
    return method, options
