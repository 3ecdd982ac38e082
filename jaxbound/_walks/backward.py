"""Walks backward: takes rows of coefficients from a value back to the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.numerics import weigh
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands, linear_rules
from jaxbound._rules.relaxations import Relaxation
from jaxbound._rules.relaxing import Lines
from jaxbound._walks import losses

Rows = dict[Var, Any]  # coefficients ``[K, *v.shape]`` by variable v


# Takes an equation whose outputs the rows have reached, all rows and their offset, and returns the rows and the offset
# that go on from there: below them wherever the caller's constraints hold.
Step = Callable[[Equation, Rows, Any], tuple[Rows, Any]]


def unchanged(eqn: Equation, rows: Rows, offset) -> tuple[Rows, Any]:
    return rows, offset


def walk_back(
    graph: Graph,
    rows: Rows,
    offset,
    env: Mapping[Var, Any],
    lines: Lines | None,
    step: Step = unchanged,
    lost: list[Any] | None = None,
) -> tuple[Rows, Any]:
    """Bounds ``sum_v rows[v] . v + offset`` from below in terms of earlier values.

    Args:
      graph: the equations.
      rows: ``[K, *v.shape]`` for every v at which they start.
      offset: ``[K]``.
      env: the values of known variables.
      lines: the relaxations of non-linear equations; None: the rows stay at their outputs.
      step: called before every equation; may look at the rows, or add to rows and offset what is at most 0.
      lost: what rounding may have added to the value of the start is appended, ``[K]`` each; None: it is not asked.
        Then ``env`` has to hold the intervals of all values.

    Returns:
      ``ends, offset [K]`` with ``sum_v ends[v] . v + offset`` at most the value of the start; the keys
      of ``ends`` are inputs (and, without ``lines``, outputs of non-linear equations).
    """
    rows, ends = dict(rows), {}
    for eqn in reversed(graph.equations):
        rows, offset = step(eqn, rows, offset)
        hit = {out: rows.pop(out) for out in eqn.outputs if out in rows}
        if not hit:
            continue
        linear = linear_operands(eqn)
        if linear is None and lines is None:
            ends |= hit
            continue
        # Casts rows to the dtype of their value: sums and offsets have the widest dtype on the way.
        outs = [
            jnp.asarray(hit.get(v, jnp.zeros((len(offset), *v.shape), v.dtype)), v.dtype)
            for v in eqn.outputs
        ]
        if linear is not None:
            added, found = _through_linear(eqn, linear, outs, env, lost)
        else:
            assert lines is not None
            added, found = _through_relaxation(eqn, lines[eqn.outputs[0]], outs, env, lost)
        offset = offset + added
        if lost is not None:
            lost.append(losses.of_sum(offset))
        for v, row in found:
            if lost is not None and v in rows:
                lost.append(losses.of_fan_in(rows[v] + row, env[v]))
            rows[v] = rows[v] + row if v in rows else row
    return ends | rows, offset


def _through_linear(eqn: Equation, linear: Sequence[int], outs, env, lost: list[Any] | None):
    """Takes rows back through an affine equation; known operands among the affine ones make the bias.

    Returns:
      What to add to the offset, and pairs of an uncertain operand and its rows.
    """
    moving = eqn.moving
    if lost is not None:
        lost += losses.through_affine(eqn, linear, outs, env)
    operands = [None if i in moving else read(env, a) for i, a in enumerate(eqn.inputs)]
    transpose = linear_rules[eqn.primitive].transpose
    if transpose is not None and list(moving) == [0]:
        row = transpose(outs[0], moving[0].shape, operands[1], **eqn.params)
        if row is not None:
            return 0, [(moving[0], row)]

    def fn(*xs):
        full = list(operands)
        for i, x in zip(moving, xs, strict=True):
            full[i] = x
        return eqn.bind(*full)

    biases, found = pull_back(fn, [(v.shape, v.dtype) for v in moving.values()], outs)
    offset = sum(map(_dot, outs, biases)) if set(linear) - set(moving) else 0
    pairs = list(zip(moving.values(), found, strict=True))
    return offset, pairs if lost is None else losses.shielded(eqn, pairs)


def _through_relaxation(eqn: Equation, relaxation: Relaxation, outs, env, lost: list[Any] | None):
    """Takes rows back through a relaxation, as ``c f >= max(c, 0) lower + min(c, 0) upper``.

    Returns:
      What to add to the offset, and pairs of an uncertain operand and its rows.
    """
    if lost is not None:
        lost += losses.through_lines(eqn, relaxation, outs, env)
    moving = [v for v in eqn.moving.values() if v.is_float]
    shapes = [(v.shape, v.dtype) for v in moving]
    (lows, below), (highs, above) = (
        pull_back(_as_list(fn), shapes, [part(out, 0) for out in outs])
        for fn, part in ((relaxation.lower, jnp.maximum), (relaxation.upper, jnp.minimum))
    )
    offset = sum(
        weigh(out.reshape(out.shape[0], -1), low.reshape(-1), high.reshape(-1))
        for out, low, high in zip(outs, lows, highs, strict=True)
    )
    return offset, [
        (v, lower + upper) for v, lower, upper in zip(moving, below, above, strict=True)
    ]


def _as_list(fn):
    def call(*xs):
        out = fn(*xs)
        return out if isinstance(out, list) else [out]

    return call


def _dot(rows, bias):
    """Adds up ``rows bias``; an infinite or NaN bias adds nothing where a row is 0, and has no gradient."""
    bias = bias.ravel()
    return weigh(rows.reshape(rows.shape[0], -1), bias, bias)


def unit_rows(
    graph: Graph, var: Var, indices, env: Mapping[Var, Any], lost: list[Any] | None = None
) -> tuple[Var, Any, Any]:
    """Returns an earlier v and rows: ``rows . v + offset`` are the elements of ``var`` at flat indices ``[C]``.

    Goes back through equations that leave elements in place; the rows of a product are entries picked
    from its weights, which saves a multiplication by unit vectors. With ``lost``, as in `walk_back`, through those
    that leave rows exact.

    Returns:
      v, the rows ``[C, *v.shape]`` and the offset ``[C]``.
    """
    eqn = next((eqn for eqn in graph.equations if var in eqn.outputs), None)
    if var.size and eqn and linear_operands(eqn) is not None and len(eqn.moving) == 1:
        (source,) = eqn.moving.values()
        operands = [None if a is source else read(env, a) for a in eqn.inputs]
        rule = linear_rules[eqn.primitive]
        exact = lost is None or not interval_rules[eqn.primitive].error.backward(
            [read(env, a) for a in eqn.inputs], var, eqn.params
        )
        if rule.keeps != "nothing" and source.size == var.size and exact:
            fn = lambda x: eqn.bind(*(x if a is None else a for a in operands))[0]
            # fn is affine and works in place: ``scale x + bias`` per element, bias = fn(0), scale = fn'.
            ones = jnp.ones(source.shape, source.dtype)
            ends = jax.jvp(fn, [jnp.zeros_like(ones)], [ones])
            bias, scale = (jnp.take(x, indices, mode="clip") for x in ends)
            start, rows, offset = unit_rows(graph, source, indices, env, lost)
            offset = scale * offset + bias
            if lost is not None:
                lost.append(losses.of_sum(offset))
            return start, jax.vmap(jnp.multiply)(scale, rows), offset
        rows = rule.pick and rule.pick(indices, source.shape, *operands, **eqn.params)
        if rows is not None and (lost is None or rows.dtype == source.dtype):
            return source, rows.astype(source.dtype), jnp.zeros(len(indices), var.dtype)
    rows = jax.nn.one_hot(indices, var.size, dtype=var.dtype)
    return var, rows.reshape(len(indices), *var.shape), jnp.zeros(len(indices), var.dtype)


def pull_back(
    fn: Callable[..., Any], shapes: Sequence[tuple[tuple[int, ...], Any]], rows: Sequence[Any]
):
    """Pulls rows back through an affine function: ``rows . fn(x) == rows . bias + sum_i (result_i . x_i)``.

    Args:
      fn: affine in every argument; returns a list of arrays.
      shapes: (shape, dtype) of its arguments.
      rows: one ``[K, *output_shape]`` per output.

    Returns:
      The biases (values at zero) and one ``[K, *shape]`` per argument.
    """
    bias, vjp = jax.vjp(fn, *(jnp.zeros(shape, dtype) for shape, dtype in shapes))
    return bias, jax.vmap(lambda *row: vjp(list(row)))(*rows)
