"""Registers a user's elementwise function, and tries on samples what is said of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jaxbound._rules import curves, piecewise
from jaxbound._rules.elementwise import declare_elementwise
from jaxbound._rules.one_variable import (
    Elementwise,
    curved,
    point_between,
    turning,
    within,
)

CURVATURES = {"convex": 1, "concave": -1, "straight": 0, None: 0}


def register_elementwise(
    primitive,
    *,
    curvature: str | None = None,
    bends: Sequence[float] = (),
    kinks: Sequence[float] = (),
    turns: Sequence[float] = (),
    domain: tuple[float, float] = (-math.inf, math.inf),
    params: Mapping[str, Any] | None = None,
) -> None:
    """Registers a function of each element by itself, by where it bends and turns; all else follows.

    Guarantee asked for, at all l <= z <= u in the domain with f the function: without a turning point in between,
    ``min(f(l), f(u)) <= f(z) <= max(f(l), f(u))``; without a bend or kink, ``f(z) <= (1 - t) f(l) + t f(u)`` for
    ``z = (1 - t) l + t u`` if it is convex there, ``>=`` if concave, ``==`` if straight. Samples are tried, which
    finds most mistakes; the proof is yours.

    It gets the exact interval, lines with free alphas, receptive fields in convolutional nets, and, of straight
    pieces, exact references (`jaxbound.reference`).

    Args:
      primitive: a JAX primitive of one operand. It needs what `jax.jit` and `jax.vmap` need, and a derivative
        (`jax.jvp`) unless it is straight.
      curvature: "convex" (sigmoid: with ``bends=(0.0,)``) or "concave", up to the first bend; "straight" between
        kinks; None: no lines are known, intervals alone.
      bends: increasing points at which the sign of the curvature changes; twice the same for a corner.
      kinks: increasing points at which straight pieces meet.
      turns: points at which it turns from rising to falling, or back.
      domain: the least and the greatest point; beyond them, there is no bound.
      params: parameters of the primitive to try it with; what is said must hold for all that occur.

    Raises:
      TypeError: ``primitive`` is none.
      ValueError: an argument is not valid, or a sample contradicts what is said.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> i0e = jax.lax.bessel_i0e_p  # exp(-|x|) I0(x): convex on either side of a corner at 0
      >>> jb.register_elementwise(i0e, curvature="convex", bends=(0.0, 0.0), turns=(0.0,))
      >>> found = jb.crown(lambda x: i0e.bind(x) + x / 4, jb.linf_ball(jnp.array(1.0), 0.5))
      >>> [round(end.item(), 3) for end in (found.lower, found.upper)]
      [0.712, 0.77]
    """
    if not isinstance(primitive, jex.Primitive):
        raise TypeError(f"primitive is {primitive!r}; expected a jax.extend.core.Primitive")
    points = {"bends": bends, "kinks": kinks, "turns": turns, "domain": domain}
    given = {name: tuple(map(float, values)) for name, values in points.items()}
    _check_arguments(curvature, **given)
    fn = jax.jit(functools.partial(primitive.bind, **(params or {})))
    _check_call(fn, primitive, params)
    _check_samples(fn, primitive, curvature, **given)
    declare_elementwise(primitive, _record(fn, curvature, **given))


def _check_arguments(curvature, bends, kinks, turns, domain) -> None:
    """Raises a ValueError that names the argument that is not valid."""
    if curvature not in CURVATURES:
        raise ValueError(
            f"curvature is {curvature!r}; expected one of {', '.join(map(repr, CURVATURES))}"
        )
    if list(bends) != sorted(bends):
        raise ValueError(f"bends is {bends}; expected increasing numbers")
    if list(kinks) != sorted(set(kinks)):
        raise ValueError(f"kinks is {kinks}; expected increasing numbers")
    for name, values in (("bends", bends), ("kinks", kinks), ("turns", turns)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is {values}; expected finite numbers")
    if bends and not CURVATURES[curvature]:
        raise ValueError(
            f"bends is {bends}; expected none unless curvature is 'convex' or 'concave'"
        )
    if bool(kinks) != (curvature == "straight"):
        raise ValueError(f"kinks is {kinks}; expected some if curvature is 'straight', else none")
    if len(domain) != 2 or not domain[0] < domain[1]:
        raise ValueError(f"domain is {domain}; expected two numbers, the lesser first")


def _check_call(fn, primitive, params) -> None:
    """Raises a ValueError unless the primitive takes one array and returns one of its shape and type."""
    aval = jax.ShapeDtypeStruct((2, 3), jnp.result_type(float))
    try:
        out = fn.lower(aval).out_info
    except Exception as error:
        raise ValueError(
            f"primitive {primitive} fails on one array with params={params}: {error}"
        ) from error
    if jax.tree.map(lambda x: (x.shape, x.dtype), out) != (aval.shape, aval.dtype):
        raise ValueError(
            f"primitive {primitive} takes {aval} to {out}; expected the same shape and type"
        )


def _record(fn, curvature, bends, kinks, turns, domain) -> Elementwise:
    """Returns the record of what is said; lines are taken as far out as samples bear out the derivative."""
    lines, kinks_of = None, None
    if sign := CURVATURES[curvature]:
        limit, curves_of = _reach(fn, sign, bends, domain), curved(sign, *bends)
        lines = lambda fn, l, u, choice, **_: within(limit, l, u, curves_of(fn, l, u, choice))
    elif kinks:
        lines, kinks_of = _straight(fn, kinks, domain), lambda **_: kinks
    inside = point_between(*domain) if np.isfinite(domain).any() else None
    return Elementwise(lines, turning(*turns, low=domain[0], high=domain[1]), kinks_of, inside)


def _straight(fn, kinks, domain):
    """Returns lines of straight pieces: chosen by its sampled pieces, and moved to the function itself."""
    ends = np.array([max(domain[0], kinks[0] - 1), *kinks, min(domain[1], kinks[-1] + 1)])
    values = np.asarray(fn(jnp.asarray(ends, float)), float)
    slopes = np.diff(values) / np.diff(ends)
    polys = [(0.0, a, v - a * z) for a, v, z in zip(slopes, values[1:], ends[1:], strict=True)]

    def straight_lines(fn, l, u, choice, **params):
        found = piecewise.lines(fn, l, u, choice, breaks=kinks, polys=polys)
        return curves.piecewise_linear(fn, l, u, kinks, found.lower_slope, found.upper_slope)

    return straight_lines


# ---------------------------------------------------------------- samples


def _intervals(marks: Sequence[float], domain: tuple[float, float]):
    """Returns ends l, u of intervals between points near and far of the marks, and points inside of each, by rows."""
    steps = np.array([0, 0.01, 0.1, 0.3, 1, 2, 4, 8, 16])
    points = np.add.outer([z for z in (0.0, *marks) if math.isfinite(z)], [*-steps, *steps])
    points = np.unique(np.clip(points, *domain).astype(jnp.result_type(float)))
    apart = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < len(points)]
    l, u = np.concatenate([np.stack([points[:-n], points[n:]]) for n in apart], 1)
    share = np.linspace(0.1, 0.9, 7, dtype=l.dtype)[:, None]
    return (np.broadcast_to(end, (7, len(l))) for end in (l, u)), (1 - share) * l + share * u


def _sampled(fn, l, z, u, smooth: bool):
    """Returns the values at all samples, the slope in the middle, and what rounding may make of them."""
    ends = jax.jit(lambda z: jax.jvp(fn, (z,), (jnp.ones_like(z),)) if smooth else (fn(z), 0 * z))
    (first, _), (value, slope), (last, _) = (map(np.asarray, ends(x)) for x in (l, z, u))
    size = np.maximum(np.maximum(abs(first), abs(last)), abs(value))
    room = 1e3 * np.finfo(z.dtype).eps * (size + abs(slope) * np.maximum(abs(l), abs(u)))
    return first, value, last, slope, room


def _is_bent(sign, l, z, u, first, value, last, slope, room, smooth: bool):
    """Returns where the chord is not above the value, or an end not above the tangent; below, where sign is -1."""
    chord = first + (last - first) * ((z - l) / (u - l)) - value
    tangent = [end - value - slope * (x - z) for end, x in ((first, l), (last, u))]
    return np.any([sign * gap < -room for gap in (chord, *(tangent if smooth else ()))], 0)


def _reach(fn, sign: int, bends, domain) -> float:
    """Returns how far from 0 the derivative still fits the function: beyond, its terms may cancel."""
    near = max([abs(z) for z in (*bends, *domain) if math.isfinite(z)], default=0) + 16
    far = (10.0 ** np.arange(math.ceil(math.log10(near)), 38)).astype(np.float32)
    l = np.concatenate([far, -2 * far])
    u, turned = l + np.tile(far, 2), np.repeat([(-1) ** len(bends), 1], len(far))
    z = l + (u - l) * np.linspace(0.1, 0.9, 33, dtype=np.float32)[:, None]
    l, u = (np.broadcast_to(end, z.shape) for end in (l, u))
    with np.errstate(all="ignore"):  # infinite values say nothing
        first, value, last, slope, room = _sampled(fn, l, z, u, True)
        room = room / 20 + np.finfo(z.dtype).tiny  # no bend is near
        bent = _is_bent(sign * turned, l, z, u, first, value, last, slope, room, True)
    wrong = (bent & (l >= domain[0]) & (u <= domain[1])).any(0).reshape(2, -1).any(0)
    return float(far[wrong.argmax()]) / 10 if wrong.any() else math.inf


def _check_samples(fn, primitive, curvature, bends, kinks, turns, domain) -> None:
    """Raises a ValueError where the function at samples, or its derivative, contradicts what is said of it."""
    (l, u), z = _intervals((*bends, *kinks, *turns, *domain), domain)
    smooth, straight = bool(CURVATURES[curvature]), curvature == "straight"
    crosses = lambda marks: np.any([(l < mark) & (mark < u) for mark in marks or (math.inf,)], 0)
    with np.errstate(invalid="ignore"):  # infinite ends say nothing
        first, value, last, slope, room = found = _sampled(fn, l, z, u, smooth)
        if np.isnan(value).any():
            raise ValueError(f"domain is {domain}; {primitive} is nan at {z[np.isnan(value)][0]}")
        least, most = np.minimum(first, last) - room, np.maximum(first, last) + room
        turned = ~crosses(turns) & ((value < least) | (value > most))
        # Turned around where the function is concave.
        sign = CURVATURES[curvature] * (-1) ** np.sum([l >= bend for bend in bends], 0)
        bent = _is_bent(sign, l, z, u, *found, smooth)
        if straight:
            bent = _is_bent(1, l, z, u, *found, False) | _is_bent(-1, l, z, u, *found, False)
    bent &= ~crosses((*bends, *kinks))
    shape = f"curvature is {curvature!r}, bends {bends}, kinks {kinks}"
    for said, wrong in ((f"turns is {turns}", turned), (shape, bent)):
        for i in np.argwhere(wrong)[:1].tolist():
            where, values = ([float(x[*i]) for x in xs] for xs in ((l, z, u), (first, value, last)))
            raise ValueError(
                f"{said}, but at {where} {primitive} is {values}, of slope {slope[*i]} in the middle"
            )
