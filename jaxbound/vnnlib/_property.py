"""Defines a property as arrays: the boxes of its inputs, and rows of inequalities that are unsafe together."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import math
import os
import zlib
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound.vnnlib._reader import Atom, Conjunction, VnnLibError, read

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
        found = weighed(self.output_rows, outputs) - self.limits
        if self.input_rows is None:
            return found
        if inputs is None:
            raise ValueError("the rows of this case have inputs: violation(outputs, inputs)")
        return found + weighed(self.input_rows, inputs)


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
    """

    cases: tuple[Case, ...]
    inputs: int
    outputs: int
    exact: tuple[ExactCase, ...] = dataclasses.field(repr=False)

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


@dataclasses.dataclass(frozen=True)
class ExactCase:
    """Holds a case in exact numbers."""

    lower: list[Fraction]
    upper: list[Fraction]
    clauses: list[Conjunction]

    def violated(self, inputs: np.ndarray, outputs: np.ndarray) -> bool:
        ends = witness_ends(self.lower, self.upper, inputs.dtype)
        if not ((ends[0] <= inputs) & (inputs <= ends[1])).all():
            return False
        values = {"X": inputs, "Y": outputs}
        return any(all(holds(atom, values) for atom in clause) for clause in self.clauses)

    def arrays(self, outputs: int, dtype) -> Case:
        """Returns the case in arrays of a type."""
        inputs, rows = len(self.lower), max(1, *map(len, self.clauses))
        shape = len(self.clauses), rows
        found = {"X": np.zeros((*shape, inputs), dtype), "Y": np.zeros((*shape, outputs), dtype)}
        limits = np.zeros(shape, dtype)
        for i, clause in enumerate(self.clauses):
            # A clause without rows is unsafe everywhere: 0 <= 0.
            for j in range(rows if clause else 0):
                atom = scaled(clause[min(j, len(clause) - 1)], dtype)
                for name, value in atom.coefficients.items():
                    found[name[0]][i, j, int(name[2:])] = float(value)
                limits[i, j] = rounded(atom.bound, dtype, up=True)
        box = [
            np.array([rounded(end, dtype, up) for end in ends], dtype)
            for ends, up in ((self.lower, False), (self.upper, True))
        ]
        inner = witness_ends(self.lower, self.upper, dtype)
        return Case(
            jb.Interval(*map(jnp.asarray, box)),
            jb.Interval(*map(jnp.asarray, inner)),
            jnp.asarray(found["Y"]),
            jnp.asarray(found["X"]) if found["X"].any() else None,
            jnp.asarray(limits),
        )


def holds(atom: Atom, values: dict[str, np.ndarray]) -> bool:
    """Tells whether an inequality holds, without rounding."""
    terms = (
        coefficient * Fraction(float(values[name[0]][int(name[2:])]))
        for name, coefficient in atom.coefficients.items()
    )
    return sum(terms) <= atom.bound


def scaled(atom: Atom, dtype) -> Atom:
    """Returns an inequality whose coefficients are numbers of the type: itself, or a whole multiple."""
    if all(representable(value, dtype) for value in atom.coefficients.values()):
        return atom
    values = atom.coefficients.values()
    factor = Fraction(
        math.lcm(*(value.denominator for value in values)),
        math.gcd(*(value.numerator for value in values)),
    )
    found = Atom({k: v * factor for k, v in atom.coefficients.items()}, atom.bound * factor)
    if not all(representable(value, dtype) for value in found.coefficients.values()):
        raise VnnLibError(
            f"the coefficients {[float(value) for value in values]} have more digits than {np.dtype(dtype)} holds"
        )
    return found


def representable(value: Fraction, dtype) -> bool:
    """Tells whether a number is one of the type."""
    return rounded(value, dtype, up=True) == rounded(value, dtype, up=False)


def witness_ends(lower: list[Fraction], upper: list[Fraction], dtype) -> tuple:
    """Returns the ends of the numbers of a type that count as inside: between the ends, else those around them."""
    inner = [rounded(low, dtype, up=True) for low in lower]
    found = [
        (a, b) if a <= b else (b, a)
        for a, b in zip(inner, (rounded(high, dtype, up=False) for high in upper), strict=True)
    ]
    return tuple(np.array(ends, dtype) for ends in zip(*found, strict=True))


@functools.lru_cache(maxsize=2**16)
def rounded(value: Fraction, dtype, up: bool):
    """Returns the nearest number of the type that is not below the value, or not above it.

    Numbers smaller than the normal ones, which devices flush to 0, are passed over.
    """
    kind = np.dtype(dtype).type
    info = jnp.finfo(dtype)
    if abs(value) > Fraction(float(info.max)):
        raise VnnLibError(f"the number {str(value)[:40]} is too large for {np.dtype(dtype)}")
    if 0 < abs(value) < Fraction(float(info.tiny)):
        return kind(0) if up == (value < 0) else kind(math.copysign(info.tiny, value))
    found = kind(float(value))
    exact = Fraction(float(found))
    if (exact < value) if up else (exact > value):
        found = np.nextafter(found, kind(np.inf if up else -np.inf))
    return found


def load(path: str | os.PathLike, *, dtype=None) -> Property:
    """Reads a property from a file, which may be packed by gzip.

    Args:
      path: a file in VNN-LIB 1.0.
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
    return Property(tuple(case.arrays(outputs, dtype) for case in exact), inputs, outputs, exact)


def exact_cases(inputs: int, common: Conjunction, alternatives: list[Conjunction]):
    """Yields the boxes that are not empty, each with all clauses of its own."""
    base, shared = split(common)
    boxes: dict[tuple, list[Conjunction]] = {}
    for alternative in alternatives:
        ends, rows = split(alternative, base)
        boxes.setdefault(tuple(sorted(ends.items())), []).append(shared + rows)
    for changed, clauses in boxes.items():
        ends = base | dict(changed)
        for i, name in ((i, f"X_{i}") for i in range(inputs)):
            low, high = ends.get(name, (None, None))
            if low is None or high is None:
                raise VnnLibError(f"{name} has no {'lower' if low is None else 'upper'} bound")
        lower, upper = zip(*(ends[f"X_{i}"] for i in range(inputs)), strict=True)
        if all(low <= high for low, high in ends.values()):
            yield ExactCase(list(lower), list(upper), clauses)


def split(atoms: Conjunction, base: dict | None = None) -> tuple[dict, Conjunction]:
    """Returns the ends of inputs where atoms tighten those of ``base``, and the other atoms."""
    base = base or {}
    ends: dict[str, tuple] = {}
    rows = []
    for atom in atoms:
        if len(atom.coefficients) > 1 or atom.variables != {"X"}:
            rows.append(atom)
            continue
        ((name, factor),) = atom.coefficients.items()
        low, high = ends.get(name, base.get(name, (None, None)))
        value = atom.bound / factor
        if factor > 0 and (high is None or value < high):
            ends[name] = low, value
        elif factor < 0 and (low is None or value > low):
            ends[name] = value, high
    return ends, rows
