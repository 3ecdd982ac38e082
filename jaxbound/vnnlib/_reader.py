"""Reads the text of a property: its formula as a disjunction of conjunctions of inequalities."""

from __future__ import annotations

import dataclasses
import decimal
import itertools
import math
import re
from fractions import Fraction

from jaxbound.vnnlib._expressions import Expression, VnnLibError, expressions
from jaxbound.vnnlib._second import HEADS, translated

LONGEST = 400  # characters of a number, and the powers of ten it may have
MOST = 200_000  # alternatives of all `or` blocks, multiplied out

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
SILENT = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}


@dataclasses.dataclass(frozen=True)
class Atom:
    """Holds ``sum of coefficient * variable <= bound``, exactly."""

    coefficients: dict[str, Fraction]
    bound: Fraction

    @property
    def variables(self) -> set[str]:
        return {name[0] for name in self.coefficients}


Conjunction = list[Atom]


def read(text: str) -> tuple[int, int, Conjunction, list[Conjunction]]:
    """Returns the numbers of inputs and outputs, what always holds, and the alternatives beyond it."""
    found = list(expressions(text))
    if any(expression.head in HEADS for expression in found):
        inputs, outputs, declared, asserted = translated(text)
    else:
        inputs, outputs, declared, asserted = first_version(found)
    if not asserted:
        raise VnnLibError("the property asserts nothing")
    return inputs, outputs, *conjunction([disjuncts(formula, declared) for formula in asserted])


def first_version(found: list[Expression]) -> tuple[int, int, set[str], list[Expression]]:
    """Returns the numbers of inputs and outputs, their names, and the formulas of a text of version 1.0."""
    declared: set[str] = set()
    asserted = []
    for expression in found:
        match expression.head:
            case "declare-const":
                declare(expression, declared)
            case "assert" if len(expression) == 2 and isinstance(expression[1], Expression):
                asserted.append(expression[1])
            case "assert":
                raise expression.fails("assert takes one formula")
            case head if head not in SILENT:
                raise expression.fails(
                    f"{head[:40]!r} is not a command of VNN-LIB 1.0 (declare-const, assert)"
                )
    return contiguous(declared, "X"), contiguous(declared, "Y"), declared, asserted


def declare(expression: Expression, declared: set[str]) -> None:
    """Adds a variable to those that are declared."""
    if len(expression) != 3 or expression[2] != "Real" or not isinstance(expression[1], str):
        raise expression.fails("expected (declare-const X_i Real) or (declare-const Y_i Real)")
    name = expression[1]
    if not VARIABLE.fullmatch(name):
        raise expression.fails(f"{name[:40]!r} is neither an input X_i nor an output Y_i")
    if name in declared:
        raise expression.fails(f"{name} is declared twice")
    declared.add(name)


def contiguous(declared: set[str], letter: str) -> int:
    """Counts the variables of a letter, which must be numbered from 0 on."""
    count = sum(name[0] == letter for name in declared)
    missing = next((i for i in range(count) if f"{letter}_{i}" not in declared), None)
    if missing is not None or not count:
        raise VnnLibError(f"{letter}_{missing or 0} is not declared")
    return count


def disjuncts(expression: Expression, declared: set[str]) -> list[Conjunction]:
    """Returns a formula in disjunctive normal form: no alternative means false."""
    operator, operands = expression.head, expression[1:]
    if operator in ("and", "or"):
        if not all(isinstance(operand, Expression) for operand in operands):
            raise expression.fails(f"{operator} takes formulas in brackets")
        parts = [disjuncts(operand, declared) for operand in operands]
        if operator == "or":
            return limited(list(itertools.chain(*parts)))
        common, alternatives = conjunction(parts)
        return [common + alternative for alternative in alternatives]
    if operator not in ("<=", ">="):
        raise expression.fails(
            f"{operator[:40]!r} is not an operator of formulas: those are and, or, <=, >="
            " (a strict sign would leave out the edge of the unsafe outputs)"
        )
    if len(operands) != 2:
        raise expression.fails(f"{operator} takes two terms, not {len(operands)}")
    left, right = (linear(operand, expression, declared) for operand in operands)
    difference = combined(left, right, -1) if operator == "<=" else combined(right, left, -1)
    bound = -difference.pop("", Fraction())
    atom = Atom({name: value for name, value in difference.items() if value}, bound)
    if atom.coefficients:
        return [[atom]]
    return [[]] if bound >= 0 else []


def conjunction(parts: list[list[Conjunction]]) -> tuple[Conjunction, list[Conjunction]]:
    """Returns what holds in all alternatives of a conjunction, and its alternatives beyond that."""
    common = list(itertools.chain(*(part[0] for part in parts if len(part) == 1)))
    choices = [part for part in parts if len(part) != 1]
    count = math.prod(len(part) for part in choices)
    if count > MOST:
        raise VnnLibError(f"the `or` blocks have {float(count):.2g} combinations; at most {MOST}")
    return common, [list(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


def limited(alternatives: list[Conjunction]) -> list[Conjunction]:
    """Checks that there are not too many alternatives."""
    if len(alternatives) > MOST:
        raise VnnLibError(f"the property has more than {MOST} alternatives")
    return alternatives


def linear(term, parent: Expression, declared: set[str]) -> dict[str, Fraction]:
    """Returns the coefficients of a linear term; that of "" is its constant."""
    if isinstance(term, str):
        if term in declared:
            return {term: Fraction(1)}
        if VARIABLE.fullmatch(term):
            raise parent.fails(f"{term} is not declared")
        return {"": number(term, parent)}
    operands = [linear(operand, term, declared) for operand in term[1:]]
    if not operands or term.head not in ("+", "-", "*", "/"):
        raise term.fails(f"{term.head[:40]!r} is not an operator of terms: those are +, -, *, /")
    first, *others = operands
    if term.head == "-" and not others:
        return combined({}, first, -1)
    for other in others:
        if term.head in ("+", "-"):
            first = combined(first, other, 1 if term.head == "+" else -1)
        elif term.head == "*":
            first = product(first, other, term)
        else:
            divisor = product({"": Fraction(1)}, other, term)
            if set(divisor) - {""} or not divisor.get("", 0):
                raise term.fails("a term is divided by what is not a constant, or by 0")
            first = combined({}, first, 1 / divisor[""])
    return first


def combined(first: dict, second: dict, factor) -> dict[str, Fraction]:
    """Returns ``first + factor * second``."""
    found = dict(first)
    for name, value in second.items():
        found[name] = found.get(name, 0) + factor * value
    return found


def product(first: dict, second: dict, term: Expression) -> dict[str, Fraction]:
    """Multiplies two terms, of which one must be constant."""
    if set(first) - {""}:
        first, second = second, first
    if set(first) - {""}:
        raise term.fails("a product of two variables is not linear")
    return combined({}, second, first.get("", Fraction()))


def number(token: str, parent: Expression) -> Fraction:
    """Returns the exact value of a decimal in any notation."""
    if not NUMBER.fullmatch(token):
        raise parent.fails(f"{token[:40]!r} is neither declared nor a number")
    if len(token) <= LONGEST:
        value = decimal.Decimal(token)
        if abs(value.adjusted()) <= LONGEST or not value:
            return Fraction(value) if value else Fraction()
    raise parent.fails(f"the number {token[:40]} is too long, too large or too small")
