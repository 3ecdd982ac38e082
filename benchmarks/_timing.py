"""What a call costs: compile time, wall and CPU time in turns, memory; and the file it is kept in."""

import contextlib
import ctypes
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core as jax_core

# A single heap for all threads (M_ARENA_MAX), so that `peak_mb` can give back what is free in it.
with contextlib.suppress(AttributeError, TypeError):
    ctypes.CDLL(None).mallopt(-8, 1)


class Timed:
    """A compiled function on its arguments, with the seconds that tracing and compiling took.

    `cpu` holds the CPU seconds of each step.
    """

    def __init__(self, fn: Callable, *args: Any, **options: Any):
        marks = [(time.perf_counter(), time.process_time())]
        mark = lambda: marks.append((time.perf_counter(), time.process_time()))
        traced = jax.jit(fn, **options).trace(*args)
        mark()
        self.lowered, self.jaxpr = traced.lower(), traced.jaxpr
        mark()
        self.compiled, self.args = self.lowered.compile(), args
        mark()
        wall, cpu = np.diff(marks, axis=0).T
        self.trace_s, self.compile_s = wall[0] + wall[1], wall[2]
        self.cpu = dict(zip(("trace", "lower", "compile"), cpu.tolist(), strict=True))

    @property
    def memory(self) -> int:
        """Bytes of temporaries and results while it runs, but of results in the place of arguments."""
        analysis = self.compiled.memory_analysis()
        results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        return analysis.temp_size_in_bytes + results

    @property
    def flops(self) -> float:
        """Operations by XLA's analysis, before XLA changes the program: the same on any device.

        It counts one turn of a loop, so loops are written out.
        """
        fn, avals = jax_core.jaxpr_as_fun(unrolled(self.jaxpr)), self.jaxpr.in_avals
        return jax.jit(fn).lower(*avals).cost_analysis()["flops"]

    def __call__(self) -> Any:
        return jax.block_until_ready(self.compiled(*self.args))


class Step(Timed):
    """A compiled `(state, *args) -> (state, value)`; the state is donated.

    Each call takes it from the list `holder`, and puts the next one there.
    """

    def __init__(self, fn: Callable, holder: list, *args: Any):
        super().__init__(fn, *holder, *args, donate_argnums=0)
        self.args, self.holder = args, holder

    def __call__(self) -> Any:
        state, value = jax.block_until_ready(self.compiled(self.holder.pop(), *self.args))
        self.holder.append(state)
        return value


def unrolled(part: Any) -> Any:
    """A jaxpr, or a part of one, without loops of known lengths."""
    match part:
        case jax_core.ClosedJaxpr():
            return part.replace(jaxpr=unrolled(part.jaxpr))
        case jax_core.Jaxpr():
            return part.replace(eqns=[unrolled(eqn) for eqn in part.eqns])
        case jax_core.JaxprEqn():
            params = {name: unrolled(value) for name, value in part.params.items()}
            if part.primitive is jax.lax.scan_p:
                params["unroll"] = params["length"]
            return part.replace(params=params)
    return part


def seconds(run: Callable[[], Any], repeats: int = 1) -> np.ndarray:
    """Mean wall and CPU seconds of a few runs on end; CPU time is that of all threads."""
    time.sleep(0.005)  # until the threads of whatever ran before have gone to sleep
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu]) / repeats


def medians(*runs: Callable[[], Any], budget: float = 4.0, most: int = 30) -> np.ndarray:
    """Median wall and CPU seconds `[runs, 2]`, in turns after a warm-up, as often as `budget` seconds allow."""
    times = np.array([seconds(run) for run in runs])
    brief = times[:, 0] < 5 * budget
    if not brief.all():  # a run this long needs no warm-up, and leaves no time for turns
        if brief.any():
            times[brief] = medians(*itertools.compress(runs, brief), budget=budget, most=most)
        return times
    repeats = np.clip(0.02 / times[:, 0], 1, 20).astype(int)  # a millisecond alone is noise
    least = 3 if times[:, 0].sum() < 5 * budget else 1
    rounds = int(np.clip(budget / (times[:, 0] @ repeats), least, most))
    turns = [[seconds(*turn) for turn in zip(runs, repeats, strict=True)] for _ in range(rounds)]
    return np.median(turns, 0)


def peak_mb(run: Callable[[], Any]) -> float | None:
    """MB by which the peak of the resident memory in a run exceeds what is resident before; Linux only."""
    try:
        time.sleep(0.1)  # until the results of earlier runs are freed
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except (AttributeError, OSError, TypeError):
        return None
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1.024e-3 * float(next(line.split()[1] for line in lines if line.startswith(field)))


def machine() -> str:
    """The kind of machine, not its name."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{os.cpu_count()}-core {platform.machine()} CPU"
    return device.device_kind


def write(report: dict, path: Path) -> None:
    """All of the file or nothing: a run that is stopped leaves the last whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(path)
