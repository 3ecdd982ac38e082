"""Solves linear and mixed-integer programs by SciPy's HiGHS."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import optimize, sparse

TIME_IS_OVER, UNBOUNDED = 1, 3  # the status of `scipy.optimize.milp` and `linprog`


@dataclasses.dataclass
class Model:
    """Represents bounded variables v, some of them integers, with ``A v = b`` and ``A v <= b``.

    ``starts`` says where in v the elements of a graph's variable begin.
    """

    starts: dict[Any, int] = dataclasses.field(default_factory=dict)
    bounds: Any = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    integer: Any = dataclasses.field(default_factory=lambda: np.zeros(0))
    equal: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    at_most: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.bounds)

    def add_variables(self, count: int, lower, upper, integer: bool = False) -> None:
        ends = [np.broadcast_to(end, count) for end in (lower, upper)]
        self.bounds = np.concatenate([self.bounds, np.stack(ends, axis=1)])
        self.integer = np.append(self.integer, np.full(count, integer))

    def add_equal(self, blocks: list[Any], value) -> None:
        """Demands ``[blocks side by side] v = value``, the first block at the first variable."""
        self.equal.append((sparse.hstack(blocks, format="csr"), value))

    def add_at_most(self, blocks: list[Any], value) -> None:
        """Demands ``[blocks side by side] v <= value``, the first block at the first variable."""
        self.at_most.append((sparse.hstack(blocks, format="csr"), value))

    def extremes(self, sign: int, coeffs, time_limit: float = math.inf):
        """Returns each row's least (sign 1) or greatest (-1) value of ``coeffs @ v``, in ``time_limit`` seconds each.

        Raises:
          RuntimeError: the solver failed.
        """
        rows = (self._stacked(self.equal), self._stacked(self.at_most))
        goals = (sign * row.toarray().ravel() for row in coeffs)
        if not self.integer.any():
            return np.array([sign * self._relaxed(goal, *rows) for goal in goals])
        return np.array([sign * self._proved(goal, *rows, time_limit) for goal in goals])

    def _relaxed(self, goal, equal, at_most) -> float:
        """Returns the least value where integers may be fractions."""
        # On programs of networks, the interior point method is several times as fast as the simplex method.
        rows = dict(zip(("A_eq", "b_eq", "A_ub", "b_ub"), (*equal, *at_most), strict=True))
        done = optimize.linprog(goal, **rows, bounds=self.bounds, method="highs-ipm")
        return -math.inf if done.status == UNBOUNDED else _solved(done).fun

    def _proved(self, goal, equal, at_most, time_limit: float) -> float:
        """Returns the lower bound that is proved of the least value, no less than that by `_relaxed`."""
        relaxed = self._relaxed(goal, equal, at_most)
        if relaxed == -math.inf:
            return relaxed
        done = optimize.milp(
            goal,
            integrality=self.integer,
            bounds=optimize.Bounds(*self.bounds.T),
            constraints=[(*equal, equal[1]), (at_most[0], -np.inf, at_most[1])],
            options={"mip_rel_gap": 0.0, "time_limit": time_limit},
        )
        if done.status != TIME_IS_OVER:
            return _solved(done).mip_dual_bound
        return relaxed if done.mip_dual_bound is None else max(relaxed, done.mip_dual_bound)

    def _stacked(self, rows: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Stacks all rows, made as wide as there are variables now."""
        if not rows:
            return None, None
        matrices, values = zip(*rows, strict=True)
        for matrix in matrices:
            matrix.resize(matrix.shape[0], self.size)
        return sparse.vstack(matrices, format="csr"), np.concatenate(values)


def _solved(done):
    if done.status != 0:
        raise RuntimeError(f"no solution: {done.message}")
    return done


def zeros(rows: int, columns: int):
    return sparse.csr_array((rows, columns))


def placed(block, start: int, size: int):
    """Puts a dense block at the columns from ``start`` on, of ``size`` columns in all."""
    row, column = np.nonzero(block)
    return sparse.csr_array((block[row, column], (row, column + start)), shape=(len(block), size))
