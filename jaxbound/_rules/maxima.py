"""Bounds maxima: the largest of several values, which it is, and how many are."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as jp

from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import ratio
from jaxbound._program import activations
from jaxbound._program.rewrites import mirrored
from jaxbound._rules import curves
from jaxbound._rules.arithmetic import ends
from jaxbound._rules.elementwise import declare_elementwise
from jaxbound._rules.interval_rules import IntervalRule, interval_rules, monotone
from jaxbound._rules.one_variable import Elementwise, elementwise_relaxation
from jaxbound._rules.reductions import Rows, prefixes
from jaxbound._rules.relaxations import Relaxation, relaxations
from jaxbound._rules.rounding import EXACT, Units

# ---------------------------------------------------------------- which entry is the largest


def entries(z, *, window_dimensions, window_strides, padding, base_dilation, window_dilation, **_):
    """Returns the entries of every window along a last axis, 0 in the padding."""
    z = lax.pad(
        z,
        jnp.zeros((), z.dtype),
        [(low, high, d - 1) for (low, high), d in zip(padding, base_dilation, strict=True)],
    )
    reach = [(size - 1) * d for size, d in zip(window_dimensions, window_dilation, strict=True)]
    entries = []
    for offset in itertools.product(*map(range, window_dimensions)):
        start = [o * d for o, d in zip(offset, window_dilation, strict=True)]
        stop = [n - r + s for n, r, s in zip(z.shape, reach, start, strict=True)]
        entries.append(lax.slice(z, start, stop, window_strides))
    return jnp.stack(entries, -1)


def candidates(lower, upper, valid: Any = True):
    """Returns which entries of the last axis may be the largest, and which one surely is, as no other may be."""
    least, _ = _extremes(lower.dtype)
    may = valid & (upper >= jnp.max(lower, -1, keepdims=True, where=valid, initial=least))
    return may, may & (may.sum(-1, keepdims=True) == 1)


def hull(may, x) -> Interval:
    """Returns ``[min lower, max upper]`` of the entries along the last axis that are marked in ``may``."""
    low, high = ends(x)
    least, most = _extremes(low.dtype)
    return Interval(
        jnp.min(low, -1, where=may, initial=most), jnp.max(high, -1, where=may, initial=least)
    )


def _extremes(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        return -jnp.inf, jnp.inf
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return np.array(limits.min, dtype), np.array(limits.max, dtype)
    return False, True


def arg(sign: int):
    """Returns the interval rule of argmax (1) or argmin (-1): from the first to the last index that may win."""

    def arg_image(x: Interval, *, axes, index_dtype, **_):
        lower, upper = (jnp.moveaxis(end, axes[0], -1) for end in (x.lower, x.upper))
        may, _ = (
            candidates(lower, upper) if sign > 0 else candidates(mirrored(upper), mirrored(lower))
        )
        return hull(may, jnp.broadcast_to(lax.iota(index_dtype, may.shape[-1]), may.shape))

    return arg_image


def largest(l, u):
    """Returns which entries are the largest of the last axis for sure, and which may be."""
    first, second = _two_largest(u)
    others = jnp.where(_peak(u) > 0, second, first)
    return l >= others, u >= l.max(-1, keepdims=True)


def are_largest(sign, count):
    """Returns the interval rule of which entries are the largest (sign 1) or least (-1), or of how many are."""

    def largest_image(x, *, axes):
        rows = Rows(x.shape, axes)
        ends = [end if sign > 0 else -end for end in (x.lower, x.upper)][::sign]
        found = largest(*map(rows.last, ends))
        if count:  # at least one entry is the largest
            return Interval(*(jnp.maximum(end.sum(-1), 1).astype(x.dtype) for end in found))
        return Interval(*(rows.back(end).astype(x.dtype) for end in found))

    return largest_image


# ---------------------------------------------------------------- planes


def greatest(
    windows: Callable[..., Any],
    operands: Sequence[Interval],
    image,
    choice: curves.Choice,
    valid: Any = True,
) -> Relaxation:
    """Returns planes of ``max(windows(*x), -1)`` for a linear ``windows``; entries that are not ``valid`` do not count.

    Above: ``sum w (z - l) + gamma`` with ``w = max(0, (u - gamma) / (u - l))``, for any gamma between the largest
    lower and the largest upper end. All terms are >= 0, and its own one is enough for entry i: it is
    ``gamma >= l_i`` at ``z_i = l_i``, and ``gamma + w_i (u_i - l_i) >= u_i`` at ``z_i = u_i``.
    Below: ``sum w z + (1 - sum w) m``, where m is the largest lower end if the weights w >= 0 add up to less than
    1, and the largest upper end if to more: with M the maximum, it is at most ``sum w M + (1 - sum w) M``.

    "adaptive" and "tight" take, above, the gamma of least volume that stays in the interval, the second largest
    upper end; and, below, one entry: that of the largest centre ("adaptive") or of the largest lower end ("tight").
    "parallel" takes the same weights on both sides, which add up to 1 if they can: CNN-Cert's.

    References: Boopathy et al., arXiv 1811.12395.
    """
    l, u, most, wins, bounded = _contenders(windows, operands, valid)
    open_ = wins & (u - l > 0)
    width = jnp.where(open_, u - l, 1)
    weighed = functools.partial(_weights, u, width, open_, wins & ~open_)

    def plane(weights, offset, constant):
        found = bounded & jnp.isfinite(offset)
        weights = jnp.where(found[..., None], weights, 0)
        offset = jnp.where(found, offset, constant)
        return lambda *xs: (weights * windows(*xs)).sum(-1) + offset

    least = jnp.min(jnp.where(wins, u, jnp.inf), -1, keepdims=True)
    even = jnp.clip(_level(u, jnp.where(open_, 1 / width, 0), most), most, least)
    first, second = _two_largest(jnp.where(wins, u, -jnp.inf))
    usual = even if choice.kind == "parallel" else jnp.maximum(most, second)
    gamma = choice.between("upper", *(level[..., 0] for level in (most, first, usual)))
    weights = weighed(gamma[..., None])
    # Where a weight is too small for its type and became 0, the plane need not lie above its entry.
    lost = (open_ & (u > gamma[..., None]) & (weights == 0)).any(-1)
    offset = jnp.where(lost, jnp.inf, gamma - (weights * l).sum(-1))
    upper = weights, offset, image.upper

    weights = weighed(even)
    lacking = 1 - weights.sum(-1)
    offset = jnp.where(lacking >= 0, most[..., 0], first[..., 0]) * lacking
    lower = _below(choice, [_peak(l, wins), _peak(l / 2 + u / 2, wins), weights], offset)
    return Relaxation(plane(*lower, image.lower), plane(*upper))


def _contenders(windows: Callable[..., Any], operands: Sequence[Interval], valid):
    """Returns l, u, most, wins, bounded: which entries may be the largest, and what is known of them.

    ``wins`` marks these entries, ``l`` and ``u`` are their ends, ``most`` is the largest lower end; ``bounded``
    marks the windows in which all of them are finite. Other entries do not count: those of a mask of -inf, say.
    """
    l, u = windows(*(x.lower for x in operands)), windows(*(x.upper for x in operands))
    most = jnp.max(jnp.where(valid, l, -jnp.inf), -1, keepdims=True)
    wins = valid & (u >= most)
    finite = curves.all_finite(l, u, u - l)
    bounded = (finite | ~wins).all(-1) & wins.any(-1)
    l, u = (jnp.where(wins & finite, end, 0) for end in (l, u))
    return l, u, jnp.where(bounded[..., None], most, 0), wins, bounded


def _below(choice: curves.Choice, candidates: Sequence[Any], offset):
    """Returns weights and offset of the plane below, by the alpha: at 0, at 1/2 and at 1 one of three candidates.

    They are the entry of the largest lower end, that of the largest centre, and the even weights with their
    ``offset``; in between, means of two neighbours.
    """
    share = jnp.full_like(offset, {"tight": 0, "adaptive": 0.5, "parallel": 1}[choice.kind])
    share = choice.between("lower", jnp.zeros_like(offset), 1, share)
    parts = jnp.maximum(1 - 2 * share, 0), 1 - jnp.abs(2 * share - 1), jnp.maximum(2 * share - 1, 0)
    weights = sum(part[..., None] * each for part, each in zip(parts, candidates, strict=True))
    return weights, jnp.where(parts[2] > 0, parts[2] * offset, 0)


def _level(u, inverse, otherwise):
    """Returns the gamma at which the weights ``(u - gamma) inverse`` add up to 1; ``otherwise`` where inverse is 0."""
    total = inverse.sum(-1, keepdims=True)
    gamma = ((u * inverse).sum(-1, keepdims=True) - 1) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, gamma, otherwise)


def _weights(u, width, open_, known, gamma):
    """Returns the weights of the plane above at the level ``gamma``."""
    weights = jnp.where(open_, jnp.clip(ratio(u - gamma, width), 0, 1), 0)
    # Entries of a known value may have any weight: they share what is left of 1.
    rest = jnp.clip(1 - weights.sum(-1, keepdims=True), 0, 1)
    return jnp.where(known, rest / jnp.maximum(known.sum(-1, keepdims=True), 1), weights)


def _two_largest(z):
    """Returns the two largest entries of the last axis, each with that axis kept at size 1."""
    first = z.max(-1, keepdims=True)
    return first, jnp.where(_peak(z) > 0, -jnp.inf, z).max(-1, keepdims=True)


def _peak(z, valid: Any = True):
    """Returns 1 at the largest valid entry of the last axis and 0 elsewhere."""
    largest = jnp.where(valid, z, -jnp.inf).argmax(-1)
    return jax.nn.one_hot(largest, z.shape[-1], dtype=z.dtype)


# ---------------------------------------------------------------- the tables


_max = lambda fn, l, u, choice, c: curves.one_kink(fn, l, u, c, 0.0, 1.0, choice)
_min = lambda fn, l, u, choice, c: curves.one_kink(fn, l, u, c, 1.0, 0.0, choice, "upper")
_KINK = Units(0, slope=0)
_MAX, _MIN = (
    Elementwise(lines, None, kinks=lambda known: (known,), error=_KINK) for lines in (_max, _min)
)


def _maximum(x, y, *, image, choice):
    if isinstance(x, Interval) and isinstance(y, Interval):
        stacked = lambda *xs: jnp.stack(jnp.broadcast_arrays(*xs), -1)
        return greatest(stacked, (x, y), image, choice)
    return elementwise_relaxation(_MAX, jp.max_p, x, y, image=image, choice=choice)


def _reduce_max(x, *, image, choice, axes, **_):
    return greatest(Rows(x.shape, axes).last, (x,), image, choice)


def _cummax(x, *, image, choice, axis, reverse):
    entries, valid = prefixes(x.shape, axis, reverse)
    return greatest(entries, (x,), image, choice, valid)


def _reduce_window_max(x, *, image, choice, **window):
    windows = functools.partial(entries, **window)
    return greatest(windows, (x,), image, choice, windows(jnp.ones_like(x.lower)) > 0)


interval_rules |= {
    **{p: monotone(p, error=_KINK) for p in (jp.max_p, jp.min_p)},
    **{p: monotone(p, error=EXACT) for p in (jp.reduce_max_p, jp.cummax_p)},
    jp.reduce_window_max_p: monotone(jp.reduce_window_max_p, error=EXACT),
    **{p: monotone(p, (0, 2)) for p in (jp.scatter_max_p, jp.scatter_min_p)},
    jp.argmax_p: IntervalRule(arg(1), error=EXACT),
    jp.argmin_p: IntervalRule(arg(-1), error=EXACT),
    activations.is_largest: IntervalRule(are_largest(1, count=False), (0,)),
    activations.is_least: IntervalRule(are_largest(-1, count=False), (0,)),
    activations.count_largest: IntervalRule(are_largest(1, count=True), (0,)),
    activations.count_least: IntervalRule(are_largest(-1, count=True), (0,)),
}
declare_elementwise(jp.max_p, _MAX)
declare_elementwise(jp.min_p, _MIN)
relaxations |= {
    jp.max_p: _maximum,
    jp.reduce_max_p: _reduce_max,
    jp.cummax_p: _cummax,
    jp.reduce_window_max_p: _reduce_window_max,
}
