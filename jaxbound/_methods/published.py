"""Defines the published methods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optax

from jaxbound._bounds.interval import Interval, cast
from jaxbound._methods import recipes as s
from jaxbound._methods.prepare import outputs, precision, prepare
from jaxbound._methods.recipes import Recipe
from jaxbound._program.graph import Var
from jaxbound._walks import rows
from jaxbound._walks.alphas import Search

# Finds alphas in [0, 1]: Adam, its rate 0.25 falling by 3 % a step.
OPTIMIZER = optax.adam(optax.exponential_decay(0.25, 1, 0.97))


def _bound(method, fn, args, **options) -> Any:
    """Bounds ``fn`` by the recipe of a method."""
    recipe = RECIPES[method]
    with precision():
        walk = prepare(recipe, fn, args, **options)

        def of(var: Var) -> Interval:
            return cast(recipe.output(walk, var), var.dtype) if var.is_float else walk.env[var]

        return outputs(walk, of, lambda value: Interval(value, value))


def ibp(fn, *args, intermediates=None, chunk_size=None):
    """Bounds by intervals (IBP): ``lower <= fn(x) <= upper`` for all x in the arguments' regions.

    The affine equations after the last non-linear one are bounded as one map, and so are those
    from an `LpBall` to the first non-linear one.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      *args: pytrees. Every `Interval` or `LpBall` leaf is uncertain, all else is known.
      intermediates: optional dict from `intermediate_bounds`; intersected with what is found.
      chunk_size: how many rows go backward at once; by default as many as suit the device (see `crown`).

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
    return _bound(
        lbp, fn, args, relaxation=relaxation, intermediates=intermediates, chunk_size=chunk_size,
        published=published,
    )  # fmt: skip


def crown_ibp(
    fn,
    *args,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    early=False,
    published=False,
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
    return _bound(
        crown_ibp, fn, args, relaxation=relaxation, intermediates=intermediates, chunk_size=chunk_size,
        early=early, published=published,
    )  # fmt: skip


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
    return _bound(
        crown_lbp, fn, args, relaxation=relaxation, intermediates=intermediates, chunk_size=chunk_size,
        early=early, published=published,
    )  # fmt: skip


def crown(
    fn,
    *args,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    capacity=None,
    early=False,
    published=False,
):
    """Bounds by CROWN: ``lower <= fn(x) <= upper`` for all x in the arguments' regions; backward for every operand.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      *args: pytrees. Every `Interval` or `LpBall` leaf is uncertain, all else is known.
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
        crown, fn, args, relaxation=relaxation, intermediates=intermediates, chunk_size=chunk_size,
        capacity=capacity, early=early, published=published,
    )  # fmt: skip


def alpha_crown(
    fn,
    *args,
    steps: int = 20,
    optimizer=None,
    optimize_intermediates: bool = False,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    capacity=None,
    early=False,
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
      chunk_size: as of `crown`.
      capacity: as of `crown`.
      early: as of `crown`.

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

    References: Xu et al., arXiv 2011.13824.
    """
    options = {
        "steps": steps,
        "optimizer": optimizer,
        "optimize_intermediates": optimize_intermediates,
        "relaxation": relaxation,
        "intermediates": intermediates,
        "chunk_size": chunk_size,
        "capacity": capacity,
        "early": early,
    }
    return _bound(alpha_crown, fn, args, **_with_search(**options))


def _with_search(steps=20, optimizer=None, optimize_intermediates=False, **options):
    """Checks the options of `alpha_crown`; returns them with a `Search` in place of its own three."""
    if not (isinstance(steps, int) and steps >= 0):
        raise ValueError(f"steps is {steps!r}; expected an integer >= 0")
    optimizer = OPTIMIZER if optimizer is None else optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is {optimizer!r}; expected an optax gradient transformation, such as optax.adam(0.1)"
        )
    if isinstance(options.get("relaxation"), str) and options["relaxation"] == "constant":
        raise ValueError("relaxation is 'constant'; its lines have no alphas to optimise")
    return options | {"search": Search(steps, optimizer, optimize_intermediates)}


RECIPES: dict[Callable[..., Any], Recipe] = {
    ibp: Recipe(s.keep, s.interval_output, None),
    lbp: Recipe(s.forward, s.forward_output, rows.through_linear_bounds),
    crown_ibp: Recipe(s.keep, s.backward_output, rows.from_inputs),
    crown_lbp: Recipe(s.forward, s.backward_output, rows.from_inputs),
    crown: Recipe(s.backward, s.backward_output, rows.from_inputs),
    alpha_crown: Recipe(s.backward, s.backward_output, None),
}


def resolve(method, options):
    """Returns the function behind a `functools.partial`, and all options of `prepare`; raises if it is no method."""
    while isinstance(method, functools.partial):
        options = method.keywords | options
        method = method.func
    if method not in RECIPES:
        known = ", ".join(recipe.__name__ for recipe in RECIPES)
        raise ValueError(f"method is {method!r}; expected one of the functions {known}")
    return method, (_with_search(**options) if method is alpha_crown else options)
