"""Runs `jaxbound verify`: one answer, or those of a benchmark."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time

from jaxbound._command.answers import Answer, Networks, answer
from jaxbound._command.codes import CODES, ERROR
from jaxbound._command.instances import read_instances, run_instances
from jaxbound._command.results import write_whole


def run(args: argparse.Namespace, started: float) -> int:
    """Prints a verdict, or runs a benchmark; returns the exit code."""
    if args.instances is not None:
        return run_benchmark(args)
    try:
        left = (args.timeout or 60.0) - (time.monotonic() - started)
        tell = Progress() if args.verbose else None
        found = answer(
            Networks(), args.network, args.property, left, split=args.split, progress=tell
        )
    except BaseException:
        if args.out is not None:
            write_whole(args.out, "error\n")
        raise
    print(found.text, end="", flush=True)
    if args.out is not None:
        write_whole(args.out, found.text)
    if args.verbose:
        seconds = time.monotonic() - started
        print(f"jaxbound: {found.verdict} in {seconds:.2f} s, {summary(found)}", file=sys.stderr)
    return CODES[found.verdict]


def run_benchmark(args: argparse.Namespace) -> int:
    """Decides the instances that have no answer yet; returns an exit code."""
    chosen = read_instances(args.instances, args.timeout, args.only)
    with bar(len(chosen), args.instances.absolute().parent.name) as (advance, say):
        errors = 0
        for row in run_instances(chosen, args.results, args.witnesses, split=args.split):
            advance()
            if row is None:
                continue
            errors += row["verdict"] == "error"
            line = f"{row['onnx']} {row['vnnlib']}: {row['verdict']} in {row['seconds']} s"
            say(f"{line} {row['note']}".rstrip())
    return ERROR if errors else 0


class Progress:
    """Reports the state of a search on standard error, once a second."""

    def __init__(self):
        self.last = 0.0

    def __call__(self, report: dict) -> None:
        if time.monotonic() - self.last >= 1:
            self.last = time.monotonic()
            line = "jaxbound: {seconds:.1f} s: {open} sub-domains open, {proved} proved, worst {worst:.4g}"
            print(line.format(**report), file=sys.stderr, flush=True)


def summary(found: Answer) -> str:
    return (
        f"of which {found.compile_seconds:.2f} s compiling; {found.nodes} sub-domains, {found.open} open;"
        f" decided by {found.method or 'nothing'}; witness checked by {found.checker or 'nobody'}"
    )


@contextlib.contextmanager
def bar(total: int, name: str):
    """Yields functions that advance a bar of progress, on a terminal, and that print a line beside it."""
    say = lambda line: print(line, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        yield lambda: None, say
        return
    try:
        console, progress = map(importlib.import_module, ("rich.console", "rich.progress"))
    except ModuleNotFoundError:
        yield lambda: None, say
        return
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(20)
    columns += progress.MofNCompleteColumn(), progress.TimeElapsedColumn()
    shown = progress.Progress(*columns, console=console.Console(stderr=True))
    with shown:
        task = shown.add_task(name, total=total)
        say = lambda line: shown.console.print(line, highlight=False, markup=False)
        yield lambda: shown.advance(task), say
