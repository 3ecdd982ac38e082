"""What a user waits for: CPU seconds from the first call of a method to its bound, in a fresh process.

Every measurement is a process of its own, with an empty compilation cache ("cold") and with what the first one left
there ("warm"). With `--beside`, the same is measured with the library of another checkout, in turns, and the
ratio of both is what to look at: CPU seconds of different runs on a shared machine do not compare.

    python benchmarks/first_bound.py --networks dm_small --methods crown
    python benchmarks/first_bound.py --beside ../before --repeats 5     # another checkout, such as a git worktree

Writes `first_bound.json` after every record, and `first_bound.png`.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from _problem import NETWORKS, problem
from _timing import machine, resident, write

import jaxbound as jb

matplotlib.use("agg")
import matplotlib.pyplot as plt

METHODS = {
    "ibp": jb.ibp,
    "lbp": jb.lbp,
    "crown_ibp": jb.crown_ibp,
    "crown": jb.crown,
    "alpha_crown": functools.partial(jb.alpha_crown, steps=20),
}
STEPS = ("trace", "lower", "compile", "run")


def alone(network: str, method: str) -> dict[str, Any]:
    """The CPU seconds of each step to the bounds of one image, in this process, and its memory."""
    given = problem(NETWORKS[network], 1)
    bound = given.of_margins(lambda *call: METHODS[method](*call).lower)
    start = time.process_time()
    bound()
    seconds = bound.cpu | {"run": time.process_time() - start}
    record = {"cpu_s": seconds, "peak_mb": resident("VmHWM"), "library": jb.__file__}
    return record | {"program_lines": bound.lowered.as_text().count("\n")}


def fresh(network: str, method: str, checkout: Path, cache: str) -> dict[str, Any]:
    """`alone` in a new process that imports the library of a checkout."""
    env = os.environ | {
        "PYTHONPATH": str(checkout),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, __file__, "--alone", network, method]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{network} {method} with {checkout} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    if not Path(found["library"]).is_relative_to(checkout):
        raise RuntimeError(f"{found['library']} was measured; expected that of {checkout}")
    return found


def measure(network: str, method: str, checkouts: dict[str, Path], repeats: int) -> dict[str, Any]:
    """Medians of each step, cold and warm, for all checkouts in turns; and ratios to the last of them."""
    runs: dict[str, list] = {
        f"{name} {kind}": [] for name in checkouts for kind in ("cold", "warm")
    }
    for _ in range(repeats):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm"):
                    runs[f"{name} {kind}"].append(fresh(network, method, checkout, cache))
    found: dict[str, Any] = {"network": network, "method": method}
    for name, records in runs.items():
        cpu = {step: float(np.median([r["cpu_s"][step] for r in records])) for step in STEPS}
        rest = {
            key: float(np.median([r[key] for r in records])) for key in ("program_lines", "peak_mb")
        }
        found[name] = {"cpu_s": cpu | {"all": sum(cpu.values())}} | rest
    first, *others = checkouts
    for other in others:
        for kind in ("cold", "warm"):
            mine, theirs = (found[f"{name} {kind}"]["cpu_s"]["all"] for name in (first, other))
            found[f"ratio {kind}"] = mine / theirs
    return found


def line(record: dict[str, Any]) -> str:
    text = f"{record['network']:9s} {record['method']:12s}"
    for name, found in record.items():
        if isinstance(found, dict):
            steps = "  ".join(f"{step} {found['cpu_s'][step]:5.1f}" for step in (*STEPS, "all"))
            text += f"\n  {name:12s} {steps} s  {found['peak_mb']:6.0f} MB"
        elif name.startswith("ratio"):
            text += f"\n  {name:12s} {found:.2f}"
    return text


def picture(records: list[dict[str, Any]], path: Path) -> None:
    """A bar a network and method, from its steps; the warm start beside the cold one."""
    kinds = [key for key, found in records[0].items() if isinstance(found, dict)]
    labels = [f"{r['network']}\n{r['method']}" for r in records]
    places, width = np.arange(len(records)), 0.8 / len(kinds)
    figure, axis = plt.subplots(figsize=(3 + 1.3 * len(records), 4), layout="constrained")
    for i, kind in enumerate(kinds):
        bottom = np.zeros(len(records))
        for j, step in enumerate(STEPS):
            height = np.array([r[kind]["cpu_s"][step] for r in records])
            x = places + width * (i + 0.5) - 0.4
            axis.bar(x, height, 0.95 * width, bottom, color=f"C{j}", label=None if i else step)
            bottom += height
        for x, top in zip(places + width * (i + 0.5) - 0.4, bottom, strict=True):
            axis.annotate(kind, (x, top), ha="center", va="bottom", fontsize=6, rotation=90,
                          xytext=(0, 2), textcoords="offset points")  # fmt: skip
    axis.margins(y=0.15)
    axis.set_xticks(places, labels, fontsize=7)
    axis.set_ylabel("CPU seconds to the first bound")
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["dm_small", "resnet2"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["crown", "alpha_crown"])
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each kind")
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(alone(*args.alone)))
        return
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; expected a positive integer")
    checkouts = {"this": Path(__file__).parents[1]}
    if args.beside:
        if not (args.beside / "jaxbound").is_dir():
            parser.error(f"--beside is {args.beside}; expected a folder that holds jaxbound/")
        checkouts["other"] = args.beside.resolve()

    report: dict[str, Any] = {"machine": machine(), "repeats": args.repeats, "records": []}
    for network in args.networks:
        for method in args.methods:
            report["records"].append(measure(network, method, checkouts, args.repeats))
            print(line(report["records"][-1]), flush=True)
            write(report, args.out / "first_bound.json")
    picture(report["records"], args.out / "first_bound.png")
    print(f"wrote {args.out}/first_bound.json and .png")


if __name__ == "__main__":
    main()
