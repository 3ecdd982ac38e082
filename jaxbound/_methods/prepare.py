"""Prepares one call of a method: traces, checks, and walks forward until every operand is bounded."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, check_ends, intersect
from jaxbound._bounds.numerics import concrete
from jaxbound._bounds.regions import arrays_of, is_region
from jaxbound._methods.recipes import Recipe
from jaxbound._program.graph import Graph, Var, read
from jaxbound._program.trace import trace
from jaxbound._rules.errors import check_supported
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import KINDS, check_kind
from jaxbound._walks.chunks import examples
from jaxbound._walks.exactness import LOOSE, exactness
from jaxbound._walks.intervals import interval_walk, relaxed_operands
from jaxbound._walks.rows import Walk


def prepare(
    recipe: Recipe,
    fn,
    args,
    relaxation="adaptive",
    intermediates=None,
    chunk_size=None,
    capacity=None,
    early=False,
    published=False,
    search=None,
    before: Callable[[Walk, Var], None] = lambda walk, var: None,
) -> Walk:
    """Traces, checks and walks forward: afterwards every operand of a non-linear equation is bounded.

    ``before`` is called with every operand that the method is about to bound.
    """
    _check_chunk_size(chunk_size)
    leaves = leaves_of(args)
    graph = trace(fn, *args)
    check_supported(graph)
    regions = {var: leaf for var, leaf in zip(graph.inputs, leaves, strict=True) if is_region(leaf)}
    env = {var: x.box if is_region(x) else x for var, x in zip(graph.inputs, leaves, strict=True)}
    lines, limits = _lines(graph, relaxation), _capacities(graph, capacity)
    options = (chunk_size, examples(leaves), limits, early, published, search)
    walk = Walk(graph, regions, env, *lines, *options)
    given = intervals_of(graph, intermediates)
    levels = exactness(graph, regions, restart=False)

    def refine(var: Var) -> Interval:
        if levels[var] == LOOSE:
            before(walk, var)
        found = recipe.operand(walk, var) if levels[var] == LOOSE else env[var]
        return intersect(found, given[var]) if var in given else found

    interval_walk(graph, env, refine)
    return walk


def leaves_of(args) -> list[Any]:
    """Returns the arguments' leaves without options; raises if there is no region among them."""
    leaves, _ = arrays_of(args)
    if not any(map(is_region, leaves)):
        raise ValueError(
            "no argument is uncertain; expected an input set, such as jb.linf_ball(x, eps)"
        )
    return leaves


def _check_chunk_size(chunk_size) -> None:
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size > 0):
        raise ValueError(f"chunk_size is {chunk_size!r}; expected a positive integer or None")


def names_of(graph: Graph) -> dict[str, Var]:
    """Gives names to the operands of non-linear equations: the Flax layer (or line) that made them, and a counter."""
    producer = {out: eqn for eqn in graph.equations for out in eqn.outputs}
    names: dict[str, Var] = {}
    for var in relaxed_operands(graph):
        place = producer[var].layer or producer[var].line if var in producer else "input"
        count = sum(name.rpartition(":")[0] == place for name in names)
        names[f"{place}:{count}"] = var
    return names


def lines_of(graph: Graph) -> dict[str, Var]:
    """Gives names to the values of non-linear equations: that of the first operand, and a counter if it has more."""
    names = {var: name for name, var in names_of(graph).items()}
    found: dict[str, Var] = {}
    counts: Counter[str] = Counter()
    for eqn in graph.equations:
        operands = [names[v] for v in eqn.moving.values() if v in names]
        if operands and linear_operands(eqn) is None:
            name = operands[0]
            found[f"{name}#{counts[name]}" if counts[name] else name] = eqn.outputs[0]
            counts[name] += 1
    return found


def _lines(graph: Graph, relaxation) -> tuple[str, dict[Var, dict[str, Any]]]:
    """Returns the kind of lines, and the alphas of those free lines that do not follow it."""
    if not isinstance(relaxation, dict):
        check_kind(relaxation)
        return relaxation, {}
    names, alphas = lines_of(graph), {}
    for name, sides in relaxation.items():
        if name not in names:
            raise ValueError(
                f"relaxation has {name!r}; expected among {', '.join(map(repr, names))}"
            )
        var = names[name]
        if not isinstance(sides, dict):
            raise TypeError(
                f"relaxation[{name!r}] is {type(sides).__name__}; expected a dict of 'lower', 'upper'"
            )
        for side, alpha in sides.items():
            if side not in ("lower", "upper") or jnp.shape(alpha) != var.shape:
                raise ValueError(
                    f"relaxation[{name!r}] has {side!r} of shape {jnp.shape(alpha)}; expected "
                    f"'lower' or 'upper' of shape {var.shape}"
                )
            value = concrete(alpha)
            if value is not None and not ((value >= 0) & (value <= 1)).all():
                raise ValueError(f"relaxation[{name!r}][{side!r}] is not in [0, 1]: {value}")
        alphas[var] = {side: _clipped(jnp.asarray(a, var.dtype)) for side, a in sides.items()}
    return KINDS[0], alphas


def _clipped(alpha):
    """Clips to [0, 1]; `jnp.clip` would halve the gradient at 0 and at 1."""
    return jnp.where((alpha >= 0) & (alpha <= 1), alpha, jnp.clip(alpha, 0, 1))


def _capacities(graph: Graph, capacity) -> Callable[[Var], int | None]:
    """Returns a function for how many elements of an operand may walk back; None: all."""
    names = names_of(graph)
    limits = capacity if isinstance(capacity, dict) else dict.fromkeys(names, capacity)
    for name, limit in limits.items():
        if name not in names:
            raise ValueError(f"capacity has {name!r}; expected among {', '.join(map(repr, names))}")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise ValueError(
                f"capacity is {limit!r} for {name!r}; expected a positive integer or None"
            )
    return {names[name]: limit for name, limit in limits.items()}.get


def intervals_of(graph: Graph, intermediates: dict[str, Interval] | None) -> dict[Var, Interval]:
    """Returns the intervals that ``intermediates`` gives, by variable; raises if one is not valid."""
    names = names_of(graph)
    given = {}
    for name, interval in (intermediates or {}).items():
        if name not in names:
            raise ValueError(
                f"intermediates has {name!r}; expected among {', '.join(map(repr, names))}"
            )
        check_ends(interval, f"intermediates[{name!r}]")
        if interval.shape != names[name].shape:
            raise ValueError(
                f"intermediates[{name!r}] has shape {interval.shape}; expected {names[name].shape}"
            )
        given[names[name]] = interval
    return given


def outputs(walk: Walk, of: Callable[[Var], Any], known: Callable[[Any], Any]) -> Any:
    """Applies ``of`` to uncertain outputs and ``known`` to the others; returns the tree of the function's value."""
    found = [
        of(a) if isinstance(a, Var) and a.uncertain else known(jnp.asarray(read(walk.env, a)))
        for a in walk.graph.outputs
    ]
    return jax.tree.unflatten(walk.graph.out_tree, found)


def precision():
    """Sets the highest precision of products, unless the caller chose one by `jax.default_matmul_precision`."""
    chosen = jax.config.jax_default_matmul_precision is not None  # pyright: ignore
    return contextlib.nullcontext() if chosen else jax.default_matmul_precision("highest")
