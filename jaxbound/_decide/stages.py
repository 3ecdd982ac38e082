"""Runs the stages of a decision in the order of their cost, and notes what each has proved."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.regions import is_region
from jaxbound._decide.boxes import BoxSpace
from jaxbound._decide.cells import bound_root
from jaxbound._decide.hidden import HiddenSpace
from jaxbound._decide.maxima import has_maxima, is_maximum, without_maxima
from jaxbound._decide.question import Question, Verdict, Witness
from jaxbound._decide.refute import Refuter
from jaxbound._decide.scores import Score, gap_at_split, is_splittable, largest_gap
from jaxbound._decide.search import Clock, Domain, Outcome, Space, search
from jaxbound._methods.published import ibp
from jaxbound._program.graph import Graph, Var
from jaxbound._program.trace import trace
from jaxbound._rules.errors import check_supported
from jaxbound._rules.linear_rules import linear_operands

# Shares of the time that is left: of a first search, of more attacks then, and of tightening what is known of the
# whole regions.
FIRST, ATTACKING, SHARPENING = 0.1, 0.03, 0.3
FEW_INPUTS = 16  # up to so many uncertain inputs are split themselves, by default


class Stages:
    """Represents one call: what is proved so far, and by what."""

    def __init__(self, question: Question, leaves: list[Any], clock: Clock, refuter: Refuter):
        self.question, self.leaves, self.clock, self.refuter = question, leaves, clock, refuter
        points = [jnp.zeros(x.shape, x.dtype) if is_region(x) else x for x in leaves]
        self.clauses, self.rows = jax.eval_shape(question.evaluate, points).shape
        self.shape = question.shape(points)
        self.lower = np.full(self.clauses, -np.inf)
        self.decided = np.full(self.clauses, "", dtype="<U11")
        self.nodes, self.open = 0, 0

    def verdict(self, status: str, witness: Witness | None = None, stage: str = "") -> Verdict:
        if witness is not None:
            self.decided[witness.broken] = stage
        lower, decided = (x.reshape(self.shape) for x in (self.lower, self.decided))
        args = None if witness is None else witness.args
        return Verdict(status, args, lower, decided, self.nodes, self.open, self.clock.seconds)

    def raise_to(self, lower: np.ndarray, stage: str) -> None:
        """Notes lower bounds of clauses, and that this stage proved those that are positive now."""
        self.lower = np.maximum(self.lower, np.where(np.isfinite(lower), lower, -np.inf))
        self.decided[(self.decided == "") & (self.lower > 0)] = stage

    def run(self, split: str, batch: int | None, steps: int, score: Score | None, tell) -> Verdict:
        """Bounds the whole regions by intervals, attacks, bounds them by lines, and splits what is left."""
        graph = trace(self.question.clauses, *self.question.args(self.leaves))
        check_supported(graph)
        splits_inputs = self._splits_inputs(graph, split)
        self.raise_to(np.asarray(_intervals(self.question, self.leaves)).max(1), "ibp")
        if self.decided.all():
            return self.verdict("verified")
        witness = self.refuter.anywhere(self.decided == "")
        if witness is not None:
            return self.verdict("falsified", witness, "attack")
        (out,) = graph.outputs
        if self.clock.is_over or not (isinstance(out, Var) and out.uncertain):
            return self.verdict("unknown")
        if splits_inputs:
            space, roots = self._boxes(graph, batch)
        else:
            space = self._hidden(self.question, batch, steps, score)
            roots = self._roots(space)
            if roots and has_maxima(graph) and not self.clock.is_over:
                space = self._hidden(without_maxima(self.question, graph), batch, steps, score)
                roots = self._roots(space)
        return self._search(space, roots, tell)

    def _search(self, space: Space, roots: list[Domain], tell: Callable[[Any], None]) -> Verdict:
        """Searches from the roots, one for every open clause or one for all; none if time is over."""
        left = [domain for domain in roots if not domain.proved]
        witness = self.refuter.near(left)
        if witness is not None:
            return self.verdict("falsified", witness, "attack")
        if not left:
            return self.verdict("verified" if roots or self.decided.all() else "unknown")
        if isinstance(space, HiddenSpace) and space.inner:
            return self._search_twice(space, left, tell)
        return self._told(self._split(space, left, self.clock, tell))

    def _search_twice(self, space: HiddenSpace, roots: list[Domain], tell) -> Verdict:
        """Searches, and where that does not end soon, tightens what is known of the whole regions and starts anew.

        Most questions need few splits, and are answered sooner without.
        """
        found = self._split(space, roots, self.clock.part(FIRST), tell)
        if found.status != "unknown" or self.clock.is_over:
            return self._told(found)
        witness = self.refuter.again(self.decided == "", self.clock.part(ATTACKING))
        if witness is not None:
            return self.verdict("falsified", witness, "attack")
        space.sharpen(self.clock.part(SHARPENING))
        left = [domain for domain in self._roots(space) if not domain.proved]
        if self.decided.all():
            self.open = 0
            return self.verdict("verified")
        return self._told(self._split(space, left, self.clock, tell) if left else found)

    def _told(self, found: Outcome) -> Verdict:
        status = "unknown" if found.status == "interrupted" else found.status
        return self.verdict(status, found.witness, "branching")

    def _split(self, space: Space, roots: list[Domain], clock: Clock, tell) -> Outcome:
        """Searches from the roots, and notes what it proved."""
        found = search(space, roots, self.refuter.near, clock, tell)
        self.nodes, self.open = self.nodes + found.nodes, found.open
        self.raise_to(found.lower, "branching")
        if found.status == "verified":
            self.decided[self.decided == ""] = "branching"
        return found

    def _splits_inputs(self, graph: Graph, split: str) -> bool:
        """Tells whether to split inputs; raises if that is asked for and cannot be done."""
        regions = [leaf for leaf in self.leaves if is_region(leaf)]
        boxes = all(isinstance(region, Interval) for region in regions)
        if split == "input" and not boxes:
            raise ValueError("split is 'input', but a region is no box; expected jb.Interval only")
        if split != "auto" or not boxes:
            return split == "input"
        uncertain = sum(int((np.asarray(r.lower) < np.asarray(r.upper)).sum()) for r in regions)
        nonlinear = [eqn for eqn in graph.equations if eqn.moving and linear_operands(eqn) is None]
        splittable = all(is_splittable(eqn) or is_maximum(eqn) for eqn in nonlinear)
        return uncertain <= FEW_INPUTS or not splittable

    def _boxes(self, graph: Graph, batch: int | None) -> tuple[Space, list[Domain]]:
        size = sum(var.size for eqn in graph.equations for var in eqn.outputs if eqn.moving)
        space = BoxSpace(self.question, self.leaves, batch or _lanes(size))
        roots = space.bound([space.whole(self.lower, self.decided == "")])
        self.raise_to(roots[0].lower, "crown")
        return space, roots

    def _hidden(self, question: Question, batch: int | None, steps: int, score: Score | None):
        root = jax.tree.map(np.asarray, bound_root(question, self.leaves))
        self.raise_to(root.lower.reshape(-1, self.rows).max(1), "crown")
        scores = (gap_at_split, largest_gap) if score is None else (score,)
        lanes = batch or _lanes(self.rows * sum(x.lower.size for x in root.intermediates.values()))
        return HiddenSpace(question, self.leaves, root, self.clauses, scores, steps, lanes)

    def _roots(self, space: HiddenSpace) -> list[Domain]:
        """Returns the whole regions for every open clause, bounded; none if time is over."""
        todo, roots = np.flatnonzero(self.decided == ""), []
        for start in range(0, len(todo), space.lanes):
            if self.clock.is_over:
                return []
            roots += space.bound([space.whole(int(c)) for c in todo[start : start + space.lanes]])
        for domain in roots:
            self.raise_to(domain.lower, "alpha_crown")
        return roots


@functools.partial(jax.jit, static_argnames=("question",))
def _intervals(question: Question, leaves: Sequence[Any]):
    return ibp(question.clauses, *question.args(leaves)).lower


def _lanes(size: int) -> int:
    """Returns how many sub-domains of ``size`` elements suit the device: a power of two."""
    on_cpu = jax.default_backend() == "cpu"
    elements, most = (2**14, 64) if on_cpu else (2**24, 4096)
    return 2 ** int(math.log2(min(most, max(8, elements // max(1, size)))))
