"""How well `jb.verify` decides: right next to exact minima, never fooled by a planted counterexample, in how long.

    python benchmarks/verification.py exact --networks dense max-pool --count 20
    python benchmarks/verification.py planted --count 50
    python benchmarks/verification.py networks --data-dir ~/tensorflow_datasets --count 100
    python benchmarks/verification.py instances --folder ~/vnncomp/benchmarks/acasxu ~/vnncomp/benchmarks/safenlp

- `exact`: random networks and boxes. The property lies a thousandth below the least value that a mixed-integer
  program finds (true), and a thousandth above (false).
- `planted`: a random network is positive but for a narrow bump of relus around a point, far from where the network
  itself is least, and no attack looks for it. "verified" is wrong. Its twin is the same network on the part of the box
  beside the bump, where it is positive.
- `networks`: test images of the kept networks: verified by bounds, decided by `jb.verify`, attacked by PGD; and, in
  `verification_networks.png`, how many are verified in how many seconds. A second run continues.
- `instances`: folders as of VNN-COMP, with an `instances.csv` of rows onnx,vnnlib,timeout. A second run continues
  where the first stopped.

Each part writes itself to `verification.json`, and leaves the others there: `instances` after a benchmark, with
its answers in `BENCHMARK.csv`, witnesses in `witnesses/`, and `verification.png`; the others after every question.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _timing import machine, write
from _verification_networks import (
    EXACT,
    PLANTED,
    Network,
    beside,
    instance,
    least,
    planted,
    question,
    shifted,
    with_bump,
)
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import jaxbound as jb

SIDE = 1e-3  # between the property and the least value
ROUNDING = 1e-4  # by which the mixed-integer program may be off
SPLITS = ("hidden", "input")

Records = Iterator[dict[str, Any]]


def wrong(found: jb.Verdict, right: str, fn: Callable, args: tuple, bound: float) -> str:
    """What is wrong with a verdict, if anything: its status, its witness, or a lower bound beyond the least value."""
    if found.status not in (right, "unknown"):
        return f"{found.status}, not {right}"
    if found.lower.max() > bound:
        return f"the lower bound {found.lower.max():.6g} is beyond the least value"
    if found.witness is not None:
        x, region = found.witness[1], args[1]
        if not ((np.asarray(region.lower) <= x) & (x <= np.asarray(region.upper))).all():
            return "the witness lies outside of the box"
        if fn(*found.witness) > 0:
            return "the witness does not violate the property"
    return ""


def ask(fn: Callable, args: tuple, right: str, bound: float, **options) -> dict[str, Any]:
    """The verdict on one question, and what is wrong with it."""
    found = jb.verify(fn, *args, **options)
    return {
        "status": found.status,
        "expected": right,
        "wrong": wrong(found, right, fn, args, bound),
        "seconds": found.seconds,
        "nodes": found.nodes,
        "open": found.open,
        "decided": found.decided.tolist(),
        "lower": found.lower.tolist(),
    }


def exact(network: Network, seed: int, split: str, timeout: float) -> Records:
    """The verdicts on properties next to the least value of a random network over a random box."""
    weights, region = instance(network, np.random.default_rng(seed), (0.1, 0.5, 1.0, 3.0), False)
    value, fn = least(network, weights, region), question(network, shifted)
    for name, side, right in (("below", -SIDE, "verified"), ("above", SIDE, "falsified")):
        args = weights, region, np.float32(value + side)
        bound = value - float(args[-1]) + ROUNDING
        yield {"kind": name} | ask(fn, args, right, bound, split=split, timeout=timeout)


def plant(network: Network, seed: int, split: str, timeout: float) -> Records:
    """The verdicts on a network with a planted counterexample, and on its twin."""
    weights, region, bump = planted(network, np.random.default_rng(seed))
    fn, options = question(network, with_bump), {"split": split, "timeout": timeout}
    bound = float(with_bump(network, weights, bump["point"], bump)) + ROUNDING
    args = weights, region, bump
    yield {"kind": "planted"} | ask(fn, args, "falsified", bound, attack=False, **options)
    args = weights, beside(region, bump), bump
    yield {"kind": "twin"} | ask(fn, args, "verified", np.inf, attack=False, **options)


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each network and kind of question."""
    lines = []
    for network, kind in dict.fromkeys((r["network"], r["kind"]) for r in records):
        mine = [r for r in records if (r["network"], r["kind"]) == (network, kind)]
        counts = Counter("wrong" if r["wrong"] else r["status"] for r in mine)
        seconds, nodes = ([r[name] for r in mine] for name in ("seconds", "nodes"))
        line = {"network": network, "kind": kind}
        line |= {"wrong": counts.pop("wrong", 0), "unknown": counts.pop("unknown", 0)}
        line |= {"right": sum(counts.values())}
        line |= {"median_s": float(np.median(seconds)), "largest_s": max(seconds)}
        lines.append(line | {"median_nodes": float(np.median(nodes)), "most_nodes": max(nodes)})
    return lines


