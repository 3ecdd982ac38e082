"""Describes a sub-domain by the splits that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Splits(NamedTuple):
    """Holds what a sub-domain is made of, as compactly as it can wait.

    Attributes:
      clause: that is bounded in it.
      cells: that were split ``[k]``.
      sides: 1 where the cell is above the point, -1 below ``[k]``.
      at: the points ``[k]``.
      alphas: of every row ``[M, A]``.
      betas: of every row and split ``[M, k]``.
      lower: the bound of its parent, which holds here too.
      candidates: the cells to split, the best first, and the points; -1 where there are none.
    """

    clause: int
    cells: np.ndarray
    sides: np.ndarray
    at: np.ndarray
    alphas: np.ndarray
    betas: np.ndarray
    lower: float
    candidates: tuple[np.ndarray, np.ndarray] | None = None

    def best(self, count: int) -> list[tuple[int, float]]:
        """Returns at most ``count`` cells to split next, and their points."""
        assert self.candidates is not None
        pairs = zip(*self.candidates, strict=True)
        return [(int(cell), float(point)) for cell, point in pairs if cell >= 0][:count]

    def split(self, choice: Sequence[tuple[int, float]], sides: Sequence[int]) -> Splits:
        """Returns the child on the given sides of chosen cells and points."""
        cells, points = zip(*choice, strict=True)
        return self._replace(
            cells=np.append(self.cells, np.asarray(cells, np.int32)),
            sides=np.append(self.sides, np.asarray(sides, np.int8)),
            at=np.append(self.at, points),
            betas=np.pad(self.betas, ((0, 0), (0, len(choice)))),
            candidates=None,
        )
