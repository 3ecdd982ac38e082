"""Decides whether a function is positive for all inputs: `verify`."""

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
from jaxbound._decide import attack as attacks
from jaxbound._decide.boxes import BoxSpace
from jaxbound._decide.cells import Score, bound_root, gap_at_split, is_splittable, largest_gap
from jaxbound._decide.hidden import HiddenSpace
from jaxbound._decide.maxima import has_maxima, is_maximum, without_maxima
from jaxbound._decide.question import Question, Verdict, as_witness, in_double, in_float64, pose
from jaxbound._decide.search import Clock, Domain, search
from jaxbound._methods.published import ibp
from jaxbound._program.graph import Graph, Var
from jaxbound._program.trace import trace
from jaxbound._rules.linear_rules import linear_operands

# How walks descend that start anywhere in the regions, as many as POINTS by the number of clauses and inputs; and
# those that start where a sub-domain's bound is least.
FROM_ANYWHERE, POINTS = attacks.Descent(50, 0.15, 0.9), 1024
FROM_MINIMISERS = attacks.Descent(15, 0.03, 0.75)
FEW_INPUTS = 10  # up to so many uncertain inputs are split themselves, by default


def verify(
    fn,
    *args,
    any_axis: int | None = None,
    timeout: float = 60.0,
    batch: int | None = None,
    split: str = "auto",
    steps: int = 10,
    attack: bool = True,
    score: Score | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Verdict:
    """Decides whether ``fn(x) > 0`` in every element, for all x in the arguments' regions.

    An attack searches for a witness; intervals, `crown` and `alpha_crown` for a proof; what they leave is split
    into sub-domains until each is proved, one is refuted, or time is over. All of it is computed in float64,
    whatever the types of ``fn`` and its arguments: "verified" holds up to the rounding of float64, and a witness is
    checked by ``fn`` itself, as it is and in its own types.

    Args:
      fn: as for `crown`. Two calls with the same function object, shapes and options share their compiled programs:
        pass weights, labels and property rows as arguments, not in a closure.
      *args: pytrees. Every `Interval` and `LpBall` is uncertain, all else is known.
      any_axis: an axis of the (only) output: for every x, at least one element along it has to be positive.
      timeout: seconds, compilation included, after which the answer is "unknown". It is looked at between compiled
        programs, none of which is interrupted.
      batch: sub-domains at once; by default as many as suit the device and the function's size.
      split: "hidden" splits operands of non-linear functions of one variable, "input" the inputs' boxes; "auto"
        takes "input" for up to ten uncertain inputs, and where ``fn`` has other non-linear functions.
      steps: gradient steps for each sub-domain's lines and multipliers.
      attack: whether to search for witnesses by gradient descent too; without, only by the way.
      score: which operands to split first, a function of rows and gaps as `gap_at_split`; None: the best of several.
      progress: is called after each batch with a dict of "open", "proved", "worst" and "seconds".

    Returns:
      A `Verdict`. "unknown" also when interrupted by the keyboard.

    Raises:
      UnsupportedPrimitiveError: ``fn`` uses primitives without a rule.
      ValueError, TypeError: an argument or option is not valid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> fn = lambda x: jax.nn.relu(x[0] + x[1]) + jax.nn.relu(x[0] - x[1]) - x[0] + 0.01
      >>> box = jb.linf_ball(jnp.array([0.1, 0.0]), 1.0)
      >>> jb.crown(fn, box).lower.item() > 0, jb.verify(fn, box).status
      (False, 'verified')

    References: Bunel et al., arXiv 1909.06588; Wang et al., arXiv 2103.06624.
    """
    _check_options(timeout, batch, split, steps)
    clock = Clock(float(timeout))
    question, leaves = pose(fn, args, any_axis)
    with in_float64():
        run = _Run(question, leaves, clock, attack)
        try:
            done = run.cheaply() or run.by_splits(split, batch, steps, score, progress)
        except KeyboardInterrupt:
            done = run.verdict("unknown")
    return done


def _check_options(timeout, batch, split, steps) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; expected a number of seconds > 0")
    if batch is not None and not (isinstance(batch, int) and batch > 0):
        raise ValueError(f"batch is {batch!r}; expected a positive integer or None")
    if split not in ("auto", "hidden", "input"):
        raise ValueError(f"split is {split!r}; expected 'auto', 'hidden' or 'input'")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; expected an integer >= 0")


class _Run:
    """Holds the state of one call: what is proved so far, and by what."""

    def __init__(self, question: Question, leaves: list[Any], clock: Clock, attack: bool):
        self.question, self.written, self.clock, self.attack = question, leaves, clock, attack
        self.leaves = in_double(leaves)
        value = jax.eval_shape(lambda leaves: question.evaluate(_centres(leaves)), self.leaves)
        self.clauses, self.rows = value.shape
        self.lower = np.full(self.clauses, -np.inf)
        self.decided = np.full(self.clauses, "", dtype="<U11")
        self.nodes, self.open = 0, 0
        self.inputs = sum(math.prod(x.shape) for x in self.leaves if is_region(x))

    def verdict(self, status: str, witness=None) -> Verdict:
        shape = self._shape()
        return Verdict(
            status,
            witness,
            self.lower.reshape(shape),
            self.decided.reshape(shape),
            self.nodes,
            self.open,
            self.clock.seconds,
        )

    def _shape(self) -> tuple[int, ...]:
        """Returns the shape of the value without the axis of clauses' rows; flat where it is a tree of arrays."""
        value = jax.eval_shape(
            lambda leaves: self.question.same.fn(*self.question.args(_centres(leaves))), self.leaves
        )
        found = jax.tree.leaves(value)
        if len(found) > 1:
            return (self.clauses,)
        shape = list(found[0].shape)
        if self.question.any_axis is not None:
            del shape[self.question.any_axis]
        return tuple(shape)

    def cheaply(self) -> Verdict | None:
        """Attacks, and bounds the whole regions by intervals."""
        witness = self._attacked()
        if witness is not None:
            return self.verdict("falsified", witness)
        bounds = _intervals(self.question, self.leaves)
        self._raise_to(np.asarray(bounds).max(1), "ibp")
        return self.verdict("verified") if self.decided.all() else None

    def _raise_to(self, lower: np.ndarray, stage: str) -> None:
        """Notes lower bounds of clauses, and that this stage proved those that are positive now."""
        lower = np.where(np.isfinite(lower), lower, -np.inf)
        self.lower = np.maximum(self.lower, lower)
        self.decided[(self.decided == "") & (self.lower > 0)] = stage

    def _attacked(self):
        """Returns a witness from the middle of the regions, or from descents to every clause."""
        count = max(8, POINTS // self.clauses // max(1, self.inputs // 64)) if self.attack else 1
        starts = attacks.starts(count, self.leaves, 0)
        targets = np.arange(self.clauses)
        every = [np.repeat(np.asarray(x), self.clauses, 0) for x in starts]
        return self._descend(every, np.tile(targets, count), FROM_ANYWHERE)

    def _descend(self, points: Sequence[Any], targets: np.ndarray, descent: attacks.Descent):
        """Walks down from points towards clauses; returns a witness or None."""
        descent = descent if self.attack else descent._replace(steps=0)
        found, values = attacks.descend(self.question, descent, self.leaves, points, targets)
        values = np.asarray(values)
        for i in np.argsort(values)[:8]:
            if values[i] <= 0:
                witness = self._witness([np.asarray(x)[i] for x in found], int(targets[i]))
                if witness is not None:
                    return witness
        return None

    def _witness(self, points: Sequence[Any], clause: int | None = None):
        with jax.enable_x64(False) if self._is_single() else in_float64():
            found = as_witness(self.question, self.written, points)
        if found is not None and clause is not None:
            self.decided[clause] = "attack"
        return found

    def _is_single(self) -> bool:
        """Tells whether the call was written in float32: then `fn` is evaluated without float64."""
        return all(
            jnp.result_type(x) != jnp.float64
            for x in jax.tree.leaves(self.written)
            if jnp.ndim(x) >= 0
        )

    def refute(self, domains: Sequence[Domain]):
        """Looks for a witness at the worst points of sub-domains, and by short descents from them."""
        for domain in domains:
            if domain.value <= 0:
                witness = self._witness(domain.worst)
                if witness is not None:
                    return witness
        if not (self.attack and domains):
            return None
        size = 2 ** math.ceil(math.log2(len(domains)))
        chosen = list(domains) + [domains[0]] * (size - len(domains))
        points = [np.stack(each) for each in zip(*(d.worst for d in chosen), strict=True)]
        targets = np.array([int(np.argmin(np.where(d.open, d.lower, np.inf))) for d in chosen])
        return self._descend(points, targets, FROM_MINIMISERS)

    def by_splits(self, split, batch, steps, score, progress) -> Verdict:
        """Bounds the whole regions by linear bounds, and splits what they leave."""
        if self.clock.is_over:
            return self.verdict("unknown")
        graph = trace(self.question.clauses, *self.question.args(self.leaves))
        (out,) = graph.outputs
        if not (isinstance(out, Var) and out.uncertain):
            return self.verdict("unknown")
        inputs = _splits_inputs(graph, self.leaves, split)
        if inputs:
            space, roots = self._boxes(graph, batch)
        else:
            space, roots = self._hidden(self.question, batch, steps, score)
            if roots and has_maxima(graph):
                written = without_maxima(self.question, graph)
                space, roots = self._hidden(written, batch, steps, score)
        if not roots:
            return self.verdict("verified" if self.decided.all() else "unknown")
        witness = self.refute(roots)
        if witness is not None:
            return self.verdict("falsified", witness)
        tell = progress or (lambda report: None)
        roots = [domain for domain in roots if not domain.proved]
        if not roots:
            return self.verdict("verified")
        found = search(space, roots, self.refute, self.clock, tell)
        self.nodes, self.open = found.nodes, found.open
        closed = found.open == 0
        improved = np.where(np.isinf(found.lower) & (found.lower > 0), self.lower, found.lower)
        self._raise_to(improved, "branching")
        if closed and found.witness is None:
            self.decided[self.decided == ""] = "branching"
        status = "falsified" if found.witness is not None else "verified" if closed else "unknown"
        return self.verdict(status, found.witness)

    def _boxes(self, graph: Graph, batch: int | None):
        size = sum(var.size for eqn in graph.equations for var in eqn.outputs if eqn.moving)
        space = BoxSpace(self.question, self.leaves, batch or _lanes(size))
        regions = [leaf for leaf in self.leaves if is_region(leaf)]
        ends = np.stack(
            [
                np.concatenate([np.ravel(getattr(r, side)) for r in regions])
                for side in ("lower", "upper")
            ]
        )
        roots = space.bound([(ends, self.lower, self.decided == "")])
        self._raise_to(roots[0].lower, "crown")
        return space, roots

    def _hidden(self, question: Question, batch: int | None, steps: int, score: Score | None):
        root = jax.tree.map(np.asarray, bound_root(question, self.leaves))
        self._raise_to(root.lower.reshape(-1, self.rows).max(1), "crown")
        todo = np.flatnonzero(self.decided == "")
        scores = (gap_at_split, largest_gap) if score is None else (score,)
        cells = sum(x.lower.size for x in root.intermediates.values())
        lanes = batch or _lanes(cells * self.rows)
        space = HiddenSpace(
            question, self.leaves, root, self.rows, scores, steps, lanes, self.clauses
        )
        roots: list[Domain] = []
        for start in range(0, len(todo), lanes):
            if self.clock.is_over:
                break
            roots += space.bound([space.whole(int(c)) for c in todo[start : start + lanes]])
        for domain in roots:
            self._raise_to(np.where(np.isinf(domain.lower), -np.inf, domain.lower), "alpha_crown")
        return space, roots if len(roots) == len(todo) else []


@functools.partial(jax.jit, static_argnames=("question",))
def _intervals(question: Question, leaves):
    return ibp(question.clauses, *question.args(leaves)).lower


def _centres(leaves: Sequence[Any]) -> list[Any]:
    """Returns the leaves with zeros of their shape in place of regions."""
    return [jnp.zeros(x.shape, x.dtype) if is_region(x) else x for x in leaves]


def _splits_inputs(graph: Graph, leaves: Sequence[Any], split: str) -> bool:
    """Tells whether to split inputs; raises if that is asked for and cannot be done."""
    regions = [leaf for leaf in leaves if is_region(leaf)]
    boxes = all(isinstance(region, Interval) for region in regions)
    if split != "auto":
        if split == "input" and not boxes:
            raise ValueError("split is 'input', but a region is no box; expected jb.Interval only")
        return split == "input"
    if not boxes:
        return False
    uncertain = sum(int((np.asarray(r.lower) < np.asarray(r.upper)).sum()) for r in regions)
    nonlinear = [eqn for eqn in graph.equations if eqn.moving and linear_operands(eqn) is None]
    splittable = all(is_splittable(eqn) or is_maximum(eqn) for eqn in nonlinear)
    return uncertain <= FEW_INPUTS or not splittable


def _lanes(size: int) -> int:
    """Returns how many sub-domains of ``size`` elements suit the device: a power of two."""
    on_cpu = jax.default_backend() == "cpu"
    elements, most = (2**14, 64) if on_cpu else (2**24, 4096)
    return 2 ** int(math.log2(min(most, max(8, elements // max(1, size)))))
