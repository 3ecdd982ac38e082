"""Defines the published methods."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from jaxbound._bounds.interval import Interval, around, cast, ordered
from jaxbound._bounds.rounding import contained
from jaxbound._methods.prepare import Options, attained, outputs, precision, prepare
from jaxbound._methods.recipes import CROWN, CROWN_IBP, CROWN_LBP, IBP, LBP, Recipe, optimising
from jaxbound._program.graph import Var


def _bound(recipe: Recipe, fn, args, options: Options) -> Any:
    """Bounds ``fn`` by the recipe of a method."""
    with precision(options.rounding):
        context = prepare(recipe, fn, args, options)
        # Ends are put in order by a value between them, so that neither looks at the other. Intervals know both ends;
        # a value that is attained may lie off given intervals, or where constraints do not hold.
        apart = recipe.relaxes and not options.intermediates and not options.constraints
        values = attained(context) if apart else None

        def of(var: Var) -> Interval:
            if not var.is_float:
                return context.env[var]
            turn = cast if options.rounding is None else contained
            found = turn(recipe.output(context, var), var.dtype)
            return ordered(found) if values is None else around(found, values[var])

        return outputs(context, of, lambda known: known)


def ibp(fn, *args, intermediates=None, chunk_size=None, rounding=None):
    """Bounds by intervals (IBP): ``lower <= fn(x) <= upper`` for all x in the arguments' regions.

    The affine equations after the last non-linear one are bounded as one map, and so are those
    from a set whose elements depend on each other (an `LpBall`) to the first non-linear one.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      *args: pytrees. Every `Region` leaf is uncertain, all else is known.
      intermediates: optional dict from `intermediate_bounds`; intersected with what is found.
      chunk_size: how many rows go backward at once; by default as many as suit the device (see `crown`).
      rounding: as of `crown`.

    Returns:
      `Interval`s in the tree and shapes of ``fn``'s output. The guarantee is for real arithmetic on
      the traced function, up to rounding unless ``rounding`` says more. Infinite where no finite bound exists.

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
    options = Options(intermediates=intermediates, chunk_size=chunk_size, rounding=rounding)
    return _bound(IBP, fn, args, options)


def lbp(fn, *args, relaxation="adaptive", intermediates=None, chunk_size=None, published=False):
    """Bounds by forward linear bounds (LBP): ``lower <= fn(x) <= upper`` in the regions.

    Every value is kept between two affine functions of the inputs. Where the coefficients of all
    inputs do not fit, a few inputs go forward at a time, anew for every operand: less memory, more
    time. Arguments, result and errors as in `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.lbp(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Lyu et al., arXiv 2104.00447; Weng et al., arXiv 1804.09699.
    """
    options = Options(relaxation, intermediates, chunk_size, published=published)
    return _bound(LBP, fn, args, options)


def crown_ibp(
    fn,
    *args,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    early=False,
    published=False,
    rounding=None,
):
    """Bounds by CROWN-IBP: ``lower <= fn(x) <= upper``; intervals inside, backward from the output alone.

    Arguments, result and errors as in `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.crown_ibp(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Zhang et al., arXiv 1906.06316.
    """
    options = Options(
        relaxation, intermediates, chunk_size, None, early, published, rounding=rounding
    )
    return _bound(CROWN_IBP, fn, args, options)


def crown_lbp(
    fn,
    *args,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    early=False,
    published=False,
):
    """Bounds by CROWN-LBP: ``lower <= fn(x) <= upper``; forward linear bounds inside, backward from the output.

    Arguments, result and errors as in `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.crown_lbp(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Lyu et al., arXiv 2104.00447.
    """
    options = Options(relaxation, intermediates, chunk_size, None, early, published)
    return _bound(CROWN_LBP, fn, args, options)


def crown(
    fn,
    *args,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    capacity=None,
    early=False,
    published=False,
    rounding=None,
):
    """Bounds by CROWN: ``lower <= fn(x) <= upper`` for all x in the arguments' regions; backward for every operand.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      *args: pytrees. Every `Region` leaf is uncertain, all else is known.
      relaxation: the lines of piecewise-linear activations and maxima: "adaptive" (least area, CROWN),
        "tight" (nested, never worse than intervals; Lyu et al.), "parallel" (Fast-Lin, CNN-Cert), or
        "constant" (for all activations: intervals). Or where free lines lie, in the form of `alphas`.
      intermediates: optional dict from `intermediate_bounds`; intersected with what is found.
      chunk_size: how many rows go backward at once (at least those of one place in an image), or, in
        forward bounds, how many elements of the input go forward. By default what a CPU's cache holds, more
        on other devices, for all examples of a `jax.vmap` together: memory does not grow with the batch.
      capacity: how many elements of each operand of a non-linear equation go backward, of those whose
        lines are not exact yet. If there are more, the others keep their intervals, which is sound.
        An integer, or one per name as `capacities` gives them; None: all elements.
      early: also bounds every row where it meets the known intervals of a layer, before and after its
        non-linear function, and keeps the best (DeepPoly): with the same intermediate bounds never looser.
      published: keeps to the published method: what is found replaces the interval that is known otherwise.
        By default they are intersected, so that no element is looser than by `ibp`. Training losses set it.
      rounding: None: the bounds hold up to rounding. "real": they hold for ``fn`` in exact real arithmetic on the
        stored numbers (regions, parameters, and what is computed of these alone), whatever the device rounded, added
        in another order, fused or flushed to 0 while it computed them. Elementwise functions are trusted to be as
        exact as is claimed of them (`benchmarks/rounding.py`); lines of which nothing is stated become constants.

    Returns:
      `Interval`s in the tree and shapes of ``fn``'s output. The guarantee is for real arithmetic on
      the traced function, up to rounding unless ``rounding`` says more. Infinite where no finite bound exists.

    Raises:
      UnsupportedPrimitiveError: ``fn`` uses primitives without a rule, or without a stated error under ``rounding``.
      ValueError, TypeError: an argument or option is not valid, or no argument is uncertain.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, 2.0]), 0.5)
      >>> jb.crown(lambda x: jax.nn.relu(x[0]) - 2.0 * x[0], box).upper.item()
      -0.5

    References: Zhang et al., arXiv 1811.00866.
    """
    options = Options(
        relaxation, intermediates, chunk_size, capacity, early, published, rounding=rounding
    )
    return _bound(CROWN, fn, args, options)


