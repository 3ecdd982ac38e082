"""Draws programs: inputs, and steps that fit the values so far and have a rule."""

from __future__ import annotations

import collections
import functools
import math

import jax
import jax.numpy as jnp

import jaxbound as jb
from random_programs.operations import AFFINE, LARGEST, OPERATIONS
from random_programs.program import Draw, Program, Step, Unfit


def spec(shape, uncertain):
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jb.Interval(array, array) if uncertain else array


def draw_inputs(d: Draw):
    inputs = []
    for _ in range(d.among((1, 1, 2, 3))):
        kind = d.among(("box", "box", "box", 1, 2, 2.0, 3, math.inf))
        inputs.append((d.shape(), kind if isinstance(kind, str) else float(kind)))
    if d.chance(0.4):
        inputs.insert(d.integer(0, len(inputs)), (d.shape(), "known"))
    return tuple(inputs)


def draw_program(d: Draw, unsupported: collections.Counter) -> Program:
    """A program of up to 7 steps; counts the operations that have no rule yet."""
    inputs, steps = draw_inputs(d), []
    d.shapes = [shape for shape, _ in inputs]
    d.uncertain = [kind != "known" for _, kind in inputs]
    d.inputs, wanted = len(inputs), d.integer(1, 7)
    # Programs of affine steps alone would be rare.
    names = list(AFFINE if d.chance(0.15) else OPERATIONS)
    while len(steps) < wanted:
        name = d.among(names)
        try:
            fn, operands = OPERATIONS[name](d)
            arrays = [spec(d.shapes[i], False) for i in operands]
            out = jax.eval_shape(fn, *arrays)
        except (Unfit, ValueError, TypeError, IndexError, ZeroDivisionError):
            continue
        if not 0 < out.size <= LARGEST or out.dtype != jnp.float32 or out.ndim > 4:
            continue
        args = [spec(d.shapes[i], d.uncertain[i]) for i in operands]
        try:
            jax.eval_shape(functools.partial(jb.ibp, fn), *args)
        except jb.UnsupportedPrimitiveError as error:
            unsupported.update([f"{name}: {', '.join(error.primitives)}"])
            continue
        steps.append(Step(name, fn, operands))
        d.shapes.append(out.shape)
        d.uncertain.append(True)
    last = len(d.shapes) - 1
    outputs = (last, d.value()) if d.chance(0.2) else (last,)
    return Program(inputs, tuple(steps), outputs)
