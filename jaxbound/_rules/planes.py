"""Bounds a function of several variables on a box by planes below and above it: the maths of the relaxations.

Sound for all ends ``l <= u``; where no plane is finite, the interval of the value takes over, element
by element.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxbound._bounds.interval import Interval, smallest
from jaxbound._rules import curves


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Holds two affine JAX functions of a primitive's uncertain operands, one below and one above it.

    On the intervals they were made for, ``lower(*x) <= primitive(*x) <= upper(*x)``; ``free`` holds, by side,
    functions that return the alphas of those lines that may lie elsewhere.
    """

    lower: Callable[..., Any]
    upper: Callable[..., Any]
    free: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)

    @property
    def alphas(self) -> dict[str, Any]:
        """Returns the alphas of the free lines, by side: where they lie."""
        return {side: alpha() for side, alpha in self.free.items()}


# ---------------------------------------------------------------- products


def bilinear(
    product: Callable[[Any, Any], Any], x: Interval, y: Interval, image, choice: curves.Choice
) -> Relaxation:
    """Returns planes of a bilinear ``product`` (linear in each operand) whose terms are ``x_i y_j``.

    With centres c, radii r, ``x = xc + a`` and ``y = yc + b``, a term is ``x yc + xc y - xc yc + a b``, and
    ``a b`` lies above ``s (a yr + xr b) - xr yr`` and below ``s (a yr - xr b) + xr yr`` for all s in [-1, 1]:
    at -1 and 1 these are McCormick's planes. Usually s is 0.
    """
    (xc, xr), (yc, yr) = _bounded_part(x), _bounded_part(y)
    # An unbounded operand has the radius inf: each of its terms is inf or NaN (times 0), and so are sums with it.
    bounded = jnp.isfinite(product(_radius(x), _radius(y)))
    # Terms that are too small for their type are lost from the centre; backward, the loss may grow.
    center = product(xc, yc)
    reach = product(xr, yr) + 2 * smallest(center.dtype)
    bounded &= curves.all_finite(center, reach)
    below = jnp.where(bounded, -center - reach, image.lower)
    above = jnp.where(bounded, -center + reach, image.upper)

    def side(name, constant, sign):
        tilt = choice.between(name, -jnp.ones_like(below), 1.0, jnp.zeros_like(below))

        def plane(a, b):
            slopes = product(a, yc) + product(xc, b)
            if name in choice.given:
                slopes += tilt * (product(a - xc, yr) + sign * product(xr, b - yc))
            return jnp.where(bounded, slopes, 0) + constant

        return plane

    return Relaxation(side("lower", below, 1), side("upper", above, -1))


def power(x: Interval, y: Interval, image) -> Relaxation:
    """Returns planes of ``x^y = exp(y log x)`` where ``x > 0``, composed of lines and planes of its parts.

    The lines of exp are applied to the planes of the product of y and log x, and these to the lines of log.
    """
    inside = x.lower > 0
    x, found = (
        Interval(*(jnp.where(inside, end, 1) for end in (z.lower, z.upper))) for z in (x, image)
    )
    logs = curves.concave(jnp.log, x.lower, x.upper)
    log_x, (l, u) = (
        Interval(jnp.log(x.lower), jnp.log(x.upper)),
        map(jnp.log, (found.lower, found.upper)),
    )
    exp = curves.convex(jnp.exp, l, u, jnp.minimum(Interval(l, u).center, l + 0.99))
    center, reach = log_x.center * y.center, log_x.radius * y.radius

    def side(slope, intercept, below, constant):
        rises = (y.center >= 0) == below
        log_slope = jnp.where(rises, logs.lower_slope, logs.upper_slope)
        log_intercept = jnp.where(rises, logs.lower_intercept, logs.upper_intercept)
        of_x, of_y = slope * y.center * log_slope, slope * log_x.center
        rest = y.center * log_intercept - center + (-reach if below else reach)
        rest = slope * rest + intercept
        finite = inside & curves.all_finite(of_x, of_y, rest)
        of_x, of_y = (jnp.where(finite, part, 0) for part in (of_x, of_y))
        rest = jnp.where(finite, rest, constant)
        return lambda a, b: of_x * a + of_y * b + rest

    return Relaxation(
        side(exp.lower_slope, exp.lower_intercept, True, image.lower),
        side(exp.upper_slope, exp.upper_intercept, False, image.upper),
    )


