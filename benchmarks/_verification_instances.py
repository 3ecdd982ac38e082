"""Benchmarks of the verification competition: their instances, what decides them, a summary and a picture."""

import csv
import functools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np

from jaxbound import onnx, vnnlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

CONTRARY = {"sat": "verified", "unsat": "falsified"}  # of what the file says


class Instance(NamedTuple):
    """A row of `instances.csv`; `expected` is its verdict, "sat" or "unsat", or empty."""

    benchmark: str
    onnx: str
    vnnlib: str
    timeout: float
    expected: str


def instances(folder: Path, most: float) -> list[Instance]:
    """What a folder's `instances.csv` lists, after a line of names or without one, `most` seconds each."""
    path = folder / "instances.csv"
    with path.open(newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    names = rows.pop(0) if rows and rows[0][:1] == ["onnx"] else []
    found = []
    for number, row in enumerate(rows, 1 + bool(names)):
        try:
            timeout = min(float(row[2]), most)
        except (IndexError, ValueError):
            raise ValueError(f"{path}, line {number}: expected onnx,vnnlib,timeout") from None
        expected = dict(zip(names, row, strict=False)).get("verdict", "")
        known = expected if expected in CONTRARY else ""
        found.append(Instance(folder.absolute().name, row[0], row[1], timeout, known))
    return found


def existing(folder: Path, name: str) -> Path:
    """The file of a name, packed or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder / name} is missing, and {name}.gz too")


@functools.lru_cache(maxsize=1)
def network(path: Path) -> onnx.Model:
    """The network of a file, and of the one before if it is the same."""
    jax.clear_caches()  # the programs of the last network
    return onnx.load(path)


def decide(folder: Path, instance: Instance) -> dict[str, Any]:
    """The verdict on an instance, and the seconds it took, reading the files included."""
    record: dict[str, Any] = instance._asdict() | {"verdict": "unknown"}
    start = time.perf_counter()
    try:
        model = network(existing(folder, instance.onnx))
        prop = vnnlib.load(existing(folder, instance.vnnlib))
        found = vnnlib.verify(model, prop, timeout=instance.timeout)
        record |= {"verdict": found.status, "nodes": found.nodes, "open": found.open}
        record["decided"] = dict(Counter(stage or "open" for stage in found.decided.tolist()))
    except Exception as error:  # what cannot be read or bounded is an answer as well
        record["error"] = f"{type(error).__name__}: {error}"[:500]
    return record | {"seconds": time.perf_counter() - start}


def key(record: dict[str, Any]) -> tuple:
    """What makes two records those of the same instance."""
    return tuple(record[name] for name in ("benchmark", "onnx", "vnnlib", "timeout"))


def contradicts(record: dict[str, Any]) -> bool:
    return record["verdict"] == CONTRARY.get(record["expected"])


def run(
    folder: Path, chosen: list[Instance], records: list[dict[str, Any]]
) -> Iterator[dict[str, Any] | None]:
    """Appends a record for each instance that has none, or an error; yields it, or None for each that has one."""
    known = {key(record) for record in records if "error" not in record}
    for instance in chosen:
        found = None
        if key(instance._asdict()) not in known:
            found = decide(folder, instance)
            records[:] = [old for old in records if key(old) != key(found)] + [found]
        yield found


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each benchmark."""
    lines = []
    for benchmark in sorted({record["benchmark"] for record in records}):
        mine = [record for record in records if record["benchmark"] == benchmark]
        verdicts = Counter(record["verdict"] for record in mine)
        seconds = [record["seconds"] for record in mine]
        line = {"benchmark": benchmark, "instances": len(mine)}
        line |= {name: verdicts[name] for name in ("verified", "falsified", "unknown")}
        line["errors"] = sum("error" in record for record in mine)
        line["contradictions"] = sum(map(contradicts, mine))
        line |= {"median_s": float(np.median(seconds)), "largest_s": max(seconds)}
        lines.append(line)
    return lines


def picture(records: list[dict[str, Any]], path: Path) -> None:
    """How many instances of each benchmark are solved in so many seconds each."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for benchmark in sorted({record["benchmark"] for record in records}):
        mine = [record for record in records if record["benchmark"] == benchmark]
        seconds = sorted(r["seconds"] for r in mine if r["verdict"] != "unknown")
        label = f"{benchmark} ({len(seconds)} of {len(mine)})"
        axis.step(seconds, np.arange(1, len(seconds) + 1), where="post", label=label)
    axis.set(xlabel="seconds", ylabel="solved instances", xscale="log", ylim=(0, None))
    figure.legend(loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
