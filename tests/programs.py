"""Random programs: well-formed JAX functions of a few steps, regions for them, and what must hold.

A seed makes a program, its regions and the calls that bound it. Samples, corners and ascents towards the
extremes, in float64, must lie inside of all bounds; where every step is affine, the bounds are exact.

    python tests/programs.py --minutes 20     # seeds from the clock on; --first 7 starts at 7
    python tests/programs.py --seed 7         # one, and the steps that lead to its first wrong value
"""

from __future__ import annotations

import argparse
import collections
import itertools
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from oracle import precision
from random_programs.checks import Alarm, boxes_of, check, draw_calls
from random_programs.drawing import draw_program
from random_programs.program import Draw, Program
from random_programs.regions import draw_regions, truth


def case(seed: int, short: bool, unsupported: collections.Counter):
    """What a seed makes: a program, its regions, calls, a type, and how they are called."""
    d = Draw(seed)
    program = draw_program(d, unsupported)
    args, calls = draw_regions(d, program), draw_calls(d)
    dtype = d.among(("float32", "float64"))
    how = d.among(["vmap"] * 8 + ["each", "plain"])
    if short:  # intervals, and the method or the linear bounds
        del calls[list(calls)[1 + seed % 2]]
        how = "vmap"
    return program, args, calls, dtype, how


def conditioned(program: Program, args, seed: int, dtype: str):
    """How much rounding moves the program itself, per box."""
    if dtype == "float64":
        return np.zeros(boxes_of(args))
    points, values = truth(program, args, seed)
    axes = [None if kind == "known" else 0 for _, kind in program.inputs]
    few = jax.tree.map(lambda x: jnp.asarray(x, dtype), points)
    fn = jax.vmap(jax.vmap(program, axes), axes)
    rounded = jax.jit(fn)(*[p[0] if a is None else p for p, a in zip(few, axes, strict=True)])
    return np.max(
        [
            np.nan_to_num(np.abs(np.asarray(r, float) - values[o]), nan=0, posinf=np.inf)
            .reshape(len(r), -1)
            .max(1)
            for r, o in zip(rounded, program.outputs, strict=True)
        ],
        axis=0,
    )


def run(seed: int, unsupported: collections.Counter, short=False) -> str:
    """An empty text, or what a seed found."""
    program, args, calls, dtype, how = case(seed, short, unsupported)
    head = f"seed {seed}, {dtype}, {how}\n{program}"
    try:
        alarms = check(program, args, calls, dtype, seed, how)
    except Exception as error:
        return f"{head}\n{''.join(traceback.format_exception(error)[-4:])}"
    if alarms and dtype == "float32":
        alarms = [alarm for alarm in alarms if not ill_conditioned(program, args, seed, alarm)]
    if not alarms:
        return ""
    return "\n".join(
        [
            head,
            *(f"box {a.box}: {a.what}" for a in alarms),
            shortest(program, args, calls, dtype, seed, alarms[0]),
        ]
    )


def ill_conditioned(program: Program, args, seed: int, alarm: Alarm) -> bool:
    return alarm.beyond < 64 * conditioned(program, args, seed, "float32")[alarm.box]


def shortest(program: Program, args, calls, dtype: str, seed: int, alarm: Alarm) -> str:
    """The first value of the program that is wrong in the box of the alarm."""
    batched = [None if kind == "known" else 0 for _, kind in program.inputs]
    args = [
        a if axis is None else jax.tree.map(lambda x: x[alarm.box : alarm.box + 1], a)
        for a, axis in zip(args, batched, strict=True)
    ]
    calls = {alarm.call: calls[alarm.call]}
    for last in range(len(program.inputs), len(program.inputs) + len(program.steps)):
        part = program.ending(last)
        found = check(part, args, calls, dtype, seed, "vmap")
        if found:
            avals = [
                a if axis is None else jax.tree.map(lambda x: x[0], a)
                for a, axis in zip(args, batched, strict=True)
            ]
            plain = [
                a if kind == "known" else np.zeros(shape, dtype)
                for a, (shape, kind) in zip(avals, program.inputs, strict=True)
            ]
            with precision(dtype):
                jaxpr = jax.make_jaxpr(part)(*plain)
            return f"shortest:\n{part}\n{found[0].what}\nargs: {avals}\n{jaxpr}"
    return "each value alone is right"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=20)
    options.add_argument("--first", type=int, default=int(time.time()))
    options.add_argument("--seed", type=int)
    options = options.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "raise")  # as in the tests: the same programs
    unsupported: collections.Counter = collections.Counter()
    if options.seed is not None:
        print(run(options.seed, unsupported) or "nothing found")
        return
    end, ran, wrong = time.time() + 60 * options.minutes, 0, 0
    for seed in itertools.count(options.first):
        if time.time() > end:
            break
        found = run(seed, unsupported)
        ran, wrong = ran + 1, wrong + bool(found)
        if found:
            print(found, flush=True)
        jax.clear_caches()
    print(
        f"{ran} programs from seed {options.first} on, {wrong} wrong; no rule for {dict(unsupported)}"
    )


if __name__ == "__main__":
    main()
