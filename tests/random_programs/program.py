"""Programs as data: steps on numbered values; and what they are drawn from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """``fn`` of the values at ``operands``; a step's own value is the next one."""

    name: str
    fn: Callable[..., Any]
    operands: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of ``inputs``: shapes with "known", "box" or the p of an lp ball."""

    inputs: tuple[tuple[tuple[int, ...], Any], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def values(self, *args):
        """The inputs and the value of every step."""
        env = list(args)
        for step in self.steps:
            env.append(step.fn(*(env[i] for i in step.operands)))
        return env

    def __call__(self, *args):
        env = self.values(*args)
        return [env[i] for i in self.outputs]

    def __str__(self) -> str:
        lines = [f"v{i}: {shape} {kind}" for i, (shape, kind) in enumerate(self.inputs)]
        for i, step in enumerate(self.steps, len(self.inputs)):
            lines.append(f"v{i} = {step.name}({', '.join(f'v{j}' for j in step.operands)})")
        return "\n".join([*lines, f"return {', '.join(f'v{i}' for i in self.outputs)}"])

    def ending(self, last: int) -> Program:
        """Value ``last`` alone, with the steps that lead to it."""
        needed = {last}
        for i in range(last, len(self.inputs) - 1, -1):
            if i in needed:
                needed |= set(self.steps[i - len(self.inputs)].operands)
        steps = [i for i in sorted(needed) if i >= len(self.inputs)]
        places = {i: i for i in range(len(self.inputs))}
        places |= {i: k for k, i in enumerate(steps, len(self.inputs))}
        kept = [self.steps[i - len(self.inputs)] for i in steps]
        kept = [
            dataclasses.replace(step, operands=tuple(places[i] for i in step.operands))
            for step in kept
        ]
        return Program(self.inputs, tuple(kept), (places[last],))


class Unfit(Exception):
    """The values at hand do not fit the operation."""


class Draw:
    """What a step is drawn from: random choices, and the values so far."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.shapes: list[tuple[int, ...]] = []
        self.uncertain: list[bool] = []
        self.inputs = 0

    def chance(self, probability: float) -> bool:
        return bool(self.rng.uniform() < probability)

    def among(self, choices):
        return choices[self.rng.integers(len(choices))]

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def number(self, low=-2.0, high=2.0) -> float:
        """A multiple of 1/8: exact in every type."""
        return float(np.round(self.rng.uniform(low, high) * 8) / 8)

    def array(self, *shape, low=-1.5, high=1.5):
        return np.round(self.rng.uniform(low, high, shape) * 8) / 8

    def shape(self, ndim=None) -> tuple[int, ...]:
        ndim = self.among((0, 1, 1, 1, 2, 2, 2, 3, 3)) if ndim is None else ndim
        return tuple(int(n) for n in self.rng.integers(1, 5 - (ndim > 2), ndim))

    def value(self, ndim=0, uncertain=True) -> int:
        """The index of a value of at least ``ndim`` axes, most often one of the last."""
        fits = [
            i
            for i, shape in enumerate(self.shapes)
            if len(shape) >= ndim and (self.uncertain[i] or not uncertain)
        ]
        if not fits:
            raise Unfit
        return fits[-1 - min(self.rng.geometric(0.5) - 1, len(fits) - 1)]

    def axis(self, shape) -> int:
        return self.integer(0, len(shape) - 1)

    def axes(self, shape) -> tuple[int, ...]:
        chosen = [a for a in range(len(shape)) if self.chance(0.5)]
        return tuple(chosen or [self.axis(shape)])

    def indices(self, size: int, *shape):
        return self.rng.integers(0, size, shape, np.int32)


def like(constant, x):
    return jnp.asarray(constant, x.dtype)


def fit(y, shape):
    """The elements of ``y`` over and over, in the given shape."""
    if y.shape == tuple(shape):
        return y
    places = np.arange(math.prod(shape)) % y.size
    return y.reshape(-1)[places].reshape(shape)
