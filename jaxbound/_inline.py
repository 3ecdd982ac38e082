"""Calls replaced by their bodies, some primitives by simpler ones, and dead code dropped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from jaxbound._primitives import CALLS, Activation, rewrite
from jaxbound._program import Atom, Constant, Equation, Graph, Var


def flatten(fn: Callable[..., Any], avals: Sequence[Any], uncertain: Sequence[bool]) -> Graph:
    """Traces a function of arrays, of which those marked ``uncertain`` vary, to a flat graph."""
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*avals)
    invars = zip(closed.jaxpr.invars, uncertain, strict=True)
    inputs = tuple(Var(v.aval.shape, v.aval.dtype, u) for v, u in invars)
    equations: list[Equation] = []
    outputs = _inline(closed, inputs, "", (), equations)
    return Graph(inputs, live(equations, outputs), tuple(outputs), jax.tree.structure(out_shape))


def live(equations: Sequence[Equation], outputs: Sequence[Atom]) -> tuple[Equation, ...]:
    """The equations that the outputs need."""
    needed, kept = {id(atom) for atom in outputs}, []
    for eqn in reversed(equations):
        if any(id(out) in needed for out in eqn.outputs):
            needed.update(map(id, eqn.inputs))
            kept.append(eqn)
    return tuple(kept[::-1])


def _inline(
    closed,
    atoms: Sequence[Atom],
    layer: str,
    sources: tuple[Any, ...],
    equations: list[Equation],
    own=True,
) -> list[Atom]:
    """Appends the equations of ``closed`` applied to ``atoms``; returns its outputs."""
    env: dict[Any, Atom] = dict(
        zip(closed.jaxpr.constvars, map(Constant, closed.consts), strict=True)
    )
    env.update(zip(closed.jaxpr.invars, atoms, strict=True))
    made: dict[Any, Sequence[Atom]] = {}

    def get(atom) -> Atom:
        return Constant(atom.val) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in closed.jaxpr.eqns:
        operands = [get(atom) for atom in eqn.invars]
        where = "/".join(filter(None, (layer, str(eqn.source_info.name_stack))))
        # A rewritten equation stands where the original one did.
        origins = (eqn.source_info, *sources) if own else sources
        body = _body(eqn, operands)
        # The same again is the same value: what recognises a product with itself must see it.
        key = _key(eqn, operands)
        if key in made:
            outs = made[key]
        elif body is not None:
            called = own and eqn.primitive.name in CALLS
            outs = _inline(body, operands, where, origins, equations, own=called)
        else:
            equations.append(_equation(eqn, operands, where, origins))
            outs = equations[-1].outputs
        env.update(zip(eqn.outvars, outs, strict=True))
        if key is not None:
            made[key] = outs
    return [get(atom) for atom in closed.jaxpr.outvars]


def _equation(eqn, operands: Sequence[Atom], layer: str, sources: tuple[Any, ...]) -> Equation:
    uncertain = any(atom.uncertain for atom in operands)
    outs = (Var(v.aval.shape, getattr(v.aval, "dtype", None), uncertain) for v in eqn.outvars)
    primitive, params = (eqn.primitive, eqn.params) if uncertain else _opaque(eqn)
    return Equation(primitive, tuple(operands), tuple(outs), params, layer, sources)


def _key(eqn, operands: Sequence[Atom]):
    """What an equation on uncertain values computes; None: it cannot be compared."""
    key = (eqn.primitive, *operands, *eqn.params.items())
    try:
        hash(key)
    except TypeError:
        return None
    return key if any(atom.uncertain for atom in operands) else None


def _body(eqn, operands: Sequence[Atom]):
    """The jaxpr that replaces ``eqn``, if it is a call or is rewritten in simpler terms."""
    uncertain = tuple(atom.uncertain for atom in operands)
    if not any(uncertain):
        return None
    if eqn.primitive.name in CALLS:
        (body,) = jex.jaxprs_in_params(eqn.params)
        return _closed(eqn.params, body)
    itself = len(eqn.invars[0].aval.shape) if operands[0] is operands[-1] else None
    simpler = rewrite(eqn.primitive, uncertain, eqn.params, itself)
    if simpler is None:
        return None
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return jax.make_jaxpr(functools.partial(simpler, **eqn.params))(*avals)


def _closed(params: dict[str, Any], body):
    """``body`` with its constants, however the call holds it."""
    for value in params.values():
        if isinstance(value, jex.ClosedJaxpr) and value.jaxpr is body:
            return value
    return jex.ClosedJaxpr(body, ())


def _opaque(eqn) -> tuple[Any, dict[str, Any]]:
    """Known operands need no rule, so control flow and custom derivatives stay as they are."""
    if not list(jex.jaxprs_in_params(eqn.params)):
        return eqn.primitive, eqn.params
    indices: dict[Any, int] = {}
    for i, v in enumerate(eqn.invars):
        if not isinstance(v, jex.Literal):
            indices.setdefault(v, i)
    kept = [i for i, v in enumerate(eqn.outvars) if not isinstance(v, jex.DropVar)]
    outvars = [eqn.outvars[i] for i in kept]
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in indices]
    frame = jax.make_jaxpr(lambda *_: [0] * len(outvars))(*avals).jaxpr
    alone = frame.replace(invars=list(indices), outvars=outvars, eqns=[eqn], effects=eqn.effects)
    call = jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, ()))

    def evaluate(*operands):
        outs = dict(zip(kept, call(*(operands[i] for i in indices.values())), strict=True))
        return [outs.get(i) for i in range(len(eqn.outvars))]

    return Activation(eqn.primitive.name, (evaluate,)), {}
