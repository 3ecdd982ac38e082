"""Computes with rounding: the errors of sums and products, and numbers that lie on the safe side of what was computed.

With u the unit roundoff, a sum of n products, in any order, with or without FMA, is off by at most ``n u`` times the
sum of their sizes (Jeannerod and Rump, 2013). Where operands and results that are too small are flushed to 0, each
product ``a b`` is off by at most ``least (|a| + |b| + 1)`` more. Errors are computed in float32 or wider.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._bounds.interval import Interval, smallest
from jaxbound._bounds.numerics import concrete

ROUNDINGS = (None, "real")
SPARE = 8  # roundings that surround a sum: of a centre, a radius, a constant, an offset, of the error itself


def check_rounding(rounding: str | None) -> None:
    """Raises a ValueError unless ``rounding`` is among `ROUNDINGS`."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is {rounding!r}; expected one of None, 'real'")


def unit(dtype) -> float:
    """Returns the largest relative error of one rounding, where nothing over- or underflows."""
    return float(jnp.finfo(dtype).eps) / 2


def wide(x):
    """Returns ``x`` in float32, or in its own type if that is wider."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def share(terms: int, dtype) -> float:
    """Returns the error of a sum relative to the sum of sizes that was computed in the wide type; it may be infinite.

    The sum is off by at most ``n u`` times the sizes' exact sum, with ``n = terms + SPARE``, and that sum is itself
    at most the computed one divided by ``1 - n u'``, u' of the wide type.
    """
    return (terms + SPARE) * unit(dtype) * inflation(terms, dtype)


def inflation(terms: int, dtype) -> float:
    """Returns at least the quotient of the exact and the computed sum of non-negative products, in the wide type."""
    lost = (terms + SPARE) * unit(jnp.promote_types(dtype, jnp.float32))
    return 1 / (1 - lost) if lost < 0.5 else float("inf")


def size(x):
    """Returns the largest absolute value, in the wide type; of a known array, its own."""
    if isinstance(x, Interval):
        return wide(jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper)))
    value = concrete(x)  # NumPy computes with what is known: XLA would take long to fold it
    return (
        wide(jnp.abs(x))
        if value is None
        else np.abs(value.astype(jnp.promote_types(value.dtype, jnp.float32)))
    )


def finite(sizes):
    return jnp.where(jnp.isfinite(sizes), sizes, 0)


def weighed(rows, sizes):
    """Returns at least ``sum |rows| sizes`` of rows ``[K, ...]``; an infinite size of a row that is 0 adds nothing.

    A product is flushed to 0 where it loses at most ``least (|row| + size + 1)``.
    """
    flat, sizes = wide(jnp.abs(rows)).reshape(rows.shape[0], -1), wide(sizes).ravel()
    least, known = 4 * smallest(flat.dtype), finite(sizes)
    sums = flat @ jnp.stack([known + least, (known != sizes).astype(sizes.dtype)], -1)
    lost = least * (known.sum() + sizes.size)
    found = inflation(sizes.size + 2, flat.dtype) * (sums[:, 0] + lost)
    return jnp.where(sums[:, 1] > 0, jnp.inf, found)


def lowered(x, error, dtype=None):
    """Returns a number of the type that is at most ``x - error``, and x itself where the error is 0.

    With y the rounded difference, ``x - error >= y - u |y| - least``. What is returned is ``y - 4 u |y| - 4 least``
    with three more roundings, each worth at most ``u |y| (1 + 4 u) + least``.
    """
    dtype = dtype or x.dtype
    y = wide(x) - error
    y = (y - (4 * unit(dtype) * jnp.abs(y) + 4 * smallest(dtype))).astype(dtype)
    return jnp.where(error == 0, x, y) if dtype == x.dtype else y


def raised(x, error, dtype=None):
    """Returns a number of the type that is at least ``x + error``, and x itself where the error is 0."""
    return -lowered(-x, error, dtype)


def moved(interval: Interval, low, high, dtype=None) -> Interval:
    """Returns the interval with its ends moved outward by at least these."""
    return Interval(lowered(interval.lower, low, dtype), raised(interval.upper, high, dtype))


def contained(interval: Interval, dtype) -> Interval:
    """Casts both ends outward."""
    return interval if interval.dtype == dtype else moved(interval, 0, 0, dtype)


def normal(interval: Interval) -> Interval:
    """Returns an interval that contains this one, without ends that the device may take for 0.

    Whether such an end is 0 is told by its bits: a comparison may flush it.
    """
    least, bits = smallest(interval.dtype), {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}

    def tiny(end):
        pattern = lax.bitcast_convert_type(end, bits[end.dtype.itemsize])
        return (jnp.abs(end) < least) & (pattern << 1 != 0)

    lower, upper = jnp.asarray(interval.lower), jnp.asarray(interval.upper)
    return Interval(
        jnp.where(tiny(lower), -least, lower).astype(lower.dtype),
        jnp.where(tiny(upper), least, upper).astype(upper.dtype),
    )
