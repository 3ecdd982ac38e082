"""Searches through sub-domains until all are proved, one is refuted, or time is over."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
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


class Space(Protocol):
    """Represents a way to split: it makes children, bounds them, and decides those that cannot be split.

    Attributes:
      lanes: how many sub-domains it bounds at once.
      floor: a lower bound of all clauses where no sub-domain is.
    """

    lanes: int
    floor: float

    def children(self, domains: Sequence[Domain], count: int) -> list[Any]:
        """Returns at most ``count`` sub-domains that together make up the given ones, not bounded yet."""
        ...

    def bound(self, children: Sequence[Any]) -> list[Domain]:
        """Bounds at most ``lanes`` sub-domains."""
        ...

    def can_split(self, domain: Domain) -> bool:
        """Tells whether a sub-domain has children."""
        ...

    def decide(self, domain: Domain) -> Domain:
        """Decides a sub-domain that cannot be split, where it can: by a higher bound, or by a worse point."""
        ...


class Clock:
    """Measures the seconds since a start, of which there are ``timeout``."""

    def __init__(self, timeout: float, start: float | None = None):
        self.start, self.timeout = time.monotonic() if start is None else start, timeout

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def is_over(self) -> bool:
        return self.seconds >= self.timeout

    def part(self, share: float) -> Clock:
        """Returns a clock that is over when this share of what is left is."""
        now = self.seconds
        return Clock(now + share * max(0.0, self.timeout - now), self.start)


class Outcome(NamedTuple):
    """Holds how a search ended.

    Attributes:
      status: "verified", "falsified", "unknown", or "interrupted" by the keyboard.
      witness: of a falsified function.
      lower: the least lower bound of every clause in all sub-domains, open or closed.
      nodes: how many sub-domains were bounded.
      open: how many were left.
    """

    status: str
    witness: Any
    lower: np.ndarray
    nodes: int
    open: int


MOST_BYTES = 2**32  # of sub-domains that wait; beyond, the search ends: memory is bounded


class Frontier:
    """Holds the sub-domains that wait, the worst first, and what is known of those that are done."""

    def __init__(self, roots: Sequence[Domain], floor: float):
        self._order, self._heap = itertools.count(), []
        self.stuck: list[Domain] = []  # open, but neither split nor decided
        self.floor = np.full(len(roots[0].lower), floor)
        self.nodes, self.proved = len(roots), 0
        self.most = MOST_BYTES // max(
            1, sum(x.nbytes for x in jax.tree.leaves(roots[0].data) if hasattr(x, "nbytes"))
        )
        self.push(*roots)

    def push(self, *domains: Domain) -> None:
        for domain in domains:
            heapq.heappush(self._heap, (float(domain.lower.min()), next(self._order), domain))

    def pop(self, count: int) -> list[Domain]:
        return [heapq.heappop(self._heap)[2] for _ in range(min(count, len(self._heap)))]

    def close(self, domain: Domain) -> None:
        self.floor, self.proved = np.minimum(self.floor, domain.lower), self.proved + 1

    def __len__(self) -> int:
        return len(self._heap)

    def outcome(self, status: str, witness=None) -> Outcome:
        waiting = [entry[2] for entry in self._heap] + self.stuck
        lower = np.minimum.reduce([self.floor, *(domain.lower for domain in waiting)])
        return Outcome(status, witness, lower, self.nodes, len(waiting))

    def report(self, seconds: float) -> dict[str, Any]:
        worst = self._heap[0][0] if self._heap else float(self.floor.min())
        return {
            "open": len(self) + len(self.stuck),
            "proved": self.proved,
            "worst": worst,
            "seconds": seconds,
        }


def search(
    space: Space,
    roots: Sequence[Domain],
    refute: Callable[[Sequence[Domain]], Any],
    clock: Clock,
    tell: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Splits the worst sub-domains, many at once, until none is open.

    A batch that is being split when the search ends counts as open: its children may not all be in their place.

    Args:
      space: how they are split and bounded.
      roots: sub-domains that make up the regions.
      refute: looks for a witness near the worst points of sub-domains.
      clock: says when to stop.
      tell: is told of the progress.
    """
    frontier, batch = Frontier(roots, space.floor), []
    try:
        while len(frontier) and not clock.is_over and len(frontier) < frontier.most:
            batch = frontier.pop(max(1, space.lanes // 2))
            found = space.bound(space.children(batch, space.lanes))
            frontier.nodes += len(found)
            witness = _place(frontier, space, found, refute)
            if witness is not None:
                frontier.push(*batch)
                return frontier.outcome("falsified", witness)
            batch = []
            tell(frontier.report(clock.seconds))
        return frontier.outcome("unknown" if len(frontier) or frontier.stuck else "verified")
    except KeyboardInterrupt:
        frontier.push(*batch)
        return frontier.outcome("interrupted")


def _place(frontier: Frontier, space: Space, found: Sequence[Domain], refute):
    """Puts sub-domains where they belong: closed, to be split, or stuck; returns a witness, if one is met."""
    left = [domain for domain in found if not domain.proved]
    witness = refute(left)
    if witness is not None:
        return witness
    for domain in found:
        if domain.proved:
            frontier.close(domain)
        elif space.can_split(domain):
            frontier.push(domain)
        else:
            done = space.decide(domain)
            if done.proved:
                frontier.close(done)
                continue
            frontier.stuck.append(done)
            witness = refute([done])
            if witness is not None:
                return witness
    return None