def run_random(args: argparse.Namespace, save: Callable[[dict], None], console: Console) -> None:
    """Runs `exact` or `planted`: their networks, seeds and splits in turns."""
    networks, verdicts = {"exact": (EXACT, exact), "planted": (PLANTED, plant)}[args.part]
    part: dict[str, Any] = {"count": args.count, "timeout": args.timeout, "machine": machine()}
    part["records"] = records = []
    with bar(console) as progress:
        task = progress.add_task("", total=args.count * len(args.networks))
        for name, index in itertools.product(args.networks, range(args.count)):
            seed, split = args.seed + index, args.splits[index % len(args.splits)]
            progress.update(task, description=f"{name}, seed {seed}")
            for found in verdicts(networks[name], seed, split, args.timeout):
                records.append({"network": name, "seed": seed, "split": split} | found)
                save(part | {"summary": summary(records)})
                if found["wrong"] or found["status"] == "unknown":
                    line = f"{name}, seed {seed}, {split}: {found['kind']} {found['status']}"
                    progress.console.print(
                        f"{line} {found['wrong']}".rstrip(), highlight=False, markup=False
                    )
            progress.advance(task)
            if index + 1 == args.count:
                jax.clear_caches()  # the programs of this network
    console.print(table(summary(records)))


def run_instances(args: argparse.Namespace, save: Callable[[dict], None], console: Console) -> None:
    """Runs the instances of all folders that have no answer yet, as `jaxbound verify --instances` does."""
    import _verification_instances as files

    from jaxbound._command import instances, results

    part: dict[str, Any] = {"machine": machine(), "records": []} | args.known
    for folder in args.folder:
        name = folder.absolute().name
        chosen = instances.read_instances(folder / "instances.csv", args.timeout)
        path, witnesses = args.out / f"{name}.csv", args.out / "witnesses" / name
        if args.anew:
            path.unlink(missing_ok=True)
        with bar(console) as progress:
            task = progress.add_task(name, total=len(chosen))
            for row in instances.run_instances(chosen, path, witnesses):
                progress.advance(task)
                if row is not None:
                    line = f"{row['onnx']} {row['vnnlib']}: {row['verdict']} in {row['seconds']} s"
                    line = f"{line} {row['note']}".rstrip()
                    progress.console.print(line, highlight=False, markup=False)
        mine = files.records(chosen, results.read_results(path), witnesses)
        part["records"] = [r for r in part["records"] if r["benchmark"] != name] + mine
        save(part | {"summary": files.summary(part["records"])})
        for record in (record for record in mine if record["wrong"]):
            line = f"{record['onnx']} {record['vnnlib']}: {record['verdict']} {record['wrong']}"
            console.print(line, highlight=False, markup=False)
    if part["records"]:
        console.print(table(files.summary(part["records"])))
        files.picture(part["records"], args.out / "verification.png")


def run_kept(args: argparse.Namespace, save: Callable[[dict], None], console: Console) -> None:
    """Decides test images of kept networks; goes on after the images that an earlier run decided."""
    import _verification_kept as images

    part: dict[str, Any] = {"machine": machine(), "timeout": args.timeout, "records": []}
    if args.known.get("timeout") == args.timeout:
        part = args.known
    done = {(record["network"], record["image"]) for record in part["records"]}
    with bar(console) as progress:
        for folder in args.networks:
            todo = [i for i in range(args.count) if (folder.name, i) not in done]
            task = progress.add_task(folder.name, total=len(todo))
            try:
                for record in images.kept(folder, args.data_dir, todo, args.timeout):
                    part["records"].append(record)
                    save(part | {"summary": images.summary(part["records"])})
                    progress.advance(task)
            except images.MISSING as reason:
                sys.exit(f"{folder}: {reason}")
            jax.clear_caches()
    console.print(table(images.summary(part["records"])))
    images.picture(part["records"], args.timeout, args.out / "verification_networks.png")


def bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


def table(lines: list[dict[str, Any]]) -> Table:
    """Lines of the same keys as a table."""
    found = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in lines[0]:
        found.add_column(name.replace("_", " "))
    for line in lines:
        found.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in line.values()))
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name, networks, count in (("exact", EXACT, 20), ("planted", PLANTED, 50)):
        part = parts.add_parser(name)
        part.add_argument("--networks", nargs="+", choices=networks, default=[*networks])
        part.add_argument("--count", type=int, default=count, help="instances of each network")
        part.add_argument("--seed", type=int, default=0, help="of the first instance")
        part.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="in turns")
        part.add_argument("--timeout", type=float, default=60, help="seconds a question")
    part = parts.add_parser("networks")
    folders = sorted((Path(__file__).parent / "networks").glob("*/"))
    part.add_argument("--networks", nargs="+", type=Path, default=folders, help="folders of runs")
    part.add_argument("--data-dir", help="a TFDS folder, or an npz file")
    part.add_argument("--count", type=int, default=100, help="test images of each network")
    part.add_argument("--timeout", type=float, default=60, help="seconds an image")
    part = parts.add_parser("instances")
    part.add_argument("--folder", nargs="+", type=Path, required=True)
    part.add_argument("--timeout", type=float, help="seconds each, instead of those of the files")
    part.add_argument("--anew", action="store_true", help="forget what earlier runs decided")
    for part in parts.choices.values():
        part.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    if args.part != "instances" and args.count < 1:
        parser.error(f"--count is {args.count}; expected a positive integer")
    if args.timeout is not None and not args.timeout > 0:
        parser.error(f"--timeout is {args.timeout}; expected a number > 0")
    path = args.out / "verification.json"
    report = json.loads(path.read_text()) if path.is_file() else {}
    console = Console(width=None if sys.stdout.isatty() else 120)
    save = lambda part: write(report | {args.part: part}, path)
    args.known = report.get(args.part, {})
    if args.part == "networks":
        run_kept(args, save, console)
    elif args.part == "instances":
        for folder in args.folder:
            if not (folder / "instances.csv").is_file():
                parser.error(f"--folder is {folder}; expected a folder with an instances.csv")
        run_instances(args, save, console)
    else:
        run_random(args, save, console)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
