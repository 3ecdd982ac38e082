"""Defines the convex hull of given points."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._bounds.interval import Interval, check_floating
from jaxbound._bounds.numerics import concrete
from jaxbound._bounds.regions import Region


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Polytope(Region):
    """Represents the convex hull of ``vertices [V, *shape]``; see `polytope`, which makes one.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.Polytope(jnp.eye(3)).shape
      (3,)
    """

    vertices: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.vertices)[1:]

    @property
    def dtype(self) -> np.dtype:
        return jnp.result_type(self.vertices)

    @property
    def box(self) -> Interval:
        return Interval(self.vertices.min(0), self.vertices.max(0))

    @property
    def point(self):
        return self.vertices[0]

    def support(self, coeffs, axis: int = -1):
        return self.supported(self.shares(coeffs, axis))

    def start(self, share):
        return self._farthest(share - 0.5)

    def steepest(self, slope, x):
        return self._farthest(slope) - x  # a part of this step does not leave the hull

    def nearest(self, x):
        return x

    def _farthest(self, direction):
        """Returns where the hull reaches farthest, a subgradient of its support: a vertex, or the mean of several."""
        return jax.grad(self.support)(direction.ravel()).reshape(self.shape)

    def part(self, take) -> Polytope:
        return Polytope(jax.vmap(take)(self.vertices))

    def shares(self, coeffs, axis: int = -1):
        """Returns ``<coeffs, v>`` for all vertices: a linear function is greatest at one of them."""
        flat = self.vertices.reshape(len(self.vertices), math.prod(self.shape))
        return jnp.tensordot(flat, coeffs, (1, axis), precision=lax.Precision.HIGHEST)

    def supported(self, shares):
        return shares.max(0)

    def check(self, name: str) -> None:
        check_floating(self.vertices, f"{name}.vertices")
        shape = jnp.shape(self.vertices)
        if not shape or not shape[0]:
            raise ValueError(
                f"{name}.vertices has shape {shape}; expected [V, ...] with at least one vertex"
            )
        vertices = concrete(self.vertices)
        if vertices is not None and not np.isfinite(vertices).all():
            raise ValueError(f"{name}.vertices is not finite")


def polytope(vertices) -> Polytope:
    """Returns the convex hull of some points: bounds hold at the points and at all of their weighted means.

    Affine functions have their exact range over it, so any list of points that a function may be given is bounded
    tighter than by the box around them. The cost is that of one product with all vertices a row of coefficients:
    for the image of a box under an affine map (a zonotope), whose vertices are many, compose that map into the
    function, ``jb.crown(lambda z: fn(c + G @ z), jb.linf_ball(jnp.zeros(n), 1.0))``.

    Args:
      vertices: floating-point array ``[V, *shape]`` in the units of ``fn``'s input, V points of the shape of that
        input; in any order, repeated or inside of the others' hull as well. May be traced.

    Returns:
      A `Polytope` of the shape ``shape``.

    Raises:
      ValueError: there is no vertex, or one is not finite.
      TypeError: ``vertices`` is not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> triangle = jb.polytope(jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
      >>> jb.crown(jnp.sum, triangle).upper.item(), jb.crown(jnp.sum, triangle.box).upper.item()
      (1.0, 2.0)

    References: Rockafellar, Convex Analysis, 1970, section 13 (the support function).
    """
    found = Polytope(jnp.asarray(vertices))
    found.check("polytope")
    return found
