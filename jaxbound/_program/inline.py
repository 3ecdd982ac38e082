"""Replaces calls and control flow by their bodies and some primitives by simpler ones, and drops dead code."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core as jex
from jax.extend.core import primitives as jp

from jaxbound._program import matrices
from jaxbound._program.activations import Activation, modulus
from jaxbound._program.complex_values import (
    Pair,
    even_exponent,
    is_complex,
    modulus_power,
    of_parts,
    rule_of,
)
from jaxbound._program.control import CONTROL, Site
from jaxbound._program.graph import Atom, Constant, Equation, Graph, Var, shape_of
from jaxbound._program.indexing import INDEXED
from jaxbound._program.rewrites import CALLS, KEEP_ORDER, Case, rewrite
from jaxbound._program.searches import look_up


def flatten(fn: Callable[..., Any], avals: Sequence[Any], uncertain: Sequence[bool]) -> Graph:
    """Traces a function of arrays, of which those marked ``uncertain`` vary, to a flat graph."""
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*avals)
    invars = zip(closed.jaxpr.invars, uncertain, strict=True)
    inputs = tuple(Var(v.aval.shape, v.aval.dtype, u) for v, u in invars)
    program = _Program()
    outputs = program.inline(closed, inputs, "", ())
    if any(isinstance(atom, Pair) for atom in outputs):
        raise TypeError(
            "the function's value is complex, and complex values have no order: return jnp.real(value) and"
            " jnp.imag(value), or jnp.abs(value)"
        )
    equations = live(program.equations, outputs)
    return Graph(inputs, equations, tuple(outputs), jax.tree.structure(out_shape))


def live(equations: Sequence[Equation], outputs: Sequence[Atom]) -> tuple[Equation, ...]:
    """Returns the equations that the outputs need."""
    needed, kept = {id(atom) for atom in outputs}, []
    for eqn in reversed(equations):
        if any(id(out) in needed for out in eqn.outputs):
            needed.update(map(id, eqn.inputs))
            kept.append(eqn)
    return tuple(kept[::-1])


class _Program:
    """Builds a flat program, equation by equation."""

    def __init__(self):
        self.equations: list[Equation] = []
        self._fixed: dict[Var, int] = {}  # decided by constants alone: the index of its equation
        self._values: dict[Var, Any] = {}  # those of them that `value` has computed
        self._reshaped: dict[Var, Var] = {}  # a value, and the one that it is a reshape of
        self._known: dict[Any, list[Atom]] = {}  # outputs of equations on known values, by `_key`
        self._moduli: dict[Any, Pair] = {}  # absolute values, and the complex values they are of

    def inline(self, closed, atoms: Sequence[Atom], layer: str, sources, own=True) -> list[Atom]:
        """Appends the equations of ``closed`` applied to ``atoms``; returns its outputs.

        Where the body is not the user's ``own``, its equations are reported to come from ``sources`` alone.
        """
        env: dict[Any, Atom] = dict(
            zip(closed.jaxpr.constvars, map(Constant, closed.consts), strict=True)
        )
        env.update(zip(closed.jaxpr.invars, map(_known_if_empty, atoms), strict=True))
        made: dict[Any, list[Atom]] = {}

        def get(atom) -> Atom:
            return Constant(atom.val) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in closed.jaxpr.eqns:
            operands = [get(atom) for atom in eqn.invars]
            where = "/".join(filter(None, (layer, str(eqn.source_info.name_stack))))
            origins = (eqn.source_info, *sources) if own else sources
            # Repeated equations share one value, so that `f(x) * f(x)` is seen as a square.
            key = _key(eqn, operands)
            seen = made if any(atom.uncertain for atom in operands) else self._known
            outs = seen.get(key) or self._replaced(eqn, operands, where, origins, own)
            if outs is None:
                outs = self._appended(eqn, operands, where, origins)
            outs = list(map(_known_if_empty, outs))
            env.update(zip(eqn.outvars, outs, strict=True))
            if key is not None:
                seen[key] = outs
        return [get(atom) for atom in closed.jaxpr.outvars]

    def _replaced(self, eqn, operands: list[Atom], where, origins, own) -> list[Any] | None:
        """Returns the outputs of a call's body, of control flow or of simpler terms; None: the equation stays."""
        uncertain, name = tuple(atom.uncertain for atom in operands), eqn.primitive.name
        if not any(uncertain):
            return None

        call = functools.partial(self._call, where, origins, own)
        if rule := matrices.rule_of(eqn, uncertain, lambda i: self._maker(operands[i])):
            return call(rule, *operands)
        if name in CALLS:
            (body,) = jex.jaxprs_in_params(eqn.params)
            closed = _closed(eqn.params, body)
            if whole := look_up(closed, uncertain):
                found, outs = _equation(eqn, operands, where, origins)
                found = dataclasses.replace(found, primitive=whole[0], params=whole[1])
                self.equations.append(found)
                return outs
            return call(closed, *operands)
        if name in CONTROL:
            return CONTROL[name](Site(call, self.value), operands, **eqn.params)
        if rule := rule_of(eqn, operands):
            return _in_parts(rule, eqn, operands, call)
        if operands[0] in self._moduli and (exponent := even_exponent(eqn, operands)):
            return call(functools.partial(modulus_power, exponent), *self._moduli[operands[0]])
        same = self._unchanged(eqn, operands)
        if same is not None:
            return [same]
        form = INDEXED.get(name)
        outs = form and form(Site(call, self.value), operands, **eqn.params)
        if outs is not None:
            return outs
        itself = len(eqn.invars[0].aval.shape) if operands[0] is operands[-1] else None
        value = lambda position: self.value(operands[position])
        simpler = rewrite(Case(eqn.primitive, uncertain, eqn.params, itself, value))
        if simpler is None:
            return None
        return call(functools.partial(simpler, **eqn.params), *operands)

    def _call(self, where, origins, own, body, *atoms: Atom) -> list[Atom]:
        """Appends the equations of a jaxpr, or of a function of the library's own; returns its outputs."""
        if not isinstance(body, jex.ClosedJaxpr):
            body, own = jax.make_jaxpr(body)(*map(aval, atoms)), False
        return self.inline(body, atoms, where, origins, own)

    def _unchanged(self, eqn, operands: list[Atom]) -> Atom | None:
        """Returns the value that the equation only repeats (a reshape undone, a constant's choice, its own dtype)."""
        x, out = operands[0], eqn.outvars[0].aval
        if eqn.primitive is jp.select_n_p and not shape_of(x) and self._is_fixed(x):
            return operands[1 + int(self.value(x))]  # pyright: ignore
        if eqn.primitive is jp.convert_element_type_p:
            return x if isinstance(x, Var) and x.dtype == out.dtype else None
        if self._keeps_order(eqn, x):
            while x is not None and shape_of(x) != out.shape:
                x = self._reshaped.get(x)  # pyright: ignore
            return x
        return None

    def _keeps_order(self, eqn, x: Atom) -> bool:
        """Tells whether the equation only changes the shape of x."""
        turned = eqn.primitive is jp.reshape_p and eqn.params.get("dimensions") is not None
        same = (
            eqn.primitive in KEEP_ORDER
            and isinstance(x, Var)
            and x.size == eqn.outvars[0].aval.size
        )
        return same and not turned

    def _maker(self, atom: Atom) -> str | None:
        """Returns the name of the primitive that an atom is an output of, or None."""
        makers = (str(eqn.primitive) for eqn in reversed(self.equations) if atom in eqn.outputs)
        return next(makers, None)

    def _appended(self, eqn, operands: list[Any], where, origins) -> list[Any]:
        found, outs = _equation(eqn, operands, where, origins)
        if not found.moving and all(map(self._is_fixed, operands)):
            self._fixed |= dict.fromkeys(found.outputs, len(self.equations))
        if found.moving and self._keeps_order(eqn, operands[0]):
            self._reshaped[found.outputs[0]] = operands[0]  # pyright: ignore
        if found.primitive is modulus:
            self._moduli[outs[0]] = operands[0]
        self.equations.append(found)
        return outs

    def _is_fixed(self, atom: Atom) -> bool:
        if isinstance(atom, Constant):
            return not isinstance(atom.value, Tracer)
        return atom in self._fixed

    def value(self, atom: Atom) -> np.ndarray | None:
        """Returns the array of a known atom; None unless constants alone decide it."""
        if not self._is_fixed(atom):
            return None
        if isinstance(atom, Constant):
            return np.asarray(atom.value)
        needed, wanted = set(), [atom] if atom not in self._values else []
        while wanted:
            index = self._fixed[wanted.pop()]
            if index not in needed:
                needed.add(index)
                inputs = self.equations[index].inputs
                wanted += [a for a in inputs if isinstance(a, Var) and a not in self._values]
        with jax.ensure_compile_time_eval():
            for index in sorted(needed):
                self._values |= self.equations[index].evaluate(self._values)
        return np.asarray(self._values[atom])


