"""Prepares one call of a method: traces, checks, and walks forward until every operand is bounded."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, check_ends, exactly, intersect
from jaxbound._bounds.numerics import concrete
from jaxbound._bounds.regions import Region, arrays_of, is_region
from jaxbound._bounds.rounding import check_rounding, moved, normal, unit
from jaxbound._methods.recipes import Recipe
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._program.trace import trace_with
from jaxbound._rules.errors import check_supported
from jaxbound._rules.relaxations import KINDS, Relaxation, check_kind
from jaxbound._rules.relaxing import Choices, relax
from jaxbound._walks.batch import examples
from jaxbound._walks.columns import Forward
from jaxbound._walks.context import Context
from jaxbound._walks.exactness import LOOSE, exactness
from jaxbound._walks.intervals import interval_walk
from jaxbound._walks.operands import lines_of, names_of


@dataclasses.dataclass(frozen=True)
class Options:
    """Holds the options that methods share; `crown` documents them."""

    relaxation: str | dict[str, dict[str, Any]] = "adaptive"
    intermediates: dict[str, Interval] | None = None
    chunk_size: int | None = None
    capacity: int | dict[str, int | None] | None = None
    early: bool = False
    published: bool = False
    constraints: dict[str, Interval] | None = None
    rounding: str | None = None


def prepare(
    recipe: Recipe,
    fn,
    args,
    options: Options,
    before: Callable[[Context, Var], None] = lambda context, var: None,
) -> Context:
    """Traces, checks and walks forward until every operand of a non-linear equation is bounded.

    ``before`` is called with every operand that the method is about to bound, and what is known then.

    Returns:
      What is known in the end.
    """
    if options.rounding is not None and not recipe.rounds:
        raise ValueError(
            f"rounding is not accounted for in {recipe.name}; expected rounding=None, or another method"
        )
    start = _before_all(fn, args, options)
    given = intervals_of(start.graph, options.intermediates)
    for var, held in start.constraints.items():
        given[var] = intersect(given[var], held) if var in given else held
    levels = exactness(start.graph, start.regions, restart=False)
    lines: dict[Var, Relaxation] = {}

    def refine(var: Var, env: Mapping[Var, Any]) -> Interval:
        found = env[var]
        if levels[var] == LOOSE:
            context = dataclasses.replace(start, env=dict(env), lines=dict(lines))
            before(context, var)
            found = recipe.operand(context, var)
        return intersect(found, given[var]) if var in given else found

    def passed(eqn: Equation, env: Mapping[Var, Any]) -> None:
        if recipe.relaxes:
            image = {out: intersect(env[out], given[out]) for out in eqn.outputs if out in given}
            lines[eqn.outputs[0]] = relax(eqn, {**env, **image} if image else env, start.choices)

    env = interval_walk(start.graph, start.env, refine, passed, options.rounding)
    return dataclasses.replace(start, env=env, lines=lines)


def _before_all(fn, args, options: Options) -> Context:
    """Returns what is known before any value is bounded: the graph, the regions, and what does not depend on them."""
    _check_chunk_size(options.chunk_size)
    check_rounding(options.rounding)
    leaves = leaves_of(args)
    graph = trace_with(fn, args, joining=options.rounding is None)
    check_supported(graph, options.rounding)
    inputs = dict(zip(graph.inputs, leaves, strict=True))
    constraints = intervals_of(graph, options.constraints, "constraints")
    regions = {
        var: _held(leaf, constraints.get(var)) for var, leaf in inputs.items() if is_region(leaf)
    }
    known = graph.known({var: leaf for var, leaf in inputs.items() if var not in regions})
    choices, side_by_side = _choices(graph, options.relaxation), examples(leaves)
    choices, box = choices._replace(rounding=options.rounding), lambda region: region.box
    if options.rounding is not None:
        _check_rounding(options, regions)
        box = _safe_box
    return Context(
        graph=graph,
        regions=regions,
        env=known | {var: box(region) for var, region in regions.items()},
        lines={},
        choices=choices,
        forward=Forward(graph, regions, known, choices, options.chunk_size, side_by_side),
        examples=side_by_side,
        chunk_size=options.chunk_size,
        capacity=_capacities(graph, options.capacity),
        early=options.early,
        published=options.published,
        constraints=constraints,
        rounding=options.rounding,
    )


def _check_rounding(options: Options, regions: Mapping[Var, Region]) -> None:
    """Raises a ValueError if rounding cannot be accounted for in the options or in a set."""
    if options.constraints:
        raise ValueError("rounding is not accounted for in constraints; expected rounding=None")
    for region in regions.values():
        if region.sizes is None:
            raise ValueError(
                f"rounding is not accounted for in a {type(region).__name__}, whose support states no `sizes`; "
                "expected rounding=None, or a set such as jb.Interval or jb.LpBall"
            )


def _safe_box(region: Region) -> Interval:
    """Returns an interval that contains the set: an `Interval` is exactly its numbers, another box was computed."""
    if isinstance(region, Interval):
        return normal(region)
    room = 4 * unit(region.dtype) * region.sizes
    return normal(moved(region.box, room, room))


def _held(region: Region, constraint: Interval | None) -> Region:
    """Returns the part of a box that meets a constraint; another set as it is."""
    return intersect(region.box, constraint) if constraint and region.independent else region


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


def _check_known(name: str, names: Mapping[str, Var], argument: str) -> None:
    if name not in names:
        raise ValueError(f"{argument} has {name!r}; expected among {', '.join(map(repr, names))}")


def _choices(graph: Graph, relaxation) -> Choices:
    """Returns which lines relaxations take: a kind, or the alphas of free lines by name."""
    if not isinstance(relaxation, dict):
        check_kind(relaxation)
        return Choices(relaxation)
    names, alphas = lines_of(graph), {}
    for name, sides in relaxation.items():
        _check_known(name, names, "relaxation")
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
    return Choices(KINDS[0], alphas)


def _clipped(alpha):
    """Clips to [0, 1]; `jnp.clip` would halve the gradient at 0 and at 1."""
    return jnp.where((alpha >= 0) & (alpha <= 1), alpha, jnp.clip(alpha, 0, 1))


def _capacities(graph: Graph, capacity) -> Callable[[Var], int | None]:
    """Returns a function for how many elements of an operand may walk back; None: all."""
    names = names_of(graph)
    limits = capacity if isinstance(capacity, dict) else dict.fromkeys(names, capacity)
    for name, limit in limits.items():
        _check_known(name, names, "capacity")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise ValueError(
                f"capacity is {limit!r} for {name!r}; expected a positive integer or None"
            )
    return {names[name]: limit for name, limit in limits.items()}.get


def intervals_of(
    graph: Graph, intervals: dict[str, Interval] | None, argument: str = "intermediates"
) -> dict[Var, Interval]:
    """Returns the intervals that an argument gives by name, by variable; raises if one is not valid."""
    names = names_of(graph)
    given = {}
    for name, interval in (intervals or {}).items():
        _check_known(name, names, argument)
        check_ends(interval, f"{argument}[{name!r}]")
        if interval.shape != names[name].shape:
            raise ValueError(
                f"{argument}[{name!r}] has shape {interval.shape}; expected {names[name].shape}"
            )
        given[names[name]] = interval
    return given


def attained(context: Context) -> Mapping[Var, Any] | None:
    """Returns the values of all variables at a point of the regions; None if no point is known."""
    points = {var: region.point for var, region in context.regions.items()}
    if any(point is None for point in points.values()):
        return None
    values = {**context.env, **points}
    for eqn in context.graph.equations:
        if eqn.moving:
            values.update(eqn.evaluate(values))
    return values


def outputs(context: Context, of: Callable[[Var], Any], known: Callable[[Interval], Any]) -> Any:
    """Returns the tree of the function's value with ``of`` uncertain outputs, ``known`` of the intervals of others."""
    found = [
        of(a) if isinstance(a, Var) and a.uncertain else known(exactly(read(context.env, a)))
        for a in context.graph.outputs
    ]
    return jax.tree.unflatten(context.graph.out_tree, found)


def precision(rounding: str | None = None):
    """Sets the highest precision of products, unless the caller chose one by `jax.default_matmul_precision`.

    Under ``rounding``, always: errors are those of the number type.
    """
    chosen = jax.config.jax_default_matmul_precision is not None and rounding is None  # pyright: ignore
    return contextlib.nullcontext() if chosen else jax.default_matmul_precision("highest")
