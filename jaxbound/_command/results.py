"""Keeps the results of a benchmark: a CSV file with a line for each instance, of which none is lost."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

COLUMNS = (
    "onnx",
    "vnnlib",
    "timeout",
    "verdict",
    "seconds",
    "compile_seconds",
    "nodes",
    "open",
    "method",
    "note",
)
HEADER = ",".join(COLUMNS) + "\n"
NUMBER = re.compile(r"[0-9.e+-]+|inf")
Row = dict[str, str]


def read_results(path: Path) -> list[Row]:
    """Returns the whole lines of a file; raises if it has other columns. The last line may be torn."""
    text = path.read_text() if path.is_file() else ""
    whole, end, torn = text.rpartition("\n")
    if not (text.startswith(HEADER) if end else HEADER.startswith(torn)):
        raise ValueError(
            f"{path} is not a file of results: it does not begin with {HEADER.strip()}"
        )
    rows = list(csv.DictReader(io.StringIO(whole + end), strict=True))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not NUMBER.fullmatch(row["timeout"]):
            raise ValueError(f"{path}, line {number}: expected {HEADER.strip()}")
    return rows


def key(row: Row) -> tuple[str, str, float]:
    """Returns what makes two lines those of the same instance."""
    return row["onnx"], row["vnnlib"], float(row["timeout"])


def line(row: Row) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([row[name] for name in COLUMNS])
    return file.getvalue()


def open_results(path: Path, is_kept: Callable[[Row], bool]) -> list[Row]:
    """Returns the lines of a file that are kept; repairs it, and starts it where there is none."""
    found = read_results(path)
    kept = [row for row in found if is_kept(row)]
    text = HEADER + "".join(map(line, kept))
    if not path.is_file() or path.read_text() != text:
        write_whole(path, text)
    return kept


def append(path: Path, row: Row) -> None:
    """Adds a line, at once: it is there when this returns, whatever happens then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line(row).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Writes all of a file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)
