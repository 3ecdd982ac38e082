"""Searches through sub-domains until all are proved, one is refuted, or time is over."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Domain(NamedTuple):
    """Holds one sub-domain.

    Attributes:
      lower: lower bounds of all clauses in it; inf for clauses that it says nothing of ``[clauses]``.
      open: which clauses are not proved in it ``[clauses]``.
      worst: a point of each region where the bound is least.
      value: of the function there, of the lowest clause; <= 0 refutes.
      data: what its kind of sub-domain is made of.
    """

    lower: np.ndarray
    open: np.ndarray
    worst: Sequence[Any]
    value: float
    data: Any

    @property
    def proved(self) -> bool:
        return not self.open.any()

    @property
    def priority(self) -> float:
        return float(self.lower.min())


class Space(Protocol):
    """Represents a way to split: it makes children, bounds them, and decides those that cannot be split."""

    lanes: int

    def children(self, domains: Sequence[Domain], count: int) -> list[Any]:
        """Returns at most ``count`` sub-domains that together make up the given ones, not bounded yet."""
        ...

    def bound(self, children: Sequence[Any]) -> list[Domain]:
        """Bounds sub-domains, at most ``lanes``."""
        ...

    def can_split(self, domain: Domain) -> bool: ...

    def decide(self, domain: Domain) -> Domain:
        """Decides a sub-domain that cannot be split, where it can: by a higher bound, or by a worse point."""
        ...


class Clock:
    """Measures the seconds that are left."""

    def __init__(self, timeout: float):
        self.start, self.timeout = time.monotonic(), timeout

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def is_over(self) -> bool:
        return self.seconds >= self.timeout


class Outcome(NamedTuple):
    """Holds how a search ended.

    Attributes:
      witness: arguments that refute, or None.
      lower: the least lower bound of every clause in all sub-domains, open or closed.
      nodes: how many sub-domains were bounded.
      open: how many were left.
    """

    witness: tuple[Any, ...] | None
    lower: np.ndarray
    nodes: int
    open: int


MOST_OPEN = 2**20  # sub-domains that wait; beyond, the search ends: memory is bounded


def search(
    space: Space,
    roots: Sequence[Domain],
    refute: Callable[[Sequence[Domain]], tuple[Any, ...] | None],
    clock: Clock,
    tell: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Splits the worst sub-domains, many at once, until none is open.

    Args:
      space: how they are split and bounded.
      roots: sub-domains that make up the regions.
      refute: looks for a witness near the worst points of sub-domains.
      clock: says when to stop.
      tell: is told of the progress.
    """
    order, heap = itertools.count(), []
    floor = np.full(len(roots[0].lower), np.inf)
    nodes, proved, stuck = len(roots), 0, []
    for domain in roots:
        heapq.heappush(heap, (domain.priority, next(order), domain))

    def outcome(witness=None) -> Outcome:
        waiting = [entry[2] for entry in heap] + stuck
        lower = np.minimum.reduce([floor, *(domain.lower for domain in waiting)])
        return Outcome(witness, lower, nodes, len(waiting))

    batch: list[Domain] = []
    try:
        while heap and not clock.is_over and len(heap) < MOST_OPEN:
            taken = min(len(heap), max(1, space.lanes // 2))
            batch = [heapq.heappop(heap)[2] for _ in range(taken)]
            found = space.bound(space.children(batch, space.lanes))
            batch, nodes = [], nodes + len(found)
            left = [domain for domain in found if not domain.proved]
            closed = [domain for domain in found if domain.proved]
            witness = refute(left)
            if witness is not None:
                return outcome(witness)
            for domain in left:
                if space.can_split(domain):
                    heapq.heappush(heap, (domain.priority, next(order), domain))
                    continue
                done = space.decide(domain)
                witness = None if done.proved else refute([done])
                if witness is not None:
                    return outcome(witness)
                (closed if done.proved else stuck).append(done)
            for domain in closed:
                floor = np.minimum(floor, domain.lower)
            proved += len(closed)
            worst = heap[0][0] if heap else 0.0
            tell(
                {
                    "open": len(heap) + len(stuck),
                    "proved": proved,
                    "worst": worst,
                    "seconds": clock.seconds,
                }
            )
    except KeyboardInterrupt:
        pass
    for domain in batch:  # was being split when the search was interrupted
        heapq.heappush(heap, (domain.priority, next(order), domain))
    return outcome()
