"""Represents a question (is ``fn(x) > 0`` in every clause, for all x of the regions?) and its answer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxbound._bounds.balls import LpBall
from jaxbound._bounds.interval import Interval
from jaxbound._bounds.regions import arrays_of, is_region
from jaxbound._methods.prepare import leaves_of, precision


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Holds what `verify` found.

    Attributes:
      status: "verified", "falsified" or "unknown".
      witness: of a falsified function, its arguments with a NumPy array of the region in place of every region, at
        which it is not positive; else None.
      lower: a proved lower bound of every element of its value (with ``any_axis``, of the greatest along it). 0 where
        parts of the inputs were cut off of which only "positive" is known: ``status`` and ``decided`` say what is
        proved.
      decided: which stage proved or refuted each of these elements: "ibp", "crown", "alpha_crown", "branching",
        "attack", or "" where it is open.
      nodes: how many sub-domains were bounded.
      open: how many of them were left undecided.
      seconds: from the call to the verdict, compilation included.
    """

    status: str
    witness: tuple[Any, ...] | None
    lower: np.ndarray
    decided: np.ndarray
    nodes: int
    open: int
    seconds: float


ARRAY = object()  # stands for an array among options


class Witness(NamedTuple):
    """Holds arguments at which a function is not positive, and the clauses that do not hold there."""

    args: tuple[Any, ...]
    broken: Any


