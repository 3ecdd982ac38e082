"""Runs the instances of a benchmark in one process, so that they share compiled programs."""

from __future__ import annotations

import csv
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxbound._command.answers import Networks, answer
from jaxbound._command.codes import described
from jaxbound._command.results import Row, append, key, open_results, write_whole

KNOWN = ("sat", "unsat")


class Instance(NamedTuple):
    """Represents a line of `instances.csv`.

    Attributes:
      folder: to which the names are relative.
      onnx: the name of the network's file.
      vnnlib: that of the property's.
      timeout: seconds.
      expected: the verdict that the file knows, "sat" or "unsat", or "".
    """

    folder: Path
    onnx: str
    vnnlib: str
    timeout: float
    expected: str

    @property
    def key(self) -> tuple[str, str, float]:
        return self.onnx, self.vnnlib, self.timeout


def read_instances(
    path: Path, timeout: float | None = None, only: re.Pattern[str] | None = None
) -> list[Instance]:
    """Returns the instances of a file.

    Args:
      path: a CSV file of onnx,vnnlib,timeout, after a line of names or without. A column named "verdict" holds what is
        known; others are ignored.
      timeout: seconds of each, in place of those of the file.
      only: keeps the instances whose "onnx vnnlib" has it.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [
            (number, [cell.strip() for cell in row])
            for number, row in enumerate(csv.reader(file), 1)
        ]
    rows = [(number, row) for number, row in rows if any(row)]
    names = rows.pop(0)[1] if rows and rows[0][1][0].lower() == "onnx" else []
    found: dict[tuple, Instance] = {}
    for number, row in rows:
        try:
            seconds = float(row[2])
        except (IndexError, ValueError):
            seconds = 0.0
        if not seconds > 0:
            raise ValueError(f"{path}, line {number}: expected onnx,vnnlib,timeout")
        expected = dict(zip(names, row, strict=False)).get("verdict", "")
        known = expected if expected in KNOWN else ""
        instance = Instance(path.parent, row[0], row[1], timeout or seconds, known)
        if only is None or only.search(f"{row[0]} {row[1]}"):
            found.setdefault(instance.key, instance)
    return list(found.values())


def existing(folder: Path, name: str) -> Path:
    """Returns the file of a name, packed or not."""
    for path in (folder / name, folder / f"{name}.gz", folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder / name} is missing, and {name}.gz too")


def run_instances(
    instances: list[Instance], results: Path, witnesses: Path | None = None, **options
) -> Iterator[Row | None]:
    """Decides the instances that have no answer in the results, or an error; adds a line for each.

    Args:
      instances: in their order.
      results: a CSV file, which is made or continued.
      witnesses: a folder that gets a file for each "sat".
      **options: of `vnnlib.verify`.

    Yields:
      the line of each instance that was decided now, None for one that was before.
    """
    if witnesses is not None:
        witnesses.mkdir(parents=True, exist_ok=True)
    wanted = {instance.key for instance in instances}
    is_kept = lambda row: row["verdict"] != "error" or key(row) not in wanted
    known = {key(row) for row in open_results(results, is_kept)}
    networks, interrupts = Networks(), Interrupts()
    for instance in instances:
        if instance.key in known:
            yield None
            continue
        with interrupts:
            row = decided(networks, instance, witnesses, options)
        append(results, row)
        yield row


def witness_path(folder: Path, row: Row) -> Path:
    """Returns the file of an instance's witness."""
    name = re.sub(r"[^\w.=-]+", "_", f"{row['onnx']}__{row['vnnlib']}")
    return folder / f"{name}.txt"


def decided(
    networks: Networks, instance: Instance, witnesses: Path | None, options: dict[str, Any]
) -> Row:
    """Returns the line of an instance; whatever goes wrong is an answer as well."""
    row = dict.fromkeys(("compile_seconds", "nodes", "open", "method", "note"), "")
    row |= {"onnx": instance.onnx, "vnnlib": instance.vnnlib, "timeout": f"{instance.timeout!r}"}
    started = time.monotonic()
    try:
        network = existing(instance.folder, instance.onnx)
        prop = existing(instance.folder, instance.vnnlib)
        found = answer(networks, network, prop, instance.timeout, **options)
        row |= {"verdict": found.verdict, "compile_seconds": f"{found.compile_seconds:.3f}"}
        row |= {"nodes": str(found.nodes), "open": str(found.open), "method": found.method}
        if witnesses is not None and found.verdict == "sat":
            write_whole(witness_path(witnesses, row), found.text)
    except Exception as error:
        row |= {"verdict": "error", "note": described(error)[:500]}
    return row | {"seconds": f"{time.monotonic() - started:.3f}"}


class Interrupts:
    """Makes an interrupt by the keyboard end a run, and not only the search that is under way."""

    def __enter__(self) -> None:
        self.seen = False
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_) -> None:
        self.seen = True
        raise KeyboardInterrupt

    def __exit__(self, *_) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
        if self.seen:
            raise KeyboardInterrupt
