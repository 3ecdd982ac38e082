"""Splits sub-domains at operands of non-linear functions: which, into what, and what becomes of their parameters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.regions import is_region
from jaxbound._decide.cells import Found, Lanes, Root, bound_cells
from jaxbound._decide.leaves import decide
from jaxbound._decide.question import Question
from jaxbound._decide.scores import Score
from jaxbound._decide.search import Clock, Domain
from jaxbound._decide.sharpen import inner_operands, sharpened
from jaxbound._decide.splits import Splits

FEW_VARIABLES = 1024  # up to so many inputs, linear programs take milliseconds


class HiddenSpace:
    """Represents splits of hidden values; see `Space`."""

    floor = np.inf

    def __init__(
        self,
        question: Question,
        leaves: Sequence[Any],
        root: Root,
        clauses: int,
        scores: tuple[Score, ...],
        steps: int,
        lanes: int,
    ):
        self.question, self.leaves, self.root = question, leaves, root
        self.scores, self.steps, self.lanes = scores, steps, lanes
        self.inner = inner_operands(question, leaves)
        self.size = sum(x.lower.size for x in root.intermediates.values())
        self.clauses, self.rows = clauses, len(root.lower) // clauses
        self.solves = (
            sum(leaf.box.lower.size for leaf in leaves if is_region(leaf)) <= FEW_VARIABLES
        )

    def whole(self, clause: int) -> Splits:
        """Returns the whole regions, for one clause."""
        here = slice(clause * self.rows, (clause + 1) * self.rows)
        nothing = np.zeros(0)
        lower = float(np.asarray(self.root.lower[here]).max())
        alphas = np.asarray(self.root.alphas[here], np.float16)
        return Splits(
            clause,
            nothing.astype(np.int32),
            nothing.astype(np.int8),
            nothing,
            alphas,
            np.zeros((self.rows, 0), np.float32),
            lower,
        )

    def sharpen(self, clock: Clock) -> None:
        """Bounds inner operands over the whole regions once more, until time is over."""
        known = sharpened(self.question, self.inner, self.leaves, self.root.intermediates, clock)
        self.root = self.root._replace(intermediates=known)

    def bound(self, children: Sequence[Splits]) -> list[Domain]:
        """Bounds sub-domains by lines and multipliers, the one that is lowest then also by a linear program.

        That sees all constraints at once: it may prove what the steps did not, or meet a witness in a small part.
        """
        run = self._run(children)
        found = [self._domain(child, run, i) for i, child in enumerate(children)]
        lowest = min(range(len(found)), key=lambda i: found[i].lower.min())
        if self.solves and not found[lowest].proved:
            found[lowest] = self.decide(found[lowest])
        return found

    def _run(self, children: Sequence[Splits]) -> Found:
        """Bounds any number of sub-domains, `lanes` at once; the last run is filled up by repeating one."""
        parts = []
        for start in range(0, len(children), self.lanes):
            part = list(children[start : start + self.lanes])
            part += part[-1:] * (self.lanes - len(part))
            lanes = self.lanes_of(part)
            found = bound_cells(
                self.question, self.steps, self.scores, self.leaves, self.root.intermediates, lanes
            )
            parts.append(jax.tree.map(np.asarray, found))
        return jax.tree.map(lambda *each: np.concatenate(each)[: len(children)], *parts)

    def lanes_of(self, part: Sequence[Splits]) -> Lanes:
        """Writes sub-domains out as arrays over all cells."""
        shape = (len(part), self.size)
        lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
        betas = np.zeros((len(part), self.rows, 2, self.size))
        for i, child in enumerate(part):
            above = child.sides > 0
            np.maximum.at(lower[i], child.cells[above], child.at[above])
            np.minimum.at(upper[i], child.cells[~above], child.at[~above])
            side = np.where(above, 0, 1)
            for row in range(self.rows):
                np.add.at(betas[i, row], (side, child.cells), child.betas[row])
        alphas = np.stack([child.alphas for child in part]).astype(float)
        clause = np.array([child.clause for child in part])
        return Lanes(*map(jnp.asarray, (clause, lower, upper, alphas, betas)))

    def _domain(self, child: Splits, found: Found, i: int) -> Domain:
        """Returns what was found of one sub-domain; its parent's bound holds in it too."""
        highest = np.where(np.isfinite(found.lower[i]), found.lower[i], -np.inf).max()
        lower = np.full(self.clauses, np.inf)
        lower[child.clause] = max(highest, child.lower)
        side = np.where(child.sides > 0, 0, 1)
        betas = found.betas[i][:, side, child.cells]
        _, first = np.unique(np.stack([side, child.cells]), axis=1, return_index=True)
        kept = np.zeros(len(side), bool)
        kept[first] = True  # of repeated splits, one holds the multiplier
        data = child._replace(
            alphas=found.alphas[i].astype(np.float16),
            betas=np.where(kept, betas, 0).astype(np.float32),
            lower=lower[child.clause],
            candidates=(found.cells[i], found.points[i]),
        )
        worst = [point[i] for point in found.minimisers]
        return Domain(lower, ~(lower > 0), worst, float(found.values[i]), data)

    def can_split(self, domain: Domain) -> bool:
        return bool((domain.data.candidates[0] >= 0).any())

    def decide(self, domain: Domain) -> Domain:
        lane = jax.tree.map(lambda x: x[0], self.lanes_of([domain.data]))
        return decide(self.question, self.leaves, self.root.intermediates, lane, domain)

    def children(self, domains: Sequence[Domain], count: int) -> list[Splits]:
        """Splits every sub-domain at its best cell; few sub-domains at several cells at once."""
        depth = max(1, int(np.log2(max(2, count / len(domains)))))
        found = []
        for domain in domains:
            choice = domain.data.best(depth)
            for sides in itertools.product((1, -1), repeat=len(choice)):
                found.append(domain.data.split(choice, sides))
        return found
