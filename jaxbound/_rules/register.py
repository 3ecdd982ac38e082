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

from jaxbound._bounds.interval import Interval, outward
from jaxbound._rules import curves, piecewise
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.interval_rules import elementwise_rule, interval_rules
from jaxbound._rules.one_variable import (
    Elementwise,
    curved,
    elementwise_image,
    elementwise_relaxation,
    point_between,
    turning,
)
from jaxbound._rules.relaxations import relaxations

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
    record = _record(fn, curvature, **given)
    _check_samples(record, primitive, dict(params or {}), curvature, **given)
    ELEMENTWISE[primitive] = record
    interval_rules[primitive] = elementwise_rule(primitive, record)
    relaxations.pop(primitive, None)
    if record.lines is not None:
        relaxations[primitive] = functools.partial(elementwise_relaxation, record, primitive)


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
    lines, kinks_of = None, None
    if CURVATURES[curvature]:
        lines = curved(CURVATURES[curvature], *bends)
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
    """Returns intervals between points near and far of the marks, and nine points of each along a first axis."""
    steps = np.array([0, 0.01, 0.1, 0.3, 1, 2, 4, 8, 16])
    points = np.add.outer([z for z in (0.0, *marks) if math.isfinite(z)], [*-steps, *steps])
    points = np.unique(np.clip(points, *domain).astype(jnp.result_type(float)))
    apart = [2**i for i in range(len(points).bit_length())]
    l, u = (
        np.concatenate(side)
        for side in zip(*((points[:-n], points[n:]) for n in apart if n < len(points)), strict=True)
    )
    share = np.linspace(0, 1, 9, dtype=l.dtype)[:, None]
    return l, u, np.clip((1 - share) * l + share * u, l, u)


def _check_samples(record, primitive, params, curvature, bends, kinks, turns, domain) -> None:
    """Raises a ValueError where the image or the lines that follow from the record miss a sample."""
    l, u, points = _intervals((*bends, *kinks, *turns, *domain), domain)

    @jax.jit
    def sampled(l, u, points):
        x = Interval(l, u)
        found = elementwise_image(record, primitive, x, **params)
        image = outward(found.lower, found.upper)
        values, limits = primitive.bind(points, **params), [image.lower, image.upper]
        if record.lines is not None:
            choice = curves.Choice()
            lines = elementwise_relaxation(
                record, primitive, x, image=image, choice=choice, **params
            )
            limits += [jax.vmap(line)(points) for line in (lines.lower, lines.upper)]
        return values, [jnp.broadcast_to(limit, points.shape) for limit in limits]

    values, limits = jax.tree.map(np.asarray, sampled(l, u, points))
    if np.isnan(values[1:-1]).any():
        where = points[1:-1][np.isnan(values[1:-1])][0]
        raise ValueError(f"domain is {domain}; {primitive} is nan at {where}")
    size = np.nanmax(np.where(np.isfinite(values), abs(values), 0), 0)
    room = 1e3 * np.finfo(values.dtype).eps * (size + np.finfo(values.dtype).tiny)
    said = [f"turns is {turns}"] * 2 + [
        f"curvature is {curvature!r}, bends {bends}, kinks {kinks}"
    ] * 2
    for text, sign, limit in zip(said, (1, -1, 1, -1), limits, strict=False):
        missed = sign * (limit - values) > room
        if missed.any():
            i = tuple(np.argwhere(missed)[0])
            raise ValueError(
                f"{text}, but on [{l[i[1]]}, {u[i[1]]}] {primitive} is {values[i]} at {points[i]}, where "
                f"{'at least' if sign > 0 else 'at most'} {limit[i]} would follow"
            )
