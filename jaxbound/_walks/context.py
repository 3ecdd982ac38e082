"""Defines what is known when a value is bounded: the call's options, and the bounds of all values before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.regions import Region
from jaxbound._program.graph import Graph, Var
from jaxbound._rules.relaxing import Choices, Lines, relax_all
from jaxbound._walks.backward import Step, unchanged
from jaxbound._walks.chunks import rows_at_once
from jaxbound._walks.columns import Forward


@dataclasses.dataclass(frozen=True)
class Context:
    """Holds what bounds of a value follow from. Nothing in it changes: each value has a context of its own.

    Attributes:
      graph: the traced function.
      regions: of its uncertain inputs.
      env: the intervals and known arrays of all variables before the value, and of itself.
      lines: the relaxations of the equations before the value.
      choices: which lines relaxations take.
      forward: gives forward linear bounds, of which it keeps what later values need again.
      examples: how many of the batch run side by side.
      chunk_size: rows at once; None: by their size.
      capacity: gives how many elements of an operand walk back; None: all.
      early: whether rows are concretized at the known intervals on their way too.
      published: whether bounds found by linear bounds replace the intervals.
      constraints: intervals in which bounds may take values to lie; each finite end can have a multiplier.
      rounding: what bounds hold for; None: up to rounding.
      step: what happens to rows on their way back, besides going through equations.
    """

    graph: Graph
    regions: Mapping[Var, Region]
    env: Mapping[Var, Any]
    lines: Lines
    choices: Choices
    forward: Forward
    examples: int = 1
    chunk_size: int | None = None
    capacity: Callable[[Var], int | None] = lambda var: None
    early: bool = False
    published: bool = False
    constraints: Mapping[Var, Interval] = dataclasses.field(default_factory=dict)
    rounding: str | None = None
    step: Step = unchanged

    def losses(self) -> list[Any] | None:
        """Returns where to note what a walk loses to rounding; None if it is not asked."""
        return None if self.rounding is None else []

    def rows_at_once(self, graph: Graph) -> int:
        return self.chunk_size or rows_at_once(graph, self.examples)

    def choosing(self, choices: Choices, var: Var) -> Context:
        """Returns the context with other lines before ``var``."""
        lines = relax_all(self.graph.before(var), self.env, choices)
        return dataclasses.replace(self, choices=choices, lines=lines)
