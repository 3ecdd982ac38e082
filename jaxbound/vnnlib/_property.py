"""Defines a property as arrays: the boxes of its inputs, and rows of inequalities that are unsafe together."""

from __future__ import annotations

import dataclasses
import gzip
import os
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound.vnnlib._exact import (
    ExactCase,
    exact_cases,
    rounded,
    rounded_ends,
    scaled,
    witness_ends,
)
from jaxbound.vnnlib._expressions import VnnLibError
from jaxbound.vnnlib._reader import read

LARGEST_FILE = 2**30  # bytes, unpacked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Case:
    """Holds a box of inputs and what is unsafe there: a clause of which all rows ``a . y + c . x <= b`` hold.

    As a pytree it can be an argument of a compiled function: cases of the same shape share the compilation. All
    clauses have equally many rows, where a shorter one repeats its last.

    Attributes:
      box: all inputs, flat; its ends are rounded outward.
      witnesses: the inputs that may refute the property: as `box`, with ends rounded inward.
      output_rows: ``a``, of shape [clauses, rows, outputs].
      input_rows: ``c``, of shape [clauses, rows, inputs], or None where no row has inputs.
      limits: ``b``, of shape [clauses, rows], rounded up.
    """

    box: jb.Interval
    witnesses: jb.Interval
    output_rows: Any
    input_rows: Any
    limits: Any

    @property
    def rows(self) -> dict[str, Any]:
        """Returns the arrays of the rows, without those of inputs where there are none."""
        found = {"outputs": self.output_rows, "limits": self.limits}
        return found if self.input_rows is None else found | {"inputs": self.input_rows}

    def violation(self, outputs, inputs=None):
        """Returns ``a . y + c . x - b`` for all clauses and rows: safe iff each clause has a row > 0.

        Args:
          outputs: the network's output, of any shape, or a tuple of them; one example, not a batch.
          inputs: its input, which only a case with `input_rows` needs.

        Example:
          >>> import jax.numpy as jnp
          >>> from jaxbound import vnnlib
          >>> prop = vnnlib.loads('''
          ... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
          ... (assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= Y_0 Y_1)) (assert (>= Y_0 2))''')
          >>> prop.cases[0].violation(jnp.array([3.0, 5.0]))
          Array([[ 2., -1.]], dtype=float32)
        """
        return violation(self.rows, outputs, inputs)


def violation(rows: dict[str, Any], outputs, inputs=None):
    """Returns what `Case.violation` does, for the arrays of a case."""
    found = weighed(rows["outputs"], outputs) - rows["limits"]
    if "inputs" not in rows:
        return found
    if inputs is None:
        raise ValueError("the rows of this case have inputs: violation(outputs, inputs)")
    return found + weighed(rows["inputs"], inputs)