def quotient(x: Interval, y: Interval, image, choice: curves.Choice) -> Relaxation:
    """Returns planes of ``x / y`` where y keeps its sign: those of the product ``x r``, with lines for ``r = 1 / y``.

    They are computed in units of the largest ``|y|``, so that r is at least 1 and cannot vanish; where a slope
    does vanish in its number type, the interval takes over.
    """
    sign = jnp.where(y.upper < 0, -1, 1).astype(y.dtype)
    near, unit = jnp.minimum(jnp.abs(y.lower), jnp.abs(y.upper)), _largest(y)
    one_sign = ((y.lower > 0) | (y.upper < 0)) & jnp.isfinite(unit)
    unit = jnp.where(one_sign, unit, 1)
    near = jnp.where(one_sign, near / unit, 1)
    # x / y = (sign x / unit) / (|y| / unit)
    scale = sign * unit
    (xc, xr), least = _bounded_part(x), smallest(x.dtype) / jnp.finfo(x.dtype).eps
    xc, xr = xc / scale, xr / unit
    r = Interval(jnp.ones_like(near), 1 / near)
    rc, rr = r.center, r.radius
    lines = curves.convex(lambda z: 1 / z, near, jnp.ones_like(near))
    found = one_sign & jnp.isfinite(_radius(x)) & curves.all_finite(rr, *lines)
    found &= (jnp.abs(xc) + xr >= least) | (_largest(x) == 0)

    def side(name, constant, below):
        tilt = choice.between(name, -jnp.ones_like(constant), 1.0, jnp.zeros_like(constant))
        of_x, of_r = rc + tilt * rr, xc + (tilt if below else -tilt) * xr
        reach = -xr * rr if below else xr * rr
        rest = reach - xc * rc - tilt * (xc * rr + (xr if below else -xr) * rc)
        rises = (of_r >= 0) == below
        of_y = of_r * jnp.where(rises, lines.lower_slope, lines.upper_slope)
        rest += of_r * jnp.where(rises, lines.lower_intercept, lines.upper_intercept)
        slopes = [of_x / scale, of_y / scale]
        kept = found & curves.all_finite(*slopes, rest)
        for whole, slope in zip((of_x, of_y), slopes, strict=True):
            kept &= (whole == 0) | (jnp.abs(slope) >= smallest(x.dtype))
        slopes = [jnp.where(kept, slope, 0) for slope in slopes]
        rest = jnp.where(kept, rest, constant)
        return lambda a, b: slopes[0] * a + slopes[1] * b + rest

    return Relaxation(side("lower", image.lower, True), side("upper", image.upper, False))


def _largest(x: Interval):
    return jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))


