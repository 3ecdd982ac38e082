"""Holds a property in exact numbers, and rounds it to the arrays of a type."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from jaxbound.vnnlib._expressions import VnnLibError
from jaxbound.vnnlib._reader import Atom, Conjunction

Ends = dict[str, tuple[Fraction | None, Fraction | None]]


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
    inner = rounded_ends(lower, dtype, up=True), rounded_ends(upper, dtype, up=False)
    return np.minimum(*inner), np.maximum(*inner)


def rounded_ends(values: list[Fraction], dtype, up: bool) -> np.ndarray:
    """Returns many numbers rounded up, or down."""
    return np.array([rounded(value, dtype, up) for value in values], dtype)


def rounded(value: Fraction, dtype, up: bool):
    """Returns the nearest number of the type that is not below the value, or not above it.

    Numbers smaller than the normal ones, which devices flush to 0, are passed over.
    """
    info, kind = jnp.finfo(dtype), np.dtype(dtype).type
    top, bottom = value.as_integer_ratio()
    size = abs(top) / bottom if abs(top) < bottom << 1024 else math.inf
    if 0 < size < float(info.tiny):
        return kind(0) if up == (top < 0) else kind(math.copysign(info.tiny, top))
    with np.errstate(over="ignore"):
        found = kind(math.copysign(size, top))
    if np.isfinite(found):
        exact = float(found).as_integer_ratio()
        rise = exact[0] * bottom - top * exact[1]
        if (rise < 0) if up else (rise > 0):
            found = np.nextafter(found, kind(np.inf if up else -np.inf))
    if not np.isfinite(found):
        raise VnnLibError(f"the number {size:.3g} is too large for {np.dtype(dtype)}")
    return found


def exact_cases(inputs: int, common: Conjunction, alternatives: list[Conjunction]):
    """Yields the boxes that are not empty, each with all clauses of its own."""
    base, shared = split(common, {})
    boxes: dict[tuple, list[Conjunction]] = {}
    for alternative in alternatives:
        ends, rows = split(alternative, base)
        boxes.setdefault(tuple(sorted(ends.items())), []).append(shared + rows)
    for changed, clauses in boxes.items():
        ends = base | dict(changed)
        lower: list[Fraction] = []
        upper: list[Fraction] = []
        for i in range(inputs):
            low, high = ends.get(f"X_{i}") or (None, None)
            if low is None or high is None:
                raise VnnLibError(f"X_{i} has no {'lower' if low is None else 'upper'} bound")
            lower.append(low)
            upper.append(high)
        if all(low <= high for low, high in zip(lower, upper, strict=True)):
            yield ExactCase(lower, upper, clauses)


def split(atoms: Conjunction, base: Ends) -> tuple[Ends, Conjunction]:
    """Returns the ends of inputs where atoms tighten those of ``base``, and the other atoms."""
    ends: Ends = {}
    rows = []
    for atom in atoms:
        if len(atom.coefficients) > 1 or atom.variables != {"X"}:
            rows.append(atom)
            continue
        ((name, factor),) = atom.coefficients.items()
        low, high = ends.get(name) or base.get(name) or (None, None)
        value = atom.bound / factor
        if factor > 0 and (high is None or value < high):
            ends[name] = low, value
        elif factor < 0 and (low is None or value > low):
            ends[name] = value, high
    return ends, rows