def weighed(rows, values):
    """Returns the products of rows with all values, flat and one after the other."""
    flat = [jnp.ravel(value) for value in jax.tree.leaves(values)]
    flat = flat[0] if len(flat) == 1 else jnp.concatenate(flat)
    if flat.shape != rows.shape[-1:]:
        raise ValueError(
            f"the property has {rows.shape[-1]} values here, the network {flat.shape[0]}"
        )
    return jnp.matmul(rows, flat, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Property:
    """Holds a property: it is violated where, in the box of any case, all rows of any clause hold.

    Attributes:
      cases: the boxes with their clauses; no case means that the property asks for nothing.
      inputs: how many numbers the network takes.
      outputs: how many it returns.
      exact: the cases in exact numbers.
      dtype: of the arrays.
    """

    cases: tuple[Case, ...]
    inputs: int
    outputs: int
    exact: tuple[ExactCase, ...] = dataclasses.field(repr=False)
    dtype: np.dtype

    def astype(self, dtype) -> Property:
        """Returns the property in arrays of another type, rounded once."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        cases = tuple(in_arrays(case, self.outputs, dtype) for case in self.exact)
        return dataclasses.replace(self, cases=cases, dtype=dtype)

    def violated(self, inputs, outputs) -> bool:
        """Tells whether an input, with the output that the network has there, refutes the property.

        It decides without rounding. Inputs must be numbers of their own type between the ends of the decimal
        box; where there is none (a fixed input of 0.1), the numbers next to it count.

        Example:
          >>> import numpy as np
          >>> from jaxbound import vnnlib
          >>> prop = vnnlib.loads('''
          ... (declare-const X_0 Real) (declare-const Y_0 Real)
          ... (assert (>= X_0 0.1)) (assert (<= X_0 0.5)) (assert (<= Y_0 2))''')
          >>> prop.violated(np.float32([0.5]), np.float32([2.0]))
          True
          >>> prop.violated(np.float32([0.51]), np.float32([2.0]))
          False
        """
        flat = [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])
            for part in (inputs, outputs)
        ]
        if (flat[0].size, flat[1].size) != (self.inputs, self.outputs):
            raise ValueError(
                f"expected {self.inputs} inputs and {self.outputs} outputs, got {flat[0].size} and {flat[1].size}"
            )
        if not all(np.isfinite(part).all() for part in flat):
            return False
        return any(case.violated(*flat) for case in self.exact)


def load(path: str | os.PathLike, *, dtype=None) -> Property:
    """Reads a property from a file, which may be packed by gzip.

    Args:
      path: a file in VNN-LIB 1.0, or 2.0 if the package vnnlib is installed (of one network).
      dtype: of the arrays, by default JAX's default.

    Raises:
      VnnLibError: the text is not a property; names the line.

    Example:
      >>> import pathlib, tempfile
      >>> from jaxbound import vnnlib
      >>> path = pathlib.Path(tempfile.mkdtemp(), "small.vnnlib")
      >>> _ = path.write_text('''
      ... (declare-const X_0 Real) (declare-const Y_0 Real)
      ... (assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (<= Y_0 0))''')
      >>> vnnlib.load(path).cases[0].box.upper
      Array([1.], dtype=float32)
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise VnnLibError(f"{path}: more than {LARGEST_FILE} bytes")
        return loads(data.decode(), dtype=dtype)
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile, zlib.error) as error:
        raise VnnLibError(f"{path} is not a text, or damaged: {error}") from error
    except VnnLibError as error:
        raise VnnLibError(f"{path}: {error}") from None


def loads(text: str, *, dtype=None) -> Property:
    """Reads a property from a text; otherwise as `load`.

    Example:
      >>> from jaxbound import vnnlib
      >>> prop = vnnlib.loads('''
      ... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
      ... (assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))
      ... (assert (or (<= Y_0 0) (<= Y_1 0)))''')
      >>> [case.output_rows.shape for case in prop.cases]
      [(2, 1, 2), (2, 1, 2)]
    """
    inputs, outputs, common, alternatives = read(text)
    dtype = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    exact = tuple(exact_cases(inputs, common, alternatives))
    cases = tuple(in_arrays(case, outputs, dtype) for case in exact)
    return Property(cases, inputs, outputs, exact, dtype)


def in_arrays(case: ExactCase, outputs: int, dtype) -> Case:
    """Returns a case in arrays of a type."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"JAX has to be allowed to use {dtype}: set jax_enable_x64")
    inputs, rows = len(case.lower), max(1, *map(len, case.clauses))
    shape = len(case.clauses), rows
    found = {"X": np.zeros((*shape, inputs), dtype), "Y": np.zeros((*shape, outputs), dtype)}
    limits = np.zeros(shape, dtype)
    for i, clause in enumerate(case.clauses):
        # A clause without rows is unsafe everywhere: 0 <= 0.
        for j in range(rows if clause else 0):
            atom = scaled(clause[min(j, len(clause) - 1)], dtype)
            for name, value in atom.coefficients.items():
                found[name[0]][i, j, int(name[2:])] = float(value)
            limits[i, j] = rounded(atom.bound, dtype, up=True)
    box = rounded_ends(case.lower, dtype, up=False), rounded_ends(case.upper, dtype, up=True)
    return Case(
        jb.Interval(*map(jnp.asarray, box)),
        jb.Interval(*map(jnp.asarray, witness_ends(case.lower, case.upper, dtype))),
        jnp.asarray(found["Y"]),
        jnp.asarray(found["X"]) if found["X"].any() else None,
        jnp.asarray(limits),
    )
