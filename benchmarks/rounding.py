"""Measures how exact elementwise functions are: what ``rounding="real"`` trusts, as a share of what is claimed.

``python benchmarks/rounding.py`` writes a table to standard output: of every function that states its error in units
of rounding, the largest error of values and of derivatives on a dense grid of float32 (``--step 1``: of all numbers),
of all numbers in bfloat16 and float16, and of random numbers in float64, divided by what `Units` claims. The reference
is the same function in float64, and mpmath for float64. A share of 0.5 is a safety factor of 2.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound._bounds.rounding import unit
from jaxbound._rules.elementwise import ELEMENTWISE
from jaxbound._rules.rounding import Units

mpmath: Any = importlib.import_module("mpmath")  # pip install mpmath

EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp, "expm1": mpmath.expm1, "tanh": mpmath.tanh, "atan": mpmath.atan, "erf": mpmath.erf,
    "sin": mpmath.sin, "cos": mpmath.cos, "log": mpmath.log, "log1p": mpmath.log1p, "sqrt": mpmath.sqrt,
    "rsqrt": lambda z: 1 / mpmath.sqrt(z), "logistic": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)) if z < 0 else z + mpmath.log1p(mpmath.exp(-z)),
    "silu": lambda z: z / (1 + mpmath.exp(-z)), "square": lambda z: z * z,
    "gelu_erf": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda z: z / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf(0.044715) * z**3))),
}  # fmt: skip


def stated() -> dict[Any, Units]:
    """Returns the claims of smooth functions of one operand."""
    named = {p: r.error for p, r in ELEMENTWISE.items() if isinstance(r.error, Units)}
    return {p: error for p, error in named.items() if error.slope and str(p) in EXACT}


def numbers(dtype, step: int) -> np.ndarray:
    """Returns every ``step``-th number of a type, by its bits."""
    dtype = jnp.dtype(dtype)
    count, bits = 2 ** (8 * dtype.itemsize), np.dtype(f"uint{8 * dtype.itemsize}")
    return np.arange(0, count, step, dtype=np.uint64).astype(bits).view(dtype)


def shares(primitive, error: Units, z: np.ndarray) -> tuple[float, float]:
    """Returns the largest errors of values and derivatives, divided by what is claimed, for finite results."""
    fn = lambda z: (
        primitive.bind(z, accuracy=None) if str(primitive) in ACCURATE else primitive.bind(z)
    )
    both = jax.jit(lambda z: jax.jvp(fn, (z,), (jnp.ones_like(z),)))
    u, least = unit(z.dtype), float(jnp.finfo(z.dtype).tiny)
    exact = np.asarray(z, np.float64)
    keep = np.isfinite(exact) & (np.abs(exact) <= error.within) & (np.abs(exact) >= least)
    z, exact = z[keep], exact[keep]
    found = [np.asarray(a).astype(np.float64) for a in both(z)]
    if z.dtype == np.float64:
        true = [np.asarray(a) for a in _precise(str(primitive), exact)]
    else:
        true = [np.asarray(a) for a in both(exact)]
    value = error.value({}) if callable(error.value) else error.value
    room = 8 * least * (1 + np.abs(exact))
    claims = (
        u * (value * np.abs(true[0]) + error.operand * np.abs(exact) + error.constant) + room,
        u * error.slope * (np.abs(true[1]) + error.steep) + room,
    )
    return tuple(
        float(np.max(np.abs(a - b) / c, where=np.isfinite(a) & np.isfinite(b), initial=0))
        for a, b, c in zip(found, true, claims, strict=True)
    )


def _precise(name: str, z: np.ndarray):
    """Returns values, and derivatives by differences, in 60 digits."""
    fn = EXACT[name]
    with mpmath.workdps(60):
        h = mpmath.mpf(10) ** -25
        pairs = []
        for x in map(mpmath.mpf, z):
            try:
                value, there = fn(x), fn(x * (1 + h))
                real = isinstance(value, mpmath.mpf) and isinstance(there, mpmath.mpf)
                pairs.append(
                    (float(value), float((there - value) / (x * h))) if real else (np.nan, np.nan)
                )
            except (ValueError, ZeroDivisionError, OverflowError):
                pairs.append((np.nan, np.nan))
    return np.transpose(pairs)


ACCURATE = {
    "exp",
    "expm1",
    "tanh",
    "sin",
    "cos",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "logistic",
    "cbrt",
    "tan",
    "exp2",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1021, help="of the numbers in float32")
    parser.add_argument("--points", type=int, default=1000, help="in float64")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    jax.config.update("jax_enable_x64", True)
    doubles = np.concatenate(
        [
            rng.normal(size=args.points),
            rng.choice([-1, 1], args.points) * 10.0 ** rng.uniform(-8, 3, args.points),
        ]
    )
    grids = [
        numbers(jnp.bfloat16, 1),
        numbers(np.float16, 1),
        numbers(np.float32, args.step),
        doubles,
    ]
    print("| function | " + " | ".join(f"{z.dtype} value, derivative" for z in grids) + " |")
    print("|---" * (len(grids) + 1) + "|")
    for primitive, error in stated().items():
        cells = ("{:.2f}, {:.2f}".format(*shares(primitive, error, z)) for z in grids)
        print(f"| `{primitive}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
