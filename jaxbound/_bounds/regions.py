"""Defines what a set of inputs answers for itself, and finds the sets among the arguments of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


class Region:
    """Represents a set of arrays of one shape: an input of a function that is bounded.

    A set of your own is a subclass that is a pytree and has a ``box``, ``support`` and ``part``; all methods take
    it. The rest follows from these, soundly, unless the set knows better. Values are checked by ``check`` alone,
    never where a set is made: JAX puts placeholders into pytrees.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> @jax.tree_util.register_dataclass
      ... @dataclasses.dataclass
      ... class Either(jb.Region):  # what lies in one set or in the other
      ...     one: jb.Region
      ...     other: jb.Region
      ...
      ...     @property
      ...     def box(self):
      ...         ends = self.one.box, self.other.box
      ...         lower = jnp.minimum(*(end.lower for end in ends))
      ...         return jb.Interval(lower, jnp.maximum(*(end.upper for end in ends)))
      ...
      ...     def support(self, coeffs, axis=-1):
      ...         return jnp.maximum(*(s.support(coeffs, axis) for s in (self.one, self.other)))
      ...
      ...     def part(self, take):
      ...         return Either(self.one.part(take), self.other.part(take))
      >>> left, right = jnp.array([-1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> balls = Either(jb.lp_ball(left, 0.5, 2), jb.lp_ball(right, 0.5, 2))
      >>> round(jb.crown(lambda x: x[0] - x[1], balls).upper.item(), 3)
      -0.293
    """

    # Whether every element may have any value of its interval, whatever the others have.
    independent = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.box.shape

    @property
    def dtype(self) -> np.dtype:
        return self.box.dtype

    @property
    def box(self) -> Any:
        """Returns an `Interval` that contains the set, the smallest that is known."""
        raise NotImplementedError

    @property
    def point(self) -> Any:
        """Returns an array of the set, or None if none is at hand: then one end of a bound costs as much as both."""
        return None

    @property
    def sizes(self) -> Any:
        """Returns an array m, in float32 or wider, if ``support`` computes no terms larger than ``sum |coeffs| m``.

        Then ``support`` is known up to 64 roundings of such sums; None: its rounding is not known.
        """
        return None

    def support(self, coeffs, axis: int = -1) -> Any:
        """Returns ``max <coeffs, x>`` over the set, or an upper bound; coeffs hold the elements of x along ``axis``."""
        raise NotImplementedError

    # What an attack asks of a set: a walk starts in it, steps along a slope, and never leaves it.

    def start(self, share) -> Any:
        """Returns a point of the set for an array of numbers in [0, 1]: about the middle for 0.5."""
        raise TypeError(
            f"region is a {type(self).__name__}, whose points an attack does not know; expected a set with `start`, "
            "`steepest` and `nearest`, such as jb.Interval, jb.LpBall or jb.Polytope"
        )

    def steepest(self, slope, x) -> Any:
        """Returns the step from x, about one radius long, along which ``<slope, step>`` is greatest."""
        raise NotImplementedError

    def nearest(self, x) -> Any:
        """Returns a point of the set near x, and x if it is in the set."""
        raise NotImplementedError

    def part(self, take: Callable[[Any], Any]) -> Any:
        """Returns the set of some elements; ``take`` picks them from an array of the set's shape, each once or more."""
        raise NotImplementedError

    def check(self, name: str) -> None:
        """Raises if the set is not valid; values can only be seen outside `jax.jit`."""
        self.box.check(f"{name}.box")

    # Forward bounds may see the coefficients of a few elements at a time. What they keep of them is an array
    # ``[S, ...]`` with the axes of the coeffs but the summed one, S of the set's choice. By default, S is 1: the
    # support of the box.

    def shares(self, coeffs, axis: int = -1) -> Any:
        """Returns what this part adds to the support of the whole set, ``[S, ...]``."""
        return self.box.support(coeffs, axis)[None]

    def merged(self, shares: Any) -> Any:
        """Returns the shares ``[S, ...]`` of several parts together, from ``[parts, S, ...]``."""
        return shares.sum(0)

    def supported(self, shares: Any) -> Any:
        """Returns the support, or an upper bound, from the shares ``[S, ...]`` of all elements together."""
        return shares[0]


def is_region(x: Any) -> bool:
    """Tells whether ``x`` is an uncertain leaf (for ``is_leaf=``)."""
    return isinstance(x, Region)


def arrays_of(args) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Returns the leaves that are regions, arrays or numbers, and a function that puts others in their place.

    All other leaves (truth values, strings, callables) are options: they stay as they are.
    """
    leaves, tree = jax.tree.flatten(args, is_leaf=is_region)
    kept = [not _is_option(leaf) for leaf in leaves]

    def restore(arrays: Sequence[Any]):
        found = iter(arrays)
        return jax.tree.unflatten(
            tree, [next(found) if keep else x for x, keep in zip(leaves, kept, strict=True)]
        )

    return [leaf for leaf, keep in zip(leaves, kept, strict=True) if keep], restore


def _is_option(x: Any) -> bool:
    if isinstance(x, bool) or callable(x):
        return True
    array = hasattr(x, "__jax_array__") or (hasattr(x, "shape") and hasattr(x, "dtype"))
    return not (array or isinstance(x, int | float | complex))
