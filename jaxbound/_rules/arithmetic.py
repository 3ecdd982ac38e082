"""Defines interval arithmetic: operands are `Interval` where uncertain, arrays where known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbound._bounds.interval import Interval


def ends(x) -> tuple[Any, Any]:
    """Returns the lower and the upper end; a known array is both."""
    return (x.lower, x.upper) if isinstance(x, Interval) else (x, x)


def times(a, b):
    """Returns ``a * b`` with ``0 * inf = 0``; infinite operands have no gradient."""
    infinite, zero = jnp.isinf(a) | jnp.isinf(b), (a == 0) | (b == 0)
    found = lax.mul(*(jnp.where(infinite, 1, z).astype(jnp.result_type(z)) for z in (a, b)))
    beyond = lax.mul(*lax.stop_gradient((a, b)))
    return jnp.where(infinite, jnp.where(zero, 0, beyond), found)


def image(fn: Callable[..., Any], x: Interval, *turns) -> Interval:
    """Returns the exact image of a function that is monotone between its turning points ``turns``."""
    inner = (jnp.clip(jnp.asarray(t, x.dtype), x.lower, x.upper) for t in turns)
    values = [fn(z) for z in (x.lower, x.upper, *inner)]
    return Interval(functools.reduce(lax.min, values), functools.reduce(lax.max, values))


def absolute(x: Interval) -> Interval:
    """Returns the exact image of the absolute value; of integers, if all have one."""
    return image(jnp.abs, x, 0.0)
