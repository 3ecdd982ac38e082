"""Defines the part of a box that satisfies some linear inequalities."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._bounds.interval import Interval, check_floating, intersect
from jaxbound._bounds.numerics import along, concrete
from jaxbound._bounds.regions import Region

dot = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Halfspaces(Region):
    """Represents all x in a box ``within`` with ``normals x <= limits``; see `halfspaces`, which makes one.

    ``taken`` is None but in a part of the set: there, the flat indices of its elements in the whole.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.Halfspaces(jb.linf_ball(jnp.zeros(3), 1.0), jnp.ones((1, 3)), jnp.zeros(1)).shape
      (3,)
    """

    within: Interval
    normals: Any
    limits: Any
    taken: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.within.shape if self.taken is None else jnp.shape(self.taken)

    @property
    def dtype(self) -> np.dtype:
        return self.within.dtype

    @property
    def box(self) -> Interval:
        box = self._whole_box()
        return box if self.taken is None else box.part(lambda x: jnp.take(x, self.taken))

    def part(self, take) -> Halfspaces:
        taken = jnp.arange(math.prod(self.shape)).reshape(self.shape)
        return dataclasses.replace(self, taken=take(taken if self.taken is None else self.taken))

    def support(self, coeffs, axis: int = -1):
        """Returns ``min over y >= 0 of <y, limits> + max over the box of <coeffs - y normals, x>``.

        By duality that is the maximum over the set; for any y it is an upper bound, so an inexact y is sound. Its
        derivative is that of the Lagrangian ``<coeffs, x> + <y, limits - normals x>`` at a constant y and place of x.
        """
        rows = jnp.moveaxis(coeffs, axis, -1)
        box, size = self._whole_box(), math.prod(self.within.shape)
        # The other elements of the whole count too: the inequalities tie them to these.
        if self.taken is not None:
            whole = jnp.zeros((*rows.shape[:-1], size), rows.dtype)
            rows = whole.at[..., jnp.ravel(self.taken)].add(rows)
        normals = self.normals.reshape(-1, size)
        given = lax.stop_gradient((box, normals, self.limits, rows.reshape(-1, size)))
        y, u = jax.vmap(_solution, (None, None, None, 0))(*given)
        y, u = (z.astype(rows.dtype).reshape(*rows.shape[:-1], z.shape[-1]) for z in (y, u))
        reduced = rows - dot(y, normals)
        x = along(box.center, u.ndim, -1) + along(box.radius, u.ndim, -1) * u
        smooth = dot(y, self.limits) + (reduced * x).sum(-1)
        found = dot(y, self.limits) + box.support(reduced)
        found = smooth + lax.stop_gradient(found - smooth)
        return jnp.fmin(found, box.support(rows))

    def _whole_box(self) -> Interval:
        """Returns the box without what one inequality alone excludes: ``a_i x_i <= b - sum min a_j x_j, j != i``."""
        lower, upper = self.within.lower, self.within.upper

        def left(normal, limit):
            room = limit + self.within.support(-normal.ravel())
            room = room / jnp.where(normal == 0, 1, normal)
            low, high = upper + jnp.minimum(room, 0), lower + jnp.maximum(room, 0)
            low = jnp.where((normal < 0) & jnp.isfinite(low), low, -jnp.inf)
            return low, jnp.where((normal > 0) & jnp.isfinite(high), high, jnp.inf)

        low, high = jax.vmap(left)(self.normals, self.limits)
        return intersect(self.within, Interval(low.max(0), high.min(0)))

    def check(self, name: str) -> None:
        if not isinstance(self.within, Interval):
            raise TypeError(f"{name}.within is {self.within!r}; expected an Interval")
        self.within.check(f"{name}.within")
        check_floating(self.normals, f"{name}.normals")
        shape, limits = jnp.shape(self.normals), jnp.shape(self.limits)
        if not shape or shape[0] < 1 or (shape[1:], limits) != (self.within.shape, shape[:1]):
            raise ValueError(
                f"{name}.normals has shape {shape} and {name}.limits {limits}; "
                f"expected [M, *{self.within.shape}] and [M], M >= 1"
            )
        values = (self.within.lower, self.within.upper, self.normals, self.limits)
        if any(concrete(x) is None for x in values):
            return
        lower, upper, normals, limits = map(np.asarray, values)
        if not all(np.isfinite(x).all() for x in (lower, upper, normals, limits)):
            raise ValueError(f"{name} is not finite")
        least = np.minimum(normals * lower, normals * upper).reshape(len(limits), -1).sum(1)
        if (least > limits).any():
            k = int(np.argmax(least - limits))
            raise ValueError(
                f"{name} is empty: normals[{k}] x is at least {least[k]} > {limits[k]}"
            )


def halfspaces(box: Interval, normals, limits) -> Halfspaces:
    """Returns the part of a box that satisfies linear inequalities, ``{x in box : normals x <= limits}``.

    Every affine function is bounded by a linear program over the set, solved in its dual by a fixed number of steps of
    an interior-point method: exactly but for rounding, and soundly whatever the steps reach. Each row of coefficients
    costs some 20 solutions of M equations, so this is for a few inequalities. Forward bounds (`jb.lbp`) that
    are computed in parts, because all coefficients at once would be too many, only see the smallest box known.

    Args:
      box: finite `Interval`, in the units of ``fn``'s input.
      normals: floating-point array ``[M, *box.shape]``, the left sides of the inequalities.
      limits: array ``[M]``, their right sides. The set must not be empty.

    Returns:
      A `Halfspaces` of the box's shape.

    Raises:
      ValueError: the shapes do not fit, a value is not finite, or an inequality excludes all of the box.
      TypeError: the box or ``normals`` is not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.zeros(3), 1.0)
      >>> region = jb.halfspaces(box, jnp.ones((1, 3)), jnp.array([0.5]))  # the sum is at most 0.5
      >>> round(jb.crown(lambda x: x[0] + 2 * x[1] + 3 * x[2], region).upper.item(), 3)
      3.0
      >>> jb.crown(lambda x: x[0] + 2 * x[1] + 3 * x[2], box).upper.item()
      6.0

    References: Mehrotra, SIAM J. Optimization 2(4), 1992 (interior points).
    """
    normals = jnp.asarray(normals)
    found = Halfspaces(box, normals, jnp.asarray(limits, normals.dtype))
    found.check("halfspaces")
    return found


def _solution(box: Interval, normals, limits, row):
    """Returns the best multipliers y >= 0 found for one row, and u: a primal-dual interior-point method.

    In units of the box, x = center + radius u, the program is ``max <c, u>`` for ``A u <= b, -1 <= u <= 1``. With
    slacks w = ``(1 + u, 1 - u, b - A u)`` and multipliers z, Newton's method solves ``w z = mu``: a tenth of its mean.
    """
    kind, n = jnp.promote_types(row.dtype, jnp.float32), len(row)
    center, radius = (jnp.ravel(x).astype(kind) for x in (box.center, box.radius))
    A, b = normals.astype(kind) * radius[None], limits - dot(normals, center)
    c = row.astype(kind) * radius
    unit, size = _positive(jnp.linalg.norm(A, axis=1)), _positive(jnp.abs(c).max(initial=0))
    A, b, c = A / unit[:, None], b / unit, c / size
    most = jnp.abs(A).sum(1)  # of A u: with a greater limit, an inequality says nothing
    idle, b = b >= most, jnp.minimum(b, most + 1)

    def bound(y):
        return dot(y, b) + jnp.abs(c - dot(y, A)).sum()

    def step(_, state):
        w, z, (best, there) = state
        u, y, mu = (w[:n] - w[n : 2 * n]) / 2, z[2 * n :], 0.1 * (w * z).mean()
        weight, pull = (z / w)[:n] + (z / w)[n : 2 * n], (mu / w)[:n] - (mu / w)[n : 2 * n]
        pull += c - dot(y, A)
        matrix = dot(A / weight[None], A.T) + jnp.diag(w[2 * n :] / y)
        dy = _solve(matrix, mu / y - b + dot(A, u + pull / weight))
        du = (pull - dot(dy, A)) / weight
        dw = jnp.concatenate([du, -du, b - dot(A, u + du) - w[2 * n :]])
        dz = ((mu - z * dw) / w - z).at[2 * n :].set(dy)  # from a small slack, dy is not as exact
        w, z = w + _length(w, dw) * dw, z + _length(z, dz) * dz
        y = z[2 * n :]
        better, u = bound(y) < bound(best), (w[:n] - w[n : 2 * n]) / 2
        return w, z, (jnp.where(better, y, best), jnp.where(better, u, there))

    ones, nothing = jnp.ones_like(c), jnp.zeros_like(b)
    w = jnp.concatenate([ones, ones, jnp.maximum(b, 1)])
    z = jnp.concatenate([1 + jnp.maximum(-c, 0), 1 + jnp.maximum(c, 0), nothing + 1])
    start = w, z, (nothing, jnp.sign(c))
    y, u = lax.fori_loop(0, 8 + jnp.finfo(kind).nmant // 3, step, start)[2]
    return jnp.where(idle, 0, y) / unit * size, u


def _positive(x):
    return jnp.where(x > 0, x, 1)


def _length(x, dx):
    """Returns how far to go so that ``x > 0`` stays positive: at most 1, and 0.95 of the way to the first end."""
    return jnp.minimum(1, 0.95 * jnp.where(dx < 0, -x / dx, jnp.inf).min())


def _solve(matrix, right):
    """Solves a small positive definite system by elimination, which needs no pivots."""

    def eliminate(k, rows):
        pivot = rows[k] / rows[k, k]
        return (rows - jnp.outer(rows[:, k], pivot)).at[k].set(pivot)

    rows = jnp.concatenate([matrix, right[:, None]], axis=1)
    return lax.fori_loop(0, len(right), eliminate, rows)[:, -1]