class Same:
    """Represents a function that may not be hashable: equal to itself, and to equal functions."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        try:
            self.hash = hash(fn)
        except TypeError:
            self.hash = id(fn)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other) -> bool:
        return isinstance(other, Same) and (
            self.fn is other.fn or (self.hash != id(self.fn) and self.fn == other.fn)
        )


@dataclasses.dataclass(frozen=True)
class Question:
    """Represents the static part of a question, the key under which programs are compiled.

    Attributes:
      same: holds the function.
      tree: of its arguments.
      options: the leaves that are not arrays, `ARRAY` in place of those that are.
      any_axis: the axis of the value along which one element has to be positive; None: every element has to be.
    """

    same: Same
    tree: Any
    options: tuple[Any, ...]
    any_axis: int | None

    def args(self, arrays: Sequence[Any]) -> Any:
        """Returns the arguments, with ``arrays`` in the place of regions and arrays."""
        found = iter(arrays)
        leaves = [next(found) if option is ARRAY else option for option in self.options]
        return jax.tree.unflatten(self.tree, leaves)

    def clauses(self, *args) -> Any:
        """Returns the value ``[clauses, rows]``: in every clause, one row has to be positive."""
        value = self.same.fn(*args)
        if self.any_axis is None:
            flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves(value)]
            return (flat[0] if len(flat) == 1 else jnp.concatenate(flat))[:, None]
        last = jnp.moveaxis(value, self.any_axis, -1)
        return last.reshape(-1, last.shape[-1])

    def shape(self, arrays: Sequence[Any]) -> tuple[int, ...]:
        """Returns the shape of the clauses in the value; of a value that is a tree of arrays, flat."""
        value = jax.eval_shape(lambda xs: self.same.fn(*self.args(xs)), list(arrays))
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(value)]
        if len(shapes) > 1:
            return (-1,)
        if self.any_axis is not None:
            del shapes[0][self.any_axis]
        return tuple(shapes[0])

    def evaluate(self, arrays: Sequence[Any]) -> Any:
        """Returns the clauses at the points that ``arrays`` has in place of regions."""
        return self.clauses(*self.args(arrays))


def pose(fn: Callable[..., Any], args: tuple[Any, ...], any_axis: int | None):
    """Returns the question and its leaves; raises where one is not valid."""
    arrays, restore = arrays_of(args)
    options, tree = jax.tree.flatten(restore([ARRAY] * len(arrays)))
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(arrays)):
        raise ValueError("jb.verify searches outside of JAX: call it without jax.jit and jax.vmap")
    for path, leaf in jax.tree_util.tree_leaves_with_path(args, is_leaf=is_region):
        if is_region(leaf):
            leaf.check("args" + jax.tree_util.keystr(path))
            if not isinstance(leaf, Interval | LpBall):
                name = "args" + jax.tree_util.keystr(path)
                kind = type(leaf).__name__
                raise TypeError(f"{name} is a {kind}; expected a jb.Interval or a jb.LpBall")
    found = leaves_of(args)
    if all(
        (np.asarray(x.box.lower) == np.asarray(x.box.upper)).all() for x in found if is_region(x)
    ):
        raise ValueError(
            "the regions have no volume: all of their elements have lower == upper; evaluate the function there"
        )
    question = Question(Same(fn), tree, tuple(options), any_axis)
    _check_value(question, found)
    return question, found


def _check_value(question: Question, leaves: list[Any]) -> None:
    """Raises unless the value is of floats, and has the axis along which one element has to be positive."""
    points = [
        jax.ShapeDtypeStruct(x.shape, x.dtype)
        if is_region(x)
        else jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
        for x in leaves
    ]
    value = jax.eval_shape(lambda *xs: question.same.fn(*question.args(xs)), *points)
    shapes = jax.tree.leaves(value)
    for leaf in shapes:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"the function returns {leaf.dtype}; expected floating-point values, positive where it holds"
            )
    if not sum(leaf.size for leaf in shapes):
        raise ValueError("the function returns no elements; there is nothing to decide")
    axis = question.any_axis
    if axis is None:
        return
    if (
        len(shapes) != 1
        or not isinstance(axis, int)
        or not -shapes[0].ndim <= axis < shapes[0].ndim
    ):
        found = [leaf.shape for leaf in shapes]
        raise ValueError(
            f"any_axis is {axis!r} for values of shapes {found}; expected an axis of one array"
        )


@contextlib.contextmanager
def in_float64():
    """Computes in float64, with exact products: what is proved does not hang on rounding to 7 digits."""
    with jax.enable_x64(True), precision():
        yield


def as_witness(question: Question, leaves: Sequence[Any], points: Sequence[Any]) -> Witness | None:
    """Returns the arguments with points in place of regions, if the function as it was written is not positive there.

    Points are cast to the regions' types and moved into their regions first, which rounding may have left.

    Args:
      question: whose function is evaluated, as the user wrote it.
      leaves: the arguments' leaves, in the user's types.
      points: one for every region among them.
    """
    found, rest = [], iter(points)
    for leaf in leaves:
        found.append(_inside(leaf, np.asarray(next(rest))) if is_region(leaf) else leaf)
    if any(x is None for x in found):
        return None
    value = np.asarray(question.evaluate([jnp.asarray(x) if is_point(x) else x for x in found]))
    holds = (value > 0).any(-1)
    return None if holds.all() else Witness(question.args(found), ~holds)


def is_point(x) -> bool:
    return isinstance(x, np.ndarray)


def _inside(region: Any, point: np.ndarray) -> np.ndarray | None:
    """Returns a point of the region near ``point`` in the region's type; None if none is found."""
    point = np.asarray(point, region.dtype)
    if isinstance(region, Interval):
        return np.clip(point, np.asarray(region.lower), np.asarray(region.upper))
    center, eps = np.asarray(region.center), np.finfo(point.dtype).eps
    # Rounding may leave the ball by a few units: a little way to the centre mends that.
    for tries in range(8):
        near = np.asarray(region.nearest(jnp.asarray(point)))
        point = center + (near - center) * np.asarray(1 - (4**tries - 1) * eps, point.dtype)
        if _contains(region, point):
            return point
    return None


def _contains(ball: LpBall, point: np.ndarray) -> bool:
    """Tells whether a point is in a ball, by float64."""
    center, radius = np.asarray(ball.center, float), float(ball.radius)
    box = ball.clip or ball.box
    inside = (np.asarray(box.lower) <= point) & (point <= np.asarray(box.upper))
    return bool(
        inside.all() and np.linalg.norm((point.astype(float) - center).ravel(), ball.p) <= radius
    )