def alpha_crown(
    fn,
    *args,
    steps: int = 20,
    optimizer=None,
    optimize_intermediates: bool = False,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    constraints=None,
    capacity=None,
    early=False,
    rounding=None,
):
    """Bounds by alpha-CROWN: ``lower <= fn(x) <= upper``, as `crown` but by lines optimised for every output.

    Every free line (below an unstable relu, a tangent's point, the planes of a product) lies at an alpha
    in [0, 1]. Each element of the output has its own alphas for its lower and its upper end; the best
    bound of all steps is kept, so it is never looser than its start, the better of "adaptive" and
    "tight" lines. The intermediate bounds intersect those by the same two kinds of lines and intervals.

    Compiling takes about twice as long as `crown`, and every row that is optimised holds five copies of
    its own alphas.

    Args:
      fn: as of `crown`.
      *args: as of `crown`.
      steps: gradient steps; one costs about three backward walks.
      optimizer: an optax gradient transformation; None: Adam, its rate 0.25 falling by 3 % a step.
      optimize_intermediates: whether every intermediate bound is optimised too, row by row: a step then
        costs about three times `crown`.
      relaxation: one more kind of lines to start from.
      intermediates: as of `crown`.
      constraints: optional dict, keyed as ``intermediates``, of intervals with infinite ends where there is no
        constraint. The bounds hold for those x at which the operands lie in them (a sub-domain of a branch and
        bound); every finite end has a multiplier (beta) for each output, optimised with the alphas.
      chunk_size: as of `crown`.
      capacity: as of `crown`.
      early: as of `crown`.
      rounding: as of `crown`; not with constraints.

    Returns:
      `Interval`s, as `crown`. For `jax.grad`, the alphas found are constants.

    Raises:
      ValueError: ``steps`` is negative, or ``relaxation`` is "constant". Else as `crown`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([1.0, -1.0]), 2.0)
      >>> fn = lambda x: jax.nn.relu(x[0] + x[1]) + jax.nn.relu(x[0] - x[1]) - x.sum()
      >>> round(jb.crown(fn, box).lower.item(), 2), round(jb.alpha_crown(fn, box).lower.item(), 2)
      (-2.0, 0.0)

    References: Xu et al., arXiv 2011.13824; Wang et al., arXiv 2103.06624 (constraints).
    """
    recipe = optimising(steps, optimizer, optimize_intermediates)
    options = Options(
        relaxation,
        intermediates,
        chunk_size,
        capacity,
        early,
        constraints=constraints,
        rounding=rounding,
    )
    return _bound(recipe, fn, args, options)


# The recipe of each method; a function of those options that the others do not have.
RECIPES: dict[Callable[..., Any], Callable[..., Recipe]] = {
    ibp: lambda: IBP,
    lbp: lambda: LBP,
    crown_ibp: lambda: CROWN_IBP,
    crown_lbp: lambda: CROWN_LBP,
    crown: lambda: CROWN,
    alpha_crown: optimising,
}


def resolve(method, options: dict[str, Any]) -> tuple[Recipe, Options]:
    """Returns the recipe and the options of a method, or of a `functools.partial` of one; raises if it is none."""
    while isinstance(method, functools.partial):
        options = method.keywords | options
        method = method.func
    if method not in RECIPES:
        known = ", ".join(recipe.__name__ for recipe in RECIPES)
        raise ValueError(f"method is {method!r}; expected one of the functions {known}")
    shared = {field.name for field in dataclasses.fields(Options)}
    own = {name: value for name, value in options.items() if name not in shared}
    if unknown := own.keys() - inspect.signature(RECIPES[method]).parameters:
        raise TypeError(f"{method.__name__} has no option {', '.join(map(repr, sorted(unknown)))}")
    return RECIPES[method](**own), Options(**{k: v for k, v in options.items() if k in shared})
