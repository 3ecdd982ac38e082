"""Looks for witnesses: by descents from anywhere, and from where the bounds of sub-domains are least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.regions import is_region
from jaxbound._decide.attack import Descent, descend, starts
from jaxbound._decide.question import Question, Witness, as_witness, in_float64
from jaxbound._decide.search import Clock, Domain

# How walks descend that start anywhere in the regions, as many as POINTS by the number of clauses and inputs; and
# those that start where a sub-domain's bound is least.
FROM_ANYWHERE, POINTS = Descent(50, 0.15, 0.9), 1024
FROM_MINIMISERS = Descent(15, 0.03, 0.75)
AT_ONCE = Descent(0, 0.0, 0.0)  # looks at the starts alone


class Refuter:
    """Represents the search for a witness, which is evaluated by the function as the user wrote it."""

    def __init__(
        self, question: Question, written: Sequence[Any], leaves: Sequence[Any], attack: bool
    ):
        self.question, self.written, self.leaves, self.attack = question, written, leaves, attack
        self.inputs = sum(math.prod(leaf.shape) for leaf in leaves if is_region(leaf))

    def anywhere(self, open: np.ndarray, seed: int = 0) -> Witness | None:
        """Returns a witness by descents to every open clause; without an attack, looks at the middle of the regions."""
        clauses = len(open)
        count = max(8, POINTS // clauses // max(1, self.inputs // 64)) if self.attack else 1
        every = [np.repeat(np.asarray(x), clauses, 0) for x in starts(count, self.leaves, seed)]
        targets = np.resize(np.flatnonzero(open), count * clauses)
        return self._descend(every, targets, FROM_ANYWHERE if self.attack else AT_ONCE)

    def again(self, open: np.ndarray, clock: Clock) -> Witness | None:
        """Returns a witness by descents to open clauses from ever other points, until time is over."""
        seeds, witness = itertools.count(1), None
        while witness is None and self.attack and not clock.is_over:
            witness = self.anywhere(open, next(seeds))
        return witness

    def near(self, domains: Sequence[Domain]) -> Witness | None:
        """Returns a witness at the worst points of sub-domains, or by short descents from them."""
        for domain in domains:
            witness = self._checked(domain.worst) if domain.value <= 0 else None
            if witness is not None:
                return witness
        if not (self.attack and domains):
            return None
        size = 2 ** math.ceil(math.log2(len(domains)))
        chosen = [*domains, *[domains[0]] * (size - len(domains))]
        points = [np.stack(each) for each in zip(*(d.worst for d in chosen), strict=True)]
        targets = np.array([int(np.argmin(np.where(d.open, d.lower, np.inf))) for d in chosen])
        return self._descend(points, targets, FROM_MINIMISERS)

    def _descend(
        self, points: Sequence[Any], targets: np.ndarray, descent: Descent
    ) -> Witness | None:
        try:
            found, values = descend(self.question, descent, self.leaves, points, targets)
        except NotImplementedError:  # JAX has no derivative of the function
            self.attack = False
            found, values = descend(self.question, AT_ONCE, self.leaves, points, targets)
        values = np.asarray(values)
        for i in np.argsort(values)[:8]:
            witness = self._checked([np.asarray(x)[i] for x in found]) if values[i] <= 0 else None
            if witness is not None:
                return witness
        return None

    def _checked(self, points: Sequence[Any]) -> Witness | None:
        """Returns a witness near the points; without float64, if the call was written without it."""
        types = [jnp.result_type(x) for x in jax.tree.leaves(self.written)]
        with in_float64() if jnp.float64 in types else jax.enable_x64(False):
            return as_witness(self.question, self.written, points)
