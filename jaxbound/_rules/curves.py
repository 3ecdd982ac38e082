"""Bounds a function of one variable on [l, u] by lines below and above it: the maths of the relaxations.

Every function here returns slopes and intercepts elementwise, sound for all ``l <= u`` (finite), with
finite gradients also at ``l == u``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.numerics import ratio


class Lines(NamedTuple):
    """Holds lines: ``lower_slope * z + lower_intercept <= f(z) <= upper_slope * z + upper_intercept`` on [l, u]."""

    lower_slope: Any
    lower_intercept: Any
    upper_slope: Any
    upper_intercept: Any


Function = Callable[[Any], Any]


class Choice:
    """Describes which of its sound lines a relaxation takes: those of a kind, or those at given alphas.

    A line that is free lies between two extremes; its alpha in [0, 1] says where. Lines are free
    "lower", "upper", or on both sides.

    Attributes:
      kind: one of `KINDS`.
      given: alphas by side, of the shape of the primitive's value.
      taken: by side, functions that return the alphas of the free lines that were taken; they are seldom called.
    """

    def __init__(self, kind: str = "adaptive", given: Mapping[str, Any] | None = None):
        self.kind, self.given, self.taken = kind, dict(given or {}), {}

    def between(self, side: str, first, last, usual):
        """Returns a number between two: the one at the alpha given for ``side``, else the ``usual`` one of the kind."""
        if side in self.given:
            self.taken[side] = lambda: self.given[side]
            return first + self.given[side] * (last - first)

        def share():
            apart = last != first
            found = jnp.where(apart, (usual - first) / jnp.where(apart, last - first, 1), 0)
            return jnp.clip(found, 0, 1)

        self.taken.setdefault(side, share)
        return usual


def all_finite(*arrays):
    """Returns where all arrays are finite."""
    return functools.reduce(jnp.logical_and, map(jnp.isfinite, arrays))


def derivative(fn: Function) -> Function:
    """Returns the elementwise derivative."""
    return lambda z: jax.jvp(fn, (z,), (jnp.ones_like(z),))[1]


def chord(fn: Function, l, u):
    """Returns the slope of the line through both ends, or of the tangent where they coincide."""
    apart = u > l
    width = jnp.where(apart, u - l, 1)
    return jnp.where(apart, ratio(fn(u) - fn(l), width), derivative(fn)(l))


def _intercepts(fn: Function, lower_slope, upper_slope, points: Sequence[Any]) -> Lines:
    """Returns lines of given slopes, moved until they lie below / above ``fn`` at all ``points``.

    Where a line touches at several points, its gradient is that of the first.
    """
    below = above = None
    for z in points:
        value = fn(z)
        low, high = value - lower_slope * z, value - upper_slope * z
        below = low if below is None else first_least(below, low)
        above = high if above is None else -first_least(-above, -high)
    return Lines(lower_slope, below, upper_slope, above)


def first_least(a, b):
    """Returns the minimum, with the gradient of ``a`` where both are equal: `jnp.minimum` would mix the two."""
    return jnp.where((a <= b) | jnp.isnan(a), a, b)


# ---------------------------------------------------------------- piecewise linear


def piecewise_linear(fn: Function, l, u, kinks: Sequence[Any], lower_slope, upper_slope) -> Lines:
    """Returns lines of the given slopes: any are sound, as ``fn(z) - slope * z`` is extreme at ends and kinks.

    The kinks come first: where a free line touches both a kink and an end, its gradient is that of turning
    about the kink.
    """
    inner = [jnp.clip(jnp.asarray(kink, l.dtype), l, u) for kink in kinks]
    return _intercepts(fn, lower_slope, upper_slope, [*inner, l, u])


def one_kink(fn: Function, l, u, kink, left, right, choice: Choice, side="lower") -> Lines:
    """Returns lines for a function of slope ``left`` below ``kink`` and ``right`` above it (ReLU: kink 0, slopes 0, 1).

    On the ``side`` of the kink's corner every slope between ``left`` and ``right`` touches it: "adaptive"
    takes the one of least area (CROWN), "tight" the one nearest to constant (Lyu et al.), "parallel"
    the chord's (Fast-Lin).
    """
    unstable = (l < kink) & (u > kink)
    stable = jnp.where(l >= kink, right, left)
    kink = _near(kink, l, u)  # last: where a distance of 1 rounds to 0, it lands on an end
    slope = _slope(fn, jnp.where(unstable, l, kink - 1), jnp.where(unstable, u, kink + 1))
    slope = jnp.clip(slope, jnp.minimum(left, right), jnp.maximum(left, right))
    if choice.kind == "parallel":
        corner = slope
    elif choice.kind == "tight":
        corner = jnp.clip(jnp.zeros_like(l), jnp.minimum(left, right), jnp.maximum(left, right))
    else:
        corner = jnp.where(u - kink > kink - l, right, left).astype(l.dtype)
    corner = choice.between(side, left, right, corner)
    convex = left <= right
    lower = jnp.where(unstable, jnp.where(convex, corner, slope), stable)
    upper = jnp.where(unstable, jnp.where(convex, slope, corner), stable)
    return piecewise_linear(fn, l, u, [kink], lower, upper)


def _near(kink, l, u):
    """Returns the kink, moved to a distance of at most 1 from the interval: far kinks may be infinite."""
    return jnp.clip(kink, l - 1, u + 1)


def two_kinks(fn: Function, l, u, low, high, outer, choice: Choice) -> Lines:
    """Returns lines for a function of slope 1 on [low, high] and ``outer`` on both sides (ParamRamp, clip).

    The table of Lyu et al., arXiv 2104.00447, appendix A.7; any slope is sound, for all parameters.
    """
    crosses_low, crosses_high = (l < low) & (u > low), (l < high) & (u > high)
    stable = jnp.where((u <= low) | (l >= high), outer, 1.0)
    low, high = _near(low, l, u), _near(high, l, u)  # last, as in `one_kink`
    across = chord(fn, l, u)
    # Lines below turn about the left kink, with slopes from ``outer`` to ``right``, that of (low, u);
    # lines above turn about the right kink, with slopes from ``outer`` to ``left``, that of (l, high).
    right = jnp.where(crosses_high, _slope(fn, low, u), 1.0)
    # A right kink beyond u, infinite perhaps, must not enter the gradient.
    left = jnp.where(crosses_low, _slope(fn, l, jnp.where(crosses_high, high, u)), 1.0)
    if choice.kind == "parallel":
        below = above = across
    else:  # tight: along the outer piece; adaptive: the slope of least area
        free = choice.kind != "tight"
        below = jnp.where(free & (u - low > low - l), right, outer)
        above = jnp.where(free & (u - high <= high - l), left, outer)
    below = choice.between("lower", outer, right, below)
    above = choice.between("upper", outer, left, above)
    lower = jnp.where(crosses_low, below, jnp.where(crosses_high, across, stable))
    upper = jnp.where(crosses_high, above, jnp.where(crosses_low, across, stable))
    return piecewise_linear(fn, l, u, [low, high], lower, upper)


def _slope(fn: Function, a, b):
    """Returns the slope of the chord from a to b where b > a; 1 elsewhere."""
    apart = b > a
    return jnp.where(apart, ratio(fn(b) - fn(a), jnp.where(apart, b - a, 1)), 1.0)


# ---------------------------------------------------------------- smooth


def convex(fn: Function, l, u, tangent_at=None) -> Lines:
    """Returns lines for a convex function. Below: a tangent (at the centre unless told). Above: the chord.

    A slope that is too small for its number type becomes 0. So the lower line is also moved below both ends: a
    function with so flat a tangent is least at an end, or, nearly, where the tangent touches it.
    """
    z = 0.5 * l + 0.5 * u if tangent_at is None else tangent_at
    lower_slope, upper_slope = derivative(fn)(z), chord(fn, l, u)
    lines = _intercepts(fn, lower_slope, upper_slope, [l, u])
    below = first_least(fn(z) - lower_slope * z, lines.lower_intercept)
    return lines._replace(lower_intercept=below)


def negated(lines: Lines) -> Lines:
    """Returns lines of -f from lines of f."""
    return Lines(
        -lines.upper_slope, -lines.upper_intercept, -lines.lower_slope, -lines.lower_intercept
    )


def concave(fn: Function, l, u, tangent_at=None) -> Lines:
    """Returns lines for a concave function. Below: the chord. Above: a tangent (at the centre unless told)."""
    return negated(convex(lambda z: -fn(z), l, u, tangent_at))


def s_shaped(
    fn: Function, l, u, bend: Any = 0.0, choice: Choice | None = None, sides=("lower", "upper")
) -> Lines:
    """Returns lines for a function that is convex below ``bend`` and concave above it (sigmoid, tanh, arctan).

    Above: the tangent that passes through (l, f(l)) if it touches inside the interval (or, free, any that
    touches further right), else the chord; where the function is concave on all of the interval, the tangent
    at the centre (or, free, anywhere). Below: the same of the mirrored function ``-f(-z)``.

    References: Boopathy et al., arXiv 1811.12395.
    """
    choice = choice or Choice()
    upper_slope, touch = _upper(fn, l, u, bend, choice, sides[1])
    mirrored = lambda z: -fn(-z)
    lower_slope, mirrored_touch = _upper(mirrored, -u, -l, -bend, choice, sides[0], turned=True)
    # Lines must hold at the ends, too: a slope that is too small for its type has become 0.
    above = _intercepts(fn, upper_slope, upper_slope, [touch, l, u]).upper_intercept
    below = _intercepts(fn, lower_slope, lower_slope, [-mirrored_touch, u, l]).lower_intercept
    return Lines(lower_slope, below, upper_slope, above)


def _upper(fn: Function, l, u, bend, choice: Choice, side: str, turned: bool = False):
    """Returns the slope of the upper line of a convex-concave function, and a point where the line touches it."""
    slope_at = derivative(fn)
    start = jnp.broadcast_to(jnp.asarray(bend, u.dtype), u.shape)
    # The tangent through (l, f(l)) touches where the chord's slope meets the function's.
    touch = bisect(lambda z: _slope(fn, l, z) >= slope_at(z), start, jnp.maximum(u, start))[1]
    # Whether it touches in [l, u] is decided at u, where both slopes differ: at the touching point, rounding would.
    inside = _slope(fn, l, u) >= slope_at(u)
    all_concave = l >= bend
    tangent = all_concave | ((u > bend) & inside)
    first = jnp.where(all_concave, l, jnp.minimum(touch, u))
    ends = (u, first) if turned else (first, u)  # an alpha of 0 is leftmost
    touch = choice.between(side, *ends, jnp.where(all_concave, 0.5 * l + 0.5 * u, touch))
    return jnp.where(tangent, slope_at(touch), chord(fn, l, u)), jnp.where(tangent, touch, u)


def bisect(beyond: Function, low, high):
    """Returns a bracket (p, q) around the point of [low, high] from which on ``beyond`` holds; it has no gradient."""

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * low + 0.5 * high
        right = beyond(middle)
        return jnp.where(right, low, middle), jnp.where(right, middle, high)

    bracket = lax.fori_loop(0, 30, halve, lax.stop_gradient((low, high)))
    return lax.stop_gradient(bracket)


def wavy(fn: Function, l, u, bends: Sequence[float], first: int, choice: Choice) -> Lines:
    """Returns lines for a function whose curvature changes sign at ``bends`` only.

    Slopes: the tangent's at the centre where the whole interval curves one way, else the chord's.
    Intercepts: ``g(z) = fn(z) - slope * z`` is extreme at the ends, or where g' changes sign. On a
    piece of one curvature, bisection brackets that point by p <= q; as g is convex (concave) there, it
    stays above (below) ``g(p) + g'(p) (q - p)``. So any slope is sound.

    ``bends`` increase; ``first`` is the sign of the curvature left of all of them.
    """
    pieces = list(itertools.pairwise([-jnp.inf, *bends, jnp.inf]))
    signs = [first * (-1) ** i for i in range(len(pieces))]
    slope_at = derivative(fn)
    across, tangent = chord(fn, l, u), slope_at(0.5 * l + 0.5 * u)
    lower_slope = upper_slope = across
    for (a, b), sign in zip(pieces, signs, strict=True):
        within = (l >= a) & (u <= b)
        lower_slope = jnp.where(within & (sign > 0), tangent, lower_slope)
        upper_slope = jnp.where(within & (sign < 0), tangent, upper_slope)
    slopes = jnp.stack([slope_at(l), slope_at(u), tangent, across])
    lower_slope = choice.between("lower", slopes.min(0), slopes.max(0), lower_slope)
    upper_slope = choice.between("upper", slopes.min(0), slopes.max(0), upper_slope)
    points = [l, u, *(jnp.clip(jnp.asarray(bend, l.dtype), l, u) for bend in bends)]
    lines = _intercepts(fn, lower_slope, upper_slope, points)
    below, above = lines.lower_intercept, lines.upper_intercept
    for (a, b), sign in zip(pieces, signs, strict=True):
        # A piece outside of the interval shrinks to the interval's nearer end.
        low, high = (jnp.clip(jnp.clip(z, a, b), l, u) for z in (l, u))
        if sign > 0:
            below = jnp.minimum(below, _least(fn, lower_slope, low, high))
        else:
            above = jnp.maximum(above, -_least(lambda z: -fn(z), -upper_slope, low, high))
    return Lines(lower_slope, below, upper_slope, above)


def _least(fn: Function, slope, low, high):
    """Returns a value below ``fn(z) - slope * z`` on [low, high], where fn is convex."""
    slope_at = derivative(fn)
    low, high = jnp.minimum(low, high), jnp.maximum(low, high)
    p, q = bisect(lambda z: slope_at(z) >= slope, low, high)
    return fn(p) - slope * p + jnp.minimum(slope_at(p) - slope, 0) * (q - p)


def where(condition, first: Lines, second: Lines) -> Lines:
    return Lines(*(jnp.where(condition, a, b) for a, b in zip(first, second, strict=True)))
