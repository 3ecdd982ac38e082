"""Defines what an operator's row in the tables holds, and what its function is called with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxbound.onnx._errors import OnnxError

LARGEST = 2**28  # elements of a value that a model makes from a shape
EXACT = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Operator:
    """Represents how an operator is computed.

    Attributes:
      apply: a function of a `Call` and the inputs, None where one is left out.
      plain: whether it also computes with NumPy arrays, by `Call.np`.
      static: the inputs that stay constants of the program where they are known: shapes, axes, exponents.
      allowed: the values that an attribute may have where it is present; those not named may have any.
      outputs: how many outputs there are at most, None for any number.
    """

    apply: Callable[..., Any]
    plain: bool = True
    static: tuple[int, ...] = ()
    allowed: dict[str, tuple] = dataclasses.field(default_factory=dict)
    outputs: int | None = 1


@dataclasses.dataclass(frozen=True)
class Call:
    """Represents the use of an operator: its attributes are attributes, None where one is absent.

    Attributes:
      values: the attributes by name, with the defaults of the operator's version.
      opset: the version of the operators.
      np: `numpy` where all inputs are known, else `jax.numpy`.
      count: how many outputs are asked for.
    """

    values: dict[str, Any]
    opset: int
    np: ModuleType
    count: int

    def __getattr__(self, name: str):
        return self.values.get(name)


def integers(values) -> tuple[int, ...]:
    """Returns known numbers as Python integers."""
    if isinstance(values, jax.Array):
        raise OnnxError("a shape, an axis or a position depends on the inputs of the model")
    return tuple(int(value) for value in np.ravel(values))


def positive(axis: int, ndim: int) -> int:
    """Returns an axis counted from the front."""
    if not -ndim <= axis < ndim:
        raise OnnxError(f"axis {axis} of a value with {ndim} axes")
    return int(axis) % ndim


def within_memory(shape) -> tuple[int, ...]:
    """Checks a shape that the model computes, before an array of it is made."""
    shape = integers(shape)
    if min(shape, default=0) < 0 or np.prod([float(size) for size in shape]) > LARGEST:
        raise OnnxError(f"a value of shape {shape}; at most {LARGEST} elements")
    return shape
