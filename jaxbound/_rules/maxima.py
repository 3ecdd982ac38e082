"""Bounds the largest of several values on a box by planes below and above it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxbound._bounds.interval import Interval
from jaxbound._rules import curves
from jaxbound._rules.planes import Relaxation
from jaxbound._rules.powers import ratio


def _level(u, inverse, otherwise):
    """Returns the gamma at which the weights ``(u - gamma) inverse`` add up to 1; ``otherwise`` where inverse is 0."""
    total = inverse.sum(-1, keepdims=True)
    gamma = ((u * inverse).sum(-1, keepdims=True) - 1) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, gamma, otherwise)


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
