"""Defines the table of relaxations: between which two affine functions a primitive lies on given intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval
from jaxbound._program.trace import trace_flat
from jaxbound._rules.linear_rules import linear_operands


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Holds two affine JAX functions of a primitive's uncertain operands, one below and one above it.

    On the intervals they were made for, ``lower(*x) <= primitive(*x) <= upper(*x)``; ``free`` holds, by side,
    functions that return the alphas of those lines that may lie elsewhere. ``error`` returns how far rounding may
    have left each of them on the wrong side, also of what rows make of them; None: nothing is stated.
    """

    lower: Callable[..., Any]
    upper: Callable[..., Any]
    free: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    error: Callable[[], tuple[Any, ...]] | None = None

    @property
    def alphas(self) -> dict[str, Any]:
        """Returns the alphas of the free lines, by side: where they lie."""
        return {side: alpha() for side, alpha in self.free.items()}

    def moved(self) -> Relaxation:
        """Returns the lines moved outward by their error, which has to be stated."""
        assert self.error is not None
        low, high = self.error()
        return dataclasses.replace(
            self,
            lower=lambda *z: self.lower(*z) - low,
            upper=lambda *z: self.upper(*z) + high,
        )


KINDS = ("adaptive", "tight", "parallel", "constant")

relaxations: dict[Any, Callable[..., Relaxation]] = {}


def check_kind(kind: str) -> None:
    """Raises a ValueError unless ``kind`` is among `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"relaxation is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")


def register_relaxation(primitive):
    """Registers the decorated function as the relaxation of ``primitive``.

    The rule ``rule(*operands, image, choice, **params) -> Relaxation`` gets the operands (`Interval` where
    uncertain, arrays where known), the interval of the value (of several, of the first), and a `Choice`. Its
    functions take the uncertain operands and must satisfy ``lower(*x) <= primitive(*x) <= upper(*x)``, also where
    a line lies anywhere between two that ``choice.between(side, first, last, usual)`` names: such lines can be
    optimised. A primitive that only has an interval rule is bounded by its interval. Functions that are not affine
    raise a ValueError where a method meets them.

    Example:
      >>> import jax, jaxbound as jb
      >>> import jax.numpy as jnp
      >>> @jb.register_relaxation(jax.lax.bessel_i0e_p)
      ... def _i0e(x, *, image, choice, **params):  # convex on either side of 0: above its tangents
      ...     m = (x.lower + x.upper) / 2
      ...     value, slope = jax.jvp(jax.lax.bessel_i0e, (m,), (jnp.ones_like(m),))
      ...     one_side = (x.lower >= 0) | (x.upper <= 0)
      ...     return jb.Relaxation(
      ...         lambda z: jnp.where(one_side, value + slope * (z - m), image.lower),
      ...         lambda z: image.upper + 0 * z,
      ...     )
    """

    def register(rule):
        @functools.wraps(rule)
        def checked(*operands, **options) -> Relaxation:
            found = rule(*operands, **options)
            _check_affine(primitive, found, operands)
            return found

        relaxations[primitive] = checked
        return rule

    return register


def _check_affine(primitive, relaxation: Relaxation, operands) -> None:
    """Raises a ValueError unless both functions of a relaxation of ``primitive`` are affine."""
    moving = (x for x in operands if isinstance(x, Interval))
    floats = [x for x in moving if jnp.issubdtype(x.dtype, jnp.floating)]
    avals = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in floats]
    for side in ("lower", "upper"):
        graph = trace_flat(getattr(relaxation, side), avals, [True] * len(avals))
        bent = [e for e in graph.equations if e.moving and linear_operands(e) is None]
        if bent:
            raise ValueError(
                f"the relaxation registered for {primitive} is not affine: its {side} function applies "
                f"{', '.join(dict.fromkeys(str(e.primitive) for e in bent))} to the operands"
            )


def constant_relaxation(image: Sequence[Interval]) -> Relaxation:
    """Returns lines of slope 0 at the ends of the interval walk's ``image``, for the list of a primitive's outputs."""
    return Relaxation(
        lambda *_: [out.lower for out in image], lambda *_: [out.upper for out in image]
    )
