"""Computes with functions of one variable made of straight and quadratic pieces, by elementwise primitives."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.extend.core import primitives as jp

LIMIT = 6  # break points of a function, at most

Poly = tuple[float, float, float]  # a, b, c of ``a z^2 + b z + c``


class Unfit(Exception):
    """Signals that a function has other pieces, or too many."""


class Pieces(NamedTuple):
    """Describes a function by its break points, the polynomials beside them, and its values at them."""

    breaks: tuple[float, ...]
    polys: tuple[Poly, ...]
    at: tuple[float, ...]

    def is_continuous(self, eps: float) -> bool:
        """Tells whether the pieces, and the values, agree at the break points up to rounding by ``eps``."""
        for i, (z, value) in enumerate(zip(self.breaks, self.at, strict=True)):
            left, right = self.polys[i : i + 2]
            room = 8 * eps * max(_size(left, z), _size(right, z))
            if max(abs(_value_at(left, z) - value), abs(_value_at(right, z) - value)) > room:
                return False
        return True


IDENTITY = Pieces((), ((0.0, 1.0, 0.0),), ())


def constant(value: float) -> Pieces:
    return Pieces((), ((0.0, 0.0, float(value)),), ())


def _value_at(poly: Poly, z: float) -> float:
    a, b, c = poly
    return a * z * z + b * z + c


def _size(poly: Poly, z: float) -> float:
    a, b, c = poly
    return abs(a) * z * z + abs(b * z) + abs(c)


def _refined(f: Pieces, breaks: list[float]) -> Pieces:
    """Returns the same function with all of these break points, which include its own."""
    known = dict(zip(f.breaks, f.at, strict=True))
    polys = [f.polys[bisect.bisect_right(f.breaks, left)] for left in (-math.inf, *breaks)]
    at = [known[z] if z in known else _value_at(polys[i], z) for i, z in enumerate(breaks)]
    return Pieces(tuple(breaks), tuple(polys), tuple(at))


def _simplified(f: Pieces) -> Pieces:
    """Returns the function without the break points at which nothing changes; raises `Unfit` for too many."""
    if not all(
        number == 0 or 1e-100 < abs(number) < 1e100
        for number in (*f.breaks, *f.at, *sum(f.polys, ()))
    ):
        raise Unfit  # discriminants would overflow
    positive: list[Any] = [tuple(x + 0.0 for x in poly) for poly in f.polys]  # no -0.0
    breaks, polys, at = [], positive[:1], []
    for z, poly, value in zip(f.breaks, positive[1:], f.at, strict=True):
        if poly != polys[-1] or abs(_value_at(poly, z) - value) > 1e-12 * _size(poly, z):
            breaks.append(z + 0.0)
            polys.append(poly)
            at.append(value + 0.0)
    if len(breaks) > LIMIT:
        raise Unfit
    return Pieces(tuple(breaks), tuple(polys), tuple(at))


def _pointwise(of_polys: Callable[..., Poly], of_values: Callable[..., float], *fs: Pieces):
    """Combines functions on their common break points: piece by piece between them, value by value at them."""
    breaks = sorted({z for f in fs for z in f.breaks})
    fs = tuple(_refined(f, breaks) for f in fs)
    polys = tuple(map(of_polys, *(f.polys for f in fs)))
    return _simplified(Pieces(tuple(breaks), polys, tuple(map(of_values, *(f.at for f in fs)))))


# ---------------------------------------------------------------- arithmetic


def _add(f: Pieces, g: Pieces, **_) -> Pieces:
    return _pointwise(lambda p, q: tuple(map(operator.add, p, q)), operator.add, f, g)


def _neg(f: Pieces, **_) -> Pieces:
    return _pointwise(lambda p: tuple(map(operator.neg, p)), lambda value: -value, f)


def _sub(f: Pieces, g: Pieces, **_) -> Pieces:
    return _add(f, _neg(g))


def _product(p: Poly, q: Poly) -> Poly:
    (a, b, c), (d, e, f) = p, q
    if a * d or a * e + b * d:
        raise Unfit
    return a * f + b * e + c * d, b * f + c * e, c * f


def _mul(f: Pieces, g: Pieces, **_) -> Pieces:
    return _pointwise(_product, operator.mul, f, g)


def _div(f: Pieces, g: Pieces, **_) -> Pieces:
    if g.breaks or any(g.polys[0][:2]) or not g.polys[0][2]:
        raise Unfit
    by = g.polys[0][2]
    return _pointwise(lambda p: tuple(x / by for x in p), lambda value: value / by, f)


def _integer_pow(f: Pieces, *, y: int, **_) -> Pieces:
    if y != 2:
        raise Unfit
    return _mul(f, f)


# ---------------------------------------------------------------- signs and choices


def _roots(poly: Poly) -> list[float]:
    """Returns the real roots; ``q`` adds terms of one sign, so that none cancels."""
    a, b, c = poly
    if not a:
        return [-c / b] if b else []
    disc = b * b - 4 * a * c
    if disc < 0:
        return []
    q = -(b + math.copysign(math.sqrt(disc), b)) / 2
    return [q / a, *([c / q] if q else [])]


def _sign_of(value: float) -> float:
    return float((value > 0) - (value < 0))


def _sign(f: Pieces, **_) -> Pieces:
    """Returns the sign of a function, which is constant between its break points and roots."""
    ends = [-math.inf, *f.breaks, math.inf]
    found = {r for i, p in enumerate(f.polys) for r in _roots(p) if ends[i] < r < ends[i + 1]}
    breaks = sorted({*f.breaks, *found})
    f = _refined(f, breaks)
    inner = [(a + b) / 2 for a, b in itertools.pairwise(breaks)]
    if breaks:
        far = 1 + abs(breaks[0]) + abs(breaks[-1])
        inner = [breaks[0] - far, *inner, breaks[-1] + far]
    signs = [_sign_of(_value_at(p, z)) for p, z in zip(f.polys, inner or [0.0], strict=True)]
    at = [
        0.0 if abs(value) <= 1e-12 * max(_size(p, z) for p in f.polys[i : i + 2]) else _sign_of(value)
        for i, (z, value) in enumerate(zip(breaks, f.at, strict=True))
    ]  # fmt: skip
    return _simplified(Pieces(f.breaks, tuple((0.0, 0.0, s) for s in signs), tuple(at)))


def _compare(holds: Callable[[float, float], bool]):
    """Returns the comparison of two functions: 1 where the sign of their difference compares so with 0, else 0."""

    def compare(f: Pieces, g: Pieces, **_) -> Pieces:
        of = lambda sign: float(holds(sign, 0.0))
        return _pointwise(lambda p: (0.0, 0.0, of(p[2])), of, _sign(_sub(f, g)))

    return compare


def _select(which: Pieces, *cases: Pieces, **_) -> Pieces:
    if any(any(p[:2]) for p in which.polys):
        raise Unfit
    return _pointwise(
        lambda w, *polys: polys[int(w[2])], lambda w, *values: values[int(w)], which, *cases
    )


def _max(f: Pieces, g: Pieces, **_) -> Pieces:
    return _select(_compare(operator.gt)(f, g), g, f)


def _min(f: Pieces, g: Pieces, **_) -> Pieces:
    return _select(_compare(operator.gt)(f, g), f, g)


OPERATIONS: dict[Any, Callable[..., Pieces]] = {
    jp.add_p: _add,
    jp.add_jaxvals_p: _add,
    jp.sub_p: _sub,
    jp.neg_p: _neg,
    jp.mul_p: _mul,
    jp.div_p: _div,
    jp.integer_pow_p: _integer_pow,
    jp.abs_p: lambda f, **_: _max(f, _neg(f)),
    jp.sign_p: _sign,
    jp.max_p: _max,
    jp.min_p: _min,
    jp.select_n_p: _select,
    jp.gt_p: _compare(operator.gt),
    jp.ge_p: _compare(operator.ge),
    jp.lt_p: _compare(operator.lt),
    jp.le_p: _compare(operator.le),
    jp.eq_p: _compare(operator.eq),
    jp.ne_p: _compare(operator.ne),
    # Truth values are the numbers 0 and 1.
    jp.and_p: _mul,
    jp.or_p: _max,
    jp.not_p: lambda f, **_: _sub(constant(1), f),
    jp.convert_element_type_p: lambda f, **_: f,
    jp.copy_p: lambda f, **_: f,
}
# The operations that are affine if all operands but one are numbers.
AFFINE = frozenset(
    {jp.add_p, jp.add_jaxvals_p, jp.sub_p, jp.neg_p, jp.mul_p, jp.div_p, jp.copy_p}
    | {jp.convert_element_type_p}
)
