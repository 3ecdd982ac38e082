"""Defines a program as data: variables, constants, equations, and the graph they form."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.regions import arrays_of

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # the package's folder
_LIBRARIES = ("site-packages", "dist-packages", "<frozen")


class Var:
    """Represents a value of the graph: its shape, dtype, and whether it depends on an uncertain input."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, uncertain: bool):
        self.shape, self.dtype, self.uncertain = tuple(shape), dtype, uncertain

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def is_float(self) -> bool:
        return jnp.issubdtype(self.dtype, jnp.floating)


class Constant:
    """Holds a known value: a literal or something the function closed over."""

    uncertain = False

    def __init__(self, value: Any):
        self.value = value


Atom = Var | Constant


def shape_of(atom: Atom) -> tuple[int, ...]:
    return jnp.shape(atom.value) if isinstance(atom, Constant) else atom.shape


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """Represents ``outputs = primitive(*inputs, **params)``, and where the user wrote it."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Var, ...]
    params: dict[str, Any]
    layer: str
    sources: tuple[Any, ...]  # source infos, innermost call first

    @property
    def moving(self) -> dict[int, Var]:
        """Returns the uncertain operands by position."""
        return {i: a for i, a in enumerate(self.inputs) if isinstance(a, Var) and a.uncertain}

    @property
    def uncertain(self) -> tuple[bool, ...]:
        return tuple(atom.uncertain for atom in self.inputs)

    def bind(self, *operands) -> list[Any]:
        """Evaluates the equation on arrays; returns a list, even of a single output."""
        outs = self.primitive.bind(*operands, **self.params)
        return list(outs) if isinstance(outs, list | tuple) else [outs]

    def evaluate(self, env: Mapping[Var, Any]) -> dict[Var, Any]:
        """Returns the values of the outputs by variable; operands are read from ``env``."""
        return dict(zip(self.outputs, self.bind(*(read(env, a) for a in self.inputs)), strict=True))

    @property
    def line(self) -> str:
        """Returns the user's file and line: the innermost frame outside of this package and of installed libraries."""
        for info in self.sources:
            for frame in info.traceback.frames if info.traceback is not None else ():
                if not frame.file_name.startswith(_HERE) and not any(
                    part in frame.file_name for part in _LIBRARIES
                ):
                    return f"{frame.file_name}:{frame.line_num}"
        return "unknown line"


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Represents a traced function; ``evaluate`` computes the function again."""

    inputs: tuple[Var, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    out_tree: Any

    @functools.cached_property
    def producer(self) -> Mapping[Any, Equation]:
        """Returns the equation that computes each value."""
        return {out: eqn for eqn in self.equations for out in eqn.outputs}

    def evaluate(self, *args):
        """Returns the function's value at ``args`` (arrays in place of uncertain leaves)."""
        env = dict(zip(self.inputs, arrays_of(args)[0], strict=True))
        for eqn in self.equations:
            env.update(eqn.evaluate(env))
        return jax.tree.unflatten(self.out_tree, [read(env, a) for a in self.outputs])

    def known(self, env: Mapping[Var, Any]) -> dict[Var, Any]:
        """Returns ``env`` and the values of all equations without uncertain operands."""
        env = dict(env)
        for eqn in self.equations:
            if not eqn.moving:
                env |= eqn.evaluate(env)
        return env

    def before(self, var: Var) -> list[Equation]:
        """Returns the equations on uncertain values that ``var`` depends on, in their order."""
        live, found = {var}, []
        for eqn in reversed(self.equations):
            if eqn.moving and live & set(eqn.outputs):
                live |= set(eqn.moving.values())
                found.append(eqn)
        return found[::-1]


def read(env: Mapping[Var, Any], atom: Atom) -> Any:
    return atom.value if isinstance(atom, Constant) else env[atom]
