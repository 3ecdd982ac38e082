"""Starts the command: its arguments, its exit code, and what is said when it fails."""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence

import jax

import jaxbound as jb
from jaxbound._command.arguments import parse
from jaxbound._command.codes import ERROR, INTERRUPTED, described


def run() -> int:
    """Runs the command of this process, whose time counts from the start of the process."""
    return main(started=time.monotonic() - age())


def main(arguments: Sequence[str] | None = None, started: float | None = None) -> int:
    """Runs the command.

    Args:
      arguments: as written behind `jaxbound`; by default those of the process.
      started: the time, of `time.monotonic`, from which on seconds count; by default now.

    Returns:
      the exit code, of `jaxbound._command.codes`.
    """
    started = time.monotonic() if started is None else started
    args = parse(arguments)
    try:
        jb.keep_compiled_programs()
        use_device(args.device)
        return importlib.import_module(f"jaxbound._command.{args.part}").run(args, started)
    except KeyboardInterrupt:
        print("jaxbound: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        print(f"jaxbound: {described(error)}", file=sys.stderr)
        return ERROR


def use_device(name: str | None) -> None:
    """Makes JAX compute on a kind of device; raises where there is none."""
    if name is None:
        return
    jax.config.update("jax_platforms", name)
    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        raise ValueError(f"--device is {name}, but JAX finds none: {error}") from None
    if found != name and (name != "gpu" or found not in ("cuda", "rocm")):
        raise ValueError(f"--device is {name}, but JAX computes on {found}")


def age() -> float:
    """Returns the seconds since this process began; where the system does not say it, those of the processor."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        began = ticks / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (AttributeError, OSError, ValueError, IndexError):
        return time.process_time()
