"""Turns version 2.0 of the language, as the package `vnnlib` reads it, into expressions of version 1.0."""

from __future__ import annotations

import importlib
import json
import math
from typing import Any

from jaxbound.vnnlib._expressions import Expression, VnnLibError

HEADS = {"vnnlib-version", "declare-network"}
NUMBERS = {"F16", "BF16", "F32", "F64", "Real"}
CONNECTIVES = {"And": "and", "Or": "or"}
COMPARISONS = {"LessEqual": "<=", "GreaterEqual": ">=", "LessThan": "<", "GreaterThan": ">"}
TERMS = {"Plus": "+", "Minus": "-", "Negate": "-", "Multiply": "*"}

Places = dict[str, tuple[str, int, list[int]]]


def translated(text: str) -> tuple[int, int, set[str], list[Expression]]:
    """Returns the numbers of inputs and outputs, the variables that are used, and the formulas.

    Variables are X_i and Y_i, by their places among all inputs and outputs, flat and one after the other.
    """
    try:
        library = importlib.import_module("vnnlib")
    except ModuleNotFoundError:
        raise VnnLibError(
            "version 2.0 of the language needs the package vnnlib: pip install 'jaxbound[vnnlib]'"
        ) from None
    try:
        query = library.parse_query_string(text)
    except library.VNNLibException as error:
        raise VnnLibError(reason(str(error))) from None
    if len(query.networks) != 1:
        raise VnnLibError(f"the property has {len(query.networks)} networks; expected one")
    (network,) = query.networks
    if network.hidden:
        raise VnnLibError("values inside of a network (declare-hidden) are not supported")
    places = {}
    inputs = placed(network.inputs, "X", places)
    outputs = placed(network.outputs, "Y", places)
    translator = Translator(places)
    asserted = [translator.formula(assertion.expr) for assertion in query.assertions]
    return inputs, outputs, translator.used, asserted


def reason(message: str) -> str:
    """Returns what the library says, in a line."""
    if not message.startswith("{"):
        return message
    first = json.loads(message)["errors"][0]
    return f"line {first['line']}: {first['message']}: {first['hint']}"


def placed(definitions: Any, letter: str, places: Places) -> int:
    """Notes where each array begins among all numbers, and returns how many those are."""
    count = 0
    for definition in definitions:
        if definition.onnx_name and len(definitions) > 1:
            raise VnnLibError(
                f"{definition.name}: arrays by their names in ONNX are not supported where there are several"
            )
        if definition.dtype.name not in NUMBERS:
            raise VnnLibError(
                f"{definition.name} has elements of {definition.dtype.name}; expected real or float"
            )
        places[definition.name] = letter, count, list(definition.shape)
        count += math.prod(definition.shape)
    return count


class Translator:
    """Turns formulas and terms into expressions of version 1.0, and notes the variables that they use."""

    def __init__(self, places: Places):
        self.places = places
        self.used: set[str] = set()

    def formula(self, node: Any) -> Expression:
        kind, line = type(node).__name__, line_of(node)
        if kind in CONNECTIVES:
            return made(line, CONNECTIVES[kind], *map(self.formula, node.args))
        left, right = self.term(node.lhs), self.term(node.rhs)
        if kind == "Equal":
            return made(line, "and", made(line, "<=", left, right), made(line, ">=", left, right))
        return made(line, COMPARISONS.get(kind, "!="), left, right)

    def term(self, node: Any) -> Expression | str:
        kind = type(node).__name__
        if kind in TERMS:
            return made(line_of(node), TERMS[kind], *map(self.term, node.children()))
        if kind != "Var":
            return node.lexeme
        letter, place, shape = self.places[node.name]
        flat = 0
        for index, size in zip(node.indices, shape, strict=True):
            flat = flat * size + index
        self.used.add(f"{letter}_{place + flat}")
        return f"{letter}_{place + flat}"


def made(line: int, *parts: Expression | str) -> Expression:
    found = Expression(line)
    found.extend(parts)
    return found


def line_of(node: Any) -> int:
    """Returns the line of the first variable or number."""
    while not hasattr(node, "line"):
        node = node.children()[0]
    return node.line