def angle(y, x, image) -> Relaxation:
    """Returns planes of ``atan2(y, x)`` off the negative x-axis: the tangent at the centre, -+ Taylor's remainder.

    The second derivative along any direction is at most ``1 / (x^2 + y^2)`` in size: the angle is the imaginary
    part of the logarithm, whose second derivative is ``-1 / z^2``.
    """
    uncertain = [isinstance(z, Interval) for z in (y, x)]
    y, x = (z if isinstance(z, Interval) else Interval(z, z) for z in (y, x))
    one_branch = (x.lower > 0) | (y.lower > 0) | (y.upper < 0)
    # The angle does not depend on the scale: in units of the largest end, squares neither overflow nor vanish.
    largest = jnp.maximum(_largest(y), _largest(x))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    y, x = (Interval(z.lower / scale, z.upper / scale) for z in (y, x))
    (yc, yr), (xc, xr) = _bounded_part(y), _bounded_part(x)
    near = [jnp.maximum(jnp.maximum(z.lower, -z.upper), 0) for z in (y, x)]
    distance, square = near[0] ** 2 + near[1] ** 2, yc**2 + xc**2
    away, info = distance > 0, jnp.finfo(square.dtype)
    error = (xr**2 + yr**2) / (2 * jnp.where(away, distance, 1))
    square, xc = jnp.where(away, square, 1), jnp.where(away, xc, 1)
    found = one_branch & jnp.isfinite(_radius(y) + _radius(x))
    # Slopes, which are divided by ``scale``, must neither overflow nor vanish.
    found &= (distance > jnp.sqrt(info.tiny)) & (scale < info.eps / info.tiny)
    found &= curves.all_finite(error, 1 / scale / square) & (2 * error < image.upper - image.lower)
    slopes = [jnp.where(found, slope, 0) for slope in (xc / square, -yc / square)]
    parts = list(zip(slopes, (yc, xc), uncertain, strict=True))
    rest = jnp.arctan2(yc, xc) - sum(slope * center for slope, center, moves in parts if moves)
    slopes = [slope / scale for slope, _, moves in parts if moves]

    def plane(error, constant):
        offset = jnp.where(found, rest + error, constant)
        return lambda *z: sum(slope * a for slope, a in zip(slopes, z, strict=True)) + offset

    return Relaxation(plane(-error, image.lower), plane(error, image.upper))


def modulus(x, y, image) -> Relaxation:
    """Returns planes of ``|z| = sqrt(x^2 + y^2)`` on a box of centre c and radii r.

    Below, ``<c, z> / |c|``, by Cauchy and Schwarz. Above, for ``m = sqrt(|c|^2 + |r|^2)``: the root lies below its
    tangent ``|z|^2 / 2m + m / 2``, squares below their chords ``2 c z + r^2 - c^2``; together ``(<c, z> + |r|^2) / m``.
    """
    uncertain = [isinstance(z, Interval) for z in (x, y)]
    box = [z if isinstance(z, Interval) else Interval(z, z) for z in (x, y)]
    # Planes scale with the box: in units of its largest end, squares neither overflow nor vanish.
    largest = jnp.maximum(*(jnp.maximum(-z.lower, z.upper) for z in box))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    parts = [_bounded_part(Interval(z.lower / scale, z.upper / scale)) for z in box]
    (centers, radii), tiny = zip(*parts, strict=True), jnp.finfo(scale.dtype).tiny
    size = _norm(centers)
    bounded = jnp.isfinite(_radius(box[0]) + _radius(box[1])) & (largest > 0)

    def plane(found, length, rest, constant):
        length = jnp.where(found, length, 1)
        slopes = [jnp.where(found, c / length, 0) for c in centers]
        pairs = list(zip(slopes, centers, uncertain, strict=True))
        offset = scale * (rest / length + sum(s * c for s, c, moves in pairs if not moves))
        slopes = [slope for slope, moves in zip(slopes, uncertain, strict=True) if moves]
        offset = jnp.where(found, offset, constant)
        return lambda *z: sum(slope * a for slope, a in zip(slopes, z, strict=True)) + offset

    length = _norm([*centers, *radii])
    return Relaxation(
        plane(bounded & (size > tiny), size, 0, image.lower),
        plane(bounded, length, sum(r**2 for r in radii), image.upper),
    )


def _norm(parts):
    """Returns the root of the sum of squares, with a finite gradient at 0."""
    square = sum(part**2 for part in parts)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _radius(x: Interval):
    return jnp.where(curves.all_finite(x.lower, x.upper), x.radius, jnp.inf)


def _bounded_part(x: Interval):
    """Returns centre and radius; both are 0 where an end is infinite."""
    bounded = curves.all_finite(x.lower, x.upper)
    return tuple(jnp.where(bounded, part, 0) for part in (x.center, x.radius))
