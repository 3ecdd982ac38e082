"""Walks backward: takes rows of coefficients from a value back to the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.linear import weigh
from jaxbound._program.graph import Equation, Graph, Var, read
from jaxbound._rules.linear_rules import linear_operands, linear_rules, pull_back
from jaxbound._rules.relaxations import Relaxation

Rows = dict[Var, Any]  # coefficients ``[K, *v.shape]`` by variable v


def walk_back(
    graph: Graph,
    rows: Rows,
    offset,
    env: dict[Var, Any],
    relax: Callable[[Equation], Relaxation] | None,
    visit: Callable[[Rows, Any], None] = lambda rows, offset: None,
) -> tuple[Rows, Any]:
    """Bounds ``sum_v rows[v] . v + offset`` from below in terms of earlier values.

    Args:
      graph: the equations.
      rows: ``[K, *v.shape]`` for every v at which they start.
      offset: ``[K]``.
      env: the values of known variables.
      relax: gives the relaxation of a non-linear equation; None: the rows stay at its outputs.
      visit: called with the rows and the offset before and after every relaxation: they are a lower
        bound there as well.

    Returns:
      ``ends, offset [K]`` with ``sum_v ends[v] . v + offset`` at most the value of the start; the keys
      of ``ends`` are inputs (and, without ``relax``, outputs of non-linear equations).
    """
    live, ends = dict(rows), {}
    count = len(offset)
    for eqn in reversed(graph.equations):
        hit = {out: live.pop(out) for out in eqn.outputs if out in live}
        if not hit:
            continue
        linear = linear_operands(eqn)
        if linear is None and relax is not None:
            visit(ends | live | hit, offset)
        # Casts rows to the dtype of their value: sums and offsets have the widest dtype on the way.
        outs = [
            jnp.asarray(hit.get(v, jnp.zeros((count, *v.shape), v.dtype)), v.dtype)
            for v in eqn.outputs
        ]
        if linear is not None:
            added, found = _through_linear(eqn, linear, outs, env)
        elif relax is not None:
            added, found = _through_relaxation(eqn, relax(eqn), outs)
        else:
            ends |= hit
            continue
        offset = offset + added
        for v, row in found:
            live[v] = live[v] + row if v in live else row
        if linear is None:
            visit(ends | live, offset)
    return ends | live, offset


def _through_linear(eqn: Equation, linear: Sequence[int], outs, env):
    """Takes rows back through an affine equation; known operands among the affine ones make the bias.

    Returns:
      What to add to the offset, and pairs of an uncertain operand and its rows.
    """
    moving = eqn.moving
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
    return offset, list(zip(moving.values(), found, strict=True))


def _through_relaxation(eqn: Equation, relaxation: Relaxation, outs):
    """Takes rows back through a relaxation, as ``c f >= max(c, 0) lower + min(c, 0) upper``.

    Returns:
      What to add to the offset, and pairs of an uncertain operand and its rows.
    """
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
    """Adds up ``rows bias``; where a row is 0, an infinite or NaN bias adds nothing."""
    rows, bias = rows.reshape(rows.shape[0], -1), bias.reshape(1, -1)
    return (rows * jnp.where((rows == 0) & ~jnp.isfinite(bias), 0, bias)).sum(-1)


def unit_rows(graph: Graph, var: Var, indices, env: dict[Var, Any]) -> tuple[Var, Any, Any]:
    """Returns an earlier v and rows: ``rows . v + offset`` are the elements of ``var`` at flat indices ``[C]``.

    Goes back through equations that leave elements in place; the rows of a product are entries picked
    from its weights, which saves a multiplication by unit vectors.

    Returns:
      v, the rows ``[C, *v.shape]`` and the offset ``[C]``.
    """
    eqn = next((eqn for eqn in graph.equations if var in eqn.outputs), None)
    if var.size and eqn and linear_operands(eqn) is not None and len(eqn.moving) == 1:
        (source,) = eqn.moving.values()
        operands = [None if a is source else read(env, a) for a in eqn.inputs]
        rule = linear_rules[eqn.primitive]
        if rule.keeps != "nothing" and source.size == var.size:
            fn = lambda x: eqn.bind(*(x if a is None else a for a in operands))[0]
            # fn is affine and works in place: ``scale x + bias`` per element, bias = fn(0), scale = fn'.
            ones = jnp.ones(source.shape, source.dtype)
            ends = jax.jvp(fn, [jnp.zeros_like(ones)], [ones])
            bias, scale = (jnp.take(x, indices, mode="clip") for x in ends)
            start, rows, offset = unit_rows(graph, source, indices, env)
            return start, jax.vmap(jnp.multiply)(scale, rows), scale * offset + bias
        rows = rule.pick and rule.pick(indices, source.shape, *operands, **eqn.params)
        if rows is not None:
            return source, rows.astype(source.dtype), jnp.zeros(len(indices), var.dtype)
    rows = jax.nn.one_hot(indices, var.size, dtype=var.dtype)
    return var, rows.reshape(len(indices), *var.shape), jnp.zeros(len(indices), var.dtype)
