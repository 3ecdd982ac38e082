"""Bounds products: of elements, of matrices, convolutions, normalised values, and what is solved for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval, intersect, smallest
from jaxbound._program import activations
from jaxbound._rules import curves, rounding
from jaxbound._rules.arithmetic import ends, times
from jaxbound._rules.convolution import transpose_convolution
from jaxbound._rules.integers import any_integer, unless_it_wraps, where_defined
from jaxbound._rules.interval_rules import IntervalRule, interval_rules
from jaxbound._rules.linear_rules import LinearRule, among, linear_rules
from jaxbound._rules.relaxations import Relaxation, relaxations
from jaxbound._rules.terms import contracted, reached, taps, touched

# ---------------------------------------------------------------- intervals


def mul(x, y, **_):
    """Bounds ``x * y``, which is extreme at the ends of both operands."""
    if not isinstance(y, Interval):
        x, y = y, x
    (xl, xu), (yl, yu) = ends(x), ends(y)
    # With a known factor it is also right for the coefficients of linear bounds, where l > u occurs.
    if not isinstance(x, Interval):
        low, high, ahead = times(x, yl), times(x, yu), x >= 0
        return Interval(jnp.where(ahead, low, high), jnp.where(ahead, high, low))
    products = [times(a, b) for a in (xl, xu) for b in (yl, yu)]
    return Interval(functools.reduce(lax.min, products), functools.reduce(lax.max, products))


def bilinear_radius(primitive):
    """Returns the function for the radius: ``|W| r``; with two uncertain operands ``|Wc| r + rW (|c| + r)`` (Rump)."""

    def product_radius(x, y, **params):
        (xc, xr), (yc, yr) = _midpoint(x), _midpoint(y)
        terms = []
        if xr is not None:
            terms.append(primitive.bind(xr, jnp.abs(yc), **params))
        if yr is not None:
            terms.append(primitive.bind(jnp.abs(xc) + (0 if xr is None else xr), yr, **params))
        return sum(terms)

    return product_radius


def _midpoint(x):
    """Returns centre and radius: 0 and inf where an end is infinite; the radius of a known array is None."""
    if not isinstance(x, Interval):
        return x, None
    bounded = jnp.isfinite(x.lower) & jnp.isfinite(x.upper)
    return jnp.where(bounded, x.center, 0), jnp.where(bounded, x.radius, jnp.inf)


def by_signs(product, x, y) -> Interval:
    """Bounds a product by those of both operands' positive and negative parts, which are monotone.

    It is exact unless both operands change sign.
    """
    (xl, xu), (yl, yu) = (
        [(jnp.maximum(end, 0), jnp.minimum(end, 0)) for end in ends(z)] for z in (x, y)
    )
    least = ((xl[0], yl[0]), (xu[0], yl[1]), (xl[1], yu[0]), (xu[1], yu[1]))
    most = ((xu[0], yu[0]), (xl[0], yu[1]), (xu[1], yl[0]), (xl[1], yl[1]))
    return Interval(*(sum(product(a, b) for a, b in pairs) for pairs in (least, most)))


def bilinear_rule(primitive, error: rounding.Terms) -> IntervalRule:
    """Returns the interval rule of a bilinear ``primitive``: the product of the centres, -+ the radius.

    For two uncertain operands it is intersected with the bounds `by_signs`.
    """
    radius = bilinear_radius(primitive)

    def bilinear_image(x, y, **params):
        if not jnp.issubdtype(jnp.result_type(ends(x)[0]), jnp.floating):
            return _exact_product(primitive, x, y, params)
        center = primitive.bind(_midpoint(x)[0], _midpoint(y)[0], **params)
        r = radius(x, y, **params)
        found = Interval(center - r, center + r)
        if not (isinstance(x, Interval) and isinstance(y, Interval)):
            return found
        return intersect(found, by_signs(functools.partial(primitive.bind, **params), x, y))

    return IntervalRule(bilinear_image, radius=radius, exact=True, error=error)


def _exact_product(primitive, x, y, params):
    """Bounds a product of truth values, or of integers by their signs, unless its sums may leave the type."""
    product = functools.partial(primitive.bind, **params)
    (xl, xu), (yl, yu) = ends(x), ends(y)
    if xl.dtype == bool:
        return Interval(product(xl, yl), product(xu, yu))
    found = by_signs(product, x, y)
    sizes = (jnp.maximum(*(abs(jnp.asarray(end, jnp.float32)) for end in ends(z))) for z in (x, y))
    size = primitive.bind(*sizes, **params | {"preferred_element_type": None})
    inside = size <= 0.99 * jnp.iinfo(found.dtype).max
    return where_defined(inside, found.lower, found.upper)


def normalised_image(x, r, *, limit):
    product = mul(x, r)
    within = lambda end: jnp.clip(end, -limit, limit)
    return Interval(within(jnp.fmax(product.lower, -limit)), within(jnp.fmin(product.upper, limit)))


def scatter_product(operand, indices, updates: Interval, **params) -> Interval:
    """Returns the exact image of a known ``operand`` times all updates of each element, however many.

    One end is the product of the updates' ends of greatest size. The other replaces one factor in it, of those
    that cross 0 the one that loses the least size by it, by its opposite end; where none crosses 0, all factors.
    """
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    options = {name: params[name] for name in names}
    l, u = updates.lower, updates.upper
    if jnp.issubdtype(l.dtype, jnp.integer):  # products may wrap around
        return any_integer(operand)
    larger = jnp.abs(u) >= jnp.abs(l)
    far, near = jnp.where(larger, u, l), jnp.where(larger, l, u)
    crosses = (l < 0) & (u > 0)
    bounded = crosses & jnp.isfinite(far)
    loss = jnp.abs(jnp.where(bounded, near, 0) / jnp.where(bounded, far, 1))
    kept = jnp.where(bounded, jnp.maximum(loss, jnp.finfo(l.dtype).tiny), crosses)
    best = lax.scatter_max(jnp.zeros_like(operand), indices, kept.astype(l.dtype), **options)
    one, other = (lax.scatter_mul(operand, indices, end, **options) for end in (far, near))
    other = jnp.where(best > 0, -one * best, other)
    return Interval(jnp.minimum(one, other), jnp.maximum(one, other))


def triangular_solve(a, b: Interval, *, left_side, **params) -> Interval:
    """Bounds the inverse of a known matrix times b, by the centre and the radius of b."""

    def solve(z):
        return jp.triangular_solve_p.bind(a, z, left_side=left_side, **params)

    size = jnp.abs(solve(jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)))
    center, radius = solve(b.center), size @ b.radius if left_side else b.radius @ size
    return Interval(center - radius, center + radius)


# ---------------------------------------------------------------- planes


def bilinear_planes(multiply, x: Interval, y: Interval, *, image, choice, **params) -> Relaxation:
    """Returns planes of a bilinear function (linear in each operand) whose terms are ``x_i y_j``.

    With centres c, radii r, ``x = xc + a`` and ``y = yc + b``, a term is ``x yc + xc y - xc yc + a b``, and
    ``a b`` lies above ``s (a yr + xr b) - xr yr`` and below ``s (a yr - xr b) + xr yr`` for all s in [-1, 1]:
    at -1 and 1 these are McCormick's planes. Usually s is 0.
    """
    product = functools.partial(multiply, **params)
    (xc, xr), (yc, yr) = bounded_part(x), bounded_part(y)
    # An unbounded operand has the radius inf: each of its terms is inf or NaN (times 0), and so are sums with it.
    bounded = jnp.isfinite(product(radius_of(x), radius_of(y)))
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


def radius_of(x: Interval):
    return jnp.where(curves.all_finite(x.lower, x.upper), x.radius, jnp.inf)


def bounded_part(x: Interval):
    """Returns centre and radius; both are 0 where an end is infinite."""
    bounded = curves.all_finite(x.lower, x.upper)
    return tuple(jnp.where(bounded, part, 0) for part in (x.center, x.radius))


def largest_size(x: Interval):
    return jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))


def normalised_lines(x, r, *, image, choice, limit):
    """Returns the product's planes, or the interval where the planes leave the limit half-way to their extremes.

    Half-way, because operands are on average half a radius away from their centres.
    """
    product = bilinear_planes(jnp.multiply, x, r, image=image, choice=choice)
    lower, upper = (plane(x.center, r.center) for plane in (product.lower, product.upper))
    apart = (x.radius * jnp.abs(r.center) + jnp.abs(x.center) * r.radius) / 2
    lower, upper = lower - apart, upper + apart
    within = lambda keep, plane, end: lambda *z: jnp.where(keep, plane(*z), end)
    return dataclasses.replace(
        product,
        lower=within(lower > -limit, product.lower, image.lower),
        upper=within(upper < limit, product.upper, image.upper),
    )


# ---------------------------------------------------------------- the tables


def _one_of_two(uncertain):
    """Returns the position of the only uncertain operand, in which a product is linear; None if there are several."""
    return [uncertain.index(True)] if sum(uncertain) == 1 else None


def pick_product(indices, shape: Sequence[int], one, other, *, dimension_numbers, **_):
    """Returns entries of the known operand as rows, if each output sums over all of the other operand; else None."""
    sides, batch = dimension_numbers
    weights, (axes, summed) = (other, sides) if one is None else (one, sides[::-1])
    size = math.prod(shape)
    if not size or batch[0] or size > math.prod(shape[i] for i in axes):
        return None
    order = [j for _, j in sorted(zip(axes, summed, strict=True))]
    weights = jnp.moveaxis(weights, order, range(-len(order), 0)).reshape(-1, *shape)
    return jnp.take(weights, indices, axis=0, mode="clip")


interval_rules |= {
    jp.mul_p: IntervalRule(unless_it_wraps(mul), exact=True, error=rounding.PRODUCT),
    jp.dot_general_p: bilinear_rule(
        jp.dot_general_p, rounding.Terms(contracted, reached, factors=True)
    ),
    jp.conv_general_dilated_p: bilinear_rule(
        jp.conv_general_dilated_p, rounding.Terms(taps, touched, factors=True)
    ),
    activations.normalised: IntervalRule(normalised_image),
    # An uncertain first operand is taken out before, as a factor: only the updates are uncertain here.
    jp.scatter_mul_p: IntervalRule(scatter_product, (2,)),
    jp.triangular_solve_p: IntervalRule(triangular_solve, (1,), exact=True),
}
linear_rules |= {
    jp.mul_p: LinearRule(_one_of_two, keeps="place"),
    jp.dot_general_p: LinearRule(_one_of_two, sums="elements", pick=pick_product),
    jp.conv_general_dilated_p: LinearRule(
        _one_of_two, sums="elements", transpose=transpose_convolution
    ),
    jp.triangular_solve_p: LinearRule(among((1,)), sums="elements"),
}
relaxations[activations.normalised] = normalised_lines
for _p in (jp.mul_p, jp.dot_general_p, jp.conv_general_dilated_p):
    relaxations[_p] = functools.partial(bilinear_planes, _p.bind)