def _known_if_empty(atom: Atom) -> Atom:
    """Returns a constant in place of an uncertain value without elements."""
    if isinstance(atom, Var) and atom.uncertain and not atom.size:
        return Constant(np.zeros(atom.shape, atom.dtype))
    return atom


def _in_parts(rule, eqn, operands: list[Any], call) -> list[Any]:
    """Returns the outputs of a rule for complex values: a pair of real values for each complex one."""
    leaves, tree = jax.tree.flatten(operands)
    outs = iter(call(lambda *xs: rule(*jax.tree.unflatten(tree, xs)), *leaves))
    return [Pair(next(outs), next(outs)) if _is_complex(v) else next(outs) for v in eqn.outvars]


def _is_complex(v) -> bool:
    return is_complex(getattr(v.aval, "dtype", bool))


def aval(atom: Atom) -> jax.ShapeDtypeStruct:
    if isinstance(atom, Pair):
        return jax.eval_shape(lax.complex, *map(aval, atom))
    if isinstance(atom, Var):
        return jax.ShapeDtypeStruct(atom.shape, atom.dtype)
    return jax.ShapeDtypeStruct(jnp.shape(atom.value), jnp.result_type(atom.value))


def _equation(eqn, operands: Sequence[Any], layer: str, sources: tuple[Any, ...]):
    """Returns ``eqn`` as an equation of the graph, and its outputs; uncertain complex ones are pairs of real ones."""
    uncertain = any(atom.uncertain for atom in operands)
    primitive, params = (eqn.primitive, eqn.params) if uncertain else _opaque(eqn)
    if uncertain and of_parts(eqn, operands):
        primitive, params = (
            modulus if eqn.primitive.name == "abs" else Activation(eqn.primitive.name, ()),
            {},
        )
    outs = []
    for v in eqn.outvars:
        shape, dtype = v.aval.shape, getattr(v.aval, "dtype", None)
        if uncertain and _is_complex(v):
            outs.append(Pair(*(Var(shape, np.finfo(str(dtype)).dtype, True) for _ in range(2))))
        else:
            outs.append(Var(shape, dtype, uncertain))
    inputs, outputs = (tuple(jax.tree.leaves(list(atoms))) for atoms in (operands, outs))
    return Equation(primitive, inputs, outputs, params, layer, sources), outs


def _key(eqn, operands: Sequence[Atom]):
    """Returns a key that equations share if they compute the same; None if a parameter cannot be hashed."""
    key = (eqn.primitive, *map(_identity, operands), *eqn.params.items())
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _identity(atom: Atom) -> Any:
    """Returns a constant number's type and bytes, which are equal wherever it stands; else the atom itself."""
    if isinstance(atom, Constant) and isinstance(atom.value, int | float | np.generic | np.ndarray):
        value = np.asarray(atom.value)
        return (value.dtype, value.tobytes()) if not value.ndim else atom
    return atom


def _closed(params: dict[str, Any], body):
    """Returns ``body`` with its constants, however the call holds it."""
    for value in params.values():
        if isinstance(value, jex.ClosedJaxpr) and value.jaxpr is body:
            return value
    return jex.ClosedJaxpr(body, ())


def _opaque(eqn) -> tuple[Any, dict[str, Any]]:
    """Returns what evaluates ``eqn`` whole: known operands need no rule, even in control flow, custom derivatives."""
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
