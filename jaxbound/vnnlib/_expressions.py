"""Reads S-expressions."""

from __future__ import annotations

import re

DEEPEST = 100  # brackets within brackets

TOKEN = re.compile(r"[()]|[^\s()]+")


class VnnLibError(ValueError):
    """Tells what is wrong with a property, and in which line."""


class Expression(list):
    """Holds what stands between two brackets, and the line of the first."""

    def __init__(self, line: int):
        super().__init__()
        self.line = line

    @property
    def head(self) -> str:
        return self[0] if self and isinstance(self[0], str) else ""

    def fails(self, reason: str) -> VnnLibError:
        return VnnLibError(f"line {self.line}: {reason}")


def expressions(text: str):
    """Yields the outermost expressions of a text."""
    open_ones: list[Expression] = []
    for line, content in enumerate(text.splitlines(), 1):
        for token in TOKEN.findall(content.partition(";")[0]):
            if token == "(":
                open_ones.append(Expression(line))
                if len(open_ones) > DEEPEST:
                    raise VnnLibError(f"line {line}: more than {DEEPEST} brackets within brackets")
            elif not open_ones:
                raise VnnLibError(f"line {line}: {token[:40]!r} outside of all brackets")
            elif token == ")":
                closed = open_ones.pop()
                if not open_ones:
                    yield closed
                else:
                    open_ones[-1].append(closed)
            else:
                open_ones[-1].append(token)
    if open_ones:
        raise open_ones[0].fails("this bracket is never closed")
