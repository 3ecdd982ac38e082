"""What do bounds cost? Compile time, wall and CPU time in plain forward passes, memory.

    python benchmarks/speed.py [--networks mlp dm_small] [--methods ibp crown] [--batches 1 16 64]
                               [--growth] [--peer auto_lirpa]

Measures `.lower` of the nine margins of each image of a batch, on networks of the papers and small residual networks
at random weights. Times are medians after a warm-up (beyond 20 s: of one call); the plain forward pass is measured in
turns with the bounds (and with the peer), so that a ratio compares one state of the machine. Memory is what the
compiled program asks for, and by how much the peak of the process' resident memory grows in a run. Programs that need
more than --memory-limit, or by the smaller batch more than --time-limit a call, are left out. Writes `speed.json` after
every record, and `speed.png`.
"""

import argparse
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import growth
import jax
import matplotlib
import numpy as np
from _problem import NETWORKS, Problem, problem
from _timing import Timed, machine, medians, peak_mb, write

import jaxbound as jb

matplotlib.use("agg")
import matplotlib.pyplot as plt

METHODS = {"ibp": jb.ibp, "lbp": jb.lbp, "crown_ibp": jb.crown_ibp, "crown": jb.crown}
UNDECIDED = "crown_undecided"  # only from elements that IBP leaves undecided in some image


def bounds_of(method: str, given: Problem) -> Callable:
    if method != UNDECIDED:
        return METHODS[method]
    return functools.partial(jb.crown, capacity=jb.capacities(given.of_margins(jb.undecided)()))


def measure(
    given: Problem, method: str, before: dict, args: argparse.Namespace, peer: ModuleType | None
) -> dict:
    """What a method costs on a batch; `before` is the record of the smaller batch."""
    if (guess := expected("bound", before, given)) > args.time_limit:
        return {"left_out": f"about {guess:.0f} s a call"}
    bounds = bounds_of(method, given)
    plain, bound = given.plain(), given.of_margins(lambda *call: bounds(*call).lower)
    record = {
        "trace_s": bound.trace_s,
        "compile_s": bound.compile_s,
        "memory_mb": bound.memory / 1e6,
        "plain_memory_mb": plain.memory / 1e6,
    }
    if bound.memory > 1e9 * args.memory_limit:
        return record | {"left_out": f"{bound.memory / 1e9:.0f} GB"}
    runs: dict[str, Callable] = {"plain": plain, "bound": bound}
    if "peer_left_out" in before:
        record["peer_left_out"] = before["peer_left_out"]
    elif (guess := expected("peer", before, given)) > args.time_limit:
        record["peer_left_out"] = f"about {guess:.0f} s a call"
    elif peer:
        # What is inside is compared once: it compiles one more program.
        found, run = peer.meet(given, bounds, bound(), args.memory_limit, inside=not before)
        record |= found
        runs |= {"peer": run} if run else {}
    return record | compared(runs)


def expected(key: str, before: dict, given: Problem) -> float:
    """Seconds of a call, by the smaller batch."""
    if f"{key}_ms" not in before:
        return 0.0
    return before[f"{key}_ms"] / 1e3 * len(given.images) / before["batch"]


def compared(runs: dict[str, Callable]) -> dict:
    """Times in turns, ratios of `bound` to the others, and memory."""
    record = {}
    for key, (wall, cpu) in zip(runs, 1e3 * medians(*runs.values()), strict=True):
        record |= {f"{key}_ms": wall, f"{key}_cpu_ms": cpu}
    for key in runs.keys() - {"bound"}:
        record[f"{key}_ratio"] = record["bound_ms"] / record[f"{key}_ms"]
        record[f"{key}_cpu_ratio"] = record["bound_cpu_ms"] / record[f"{key}_cpu_ms"]
    return record | {f"{key}_peak_mb": peak_mb(run) for key, run in runs.items()}


def line(record: dict, peer: ModuleType | None) -> str:
    text = f"{record['network']:9s} {record['method']:15s} {record['batch']:3d}  "
    if "trace_s" in record:
        text += (
            f"trace {record['trace_s']:5.1f} s  compile {record['compile_s']:5.1f} s  "
            f"memory {record['memory_mb']:8.1f} MB (plain {record['plain_memory_mb']:.1f})  "
        )
    if "left_out" in record:
        return text + f"left out: {record['left_out']}"
    text += (
        f"{record['bound_ms']:9.2f} ms  plain {record['plain_ms']:7.2f} ms  "
        f"ratio {record['plain_ratio']:7.1f} (CPU time {record['plain_cpu_ratio']:.1f})"
    )
    return text + (peer.lines(record) if peer else "")


def all_methods(args: argparse.Namespace, peer: ModuleType | None) -> Iterator[dict]:
    for name, method in itertools.product(args.networks, args.methods):
        record = {}
        for batch in sorted(args.batches):
            given, before = problem(NETWORKS[name], batch), record
            record = {"network": name, "method": method, "batch": batch, "eps": given.eps}
            record |= measure(given, method, before, args, peer)
            print(line(record, peer), flush=True)
            yield record
            if "left_out" in record:
                break


def convolution_rows(batch: int = 2, n_rows: int = 800, chunk: int = 32) -> dict:
    """The second layer of DM-small walked back: rows in a loop, at once, and the kernel's gradient.

    On CPU, what JAX derives for a transposed convolution can leave XLA's fast path inside a loop and in its kernel
    gradient; these three should be of one order.
    """
    key = jax.random.key(0)
    kernel = 0.1 * jax.random.normal(key, (4, 4, 16, 32))
    boxes = jb.linf_ball(jax.random.uniform(key, (batch, 13, 13, 16)), 0.1)

    def convolve(kernel, x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", dimension_numbers=layout)
        return jax.nn.relu(y).reshape(-1)[:n_rows]

    def total(kernel, boxes, chunk_size):
        method = functools.partial(jb.crown_ibp, chunk_size=chunk_size)
        bounds = jax.vmap(lambda box: jb.linear_bounds(convolve, kernel, box, method=method))(boxes)
        return (bounds.lower_coeffs[0] ** 2).sum()

    programs = {
        "in a loop": Timed(functools.partial(total, chunk_size=chunk), kernel, boxes),
        "at once": Timed(functools.partial(total, chunk_size=n_rows), kernel, boxes),
        "gradient": Timed(jax.grad(functools.partial(total, chunk_size=n_rows)), kernel, boxes),
    }
    walls = 1e3 * medians(*programs.values())[:, 0]
    times = dict(zip(programs, walls.tolist(), strict=True))
    print("convolution rows: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in times.items()))
    return {"rows": batch * n_rows, "chunk": chunk, "ms": times}


def picture(records: list[dict], path: Path) -> None:
    """Bounds in plain passes, by network and method; a panel per batch size, crosses for the peer."""
    names, methods, batches = (
        list(dict.fromkeys(record[key] for record in records))
        for key in ("network", "method", "batch")
    )
    batches = [batch for batch in batches if batch in (1, 16)] or batches[:2]
    size, width = (6.5 * len(batches), 4.5), 0.8 / len(methods)
    figure, axes = plt.subplots(
        1, len(batches), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for batch, axis in zip(batches, axes.flat, strict=True):
        for i, method in enumerate(methods):
            chosen = [r for r in records if (r["method"], r["batch"]) == (method, batch)]
            ratios = [r["plain_ratio"] for r in chosen]
            crosses = [r.get("peer_ms", np.nan) / r["plain_ms"] for r in chosen]
            places = [names.index(r["network"]) + width * (i + 0.5) - 0.4 for r in chosen]
            bars = axis.bar(places, ratios, width, label=method, color=f"C{i}")
            axis.bar_label(bars, [f"{ratio:.3g}" for ratio in ratios], fontsize=7)
            axis.plot(places, crosses, "kx")
        axis.set(title=f"batch {batch}", yscale="log")
        axis.set_xticks(range(len(names)), names)
    peer = " (crosses: the peer)" if any("peer_ms" in record for record in records) else ""
    figure.supylabel("plain forward passes" + peer)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, UNDECIDED], default=list(METHODS)
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--growth", action="store_true", help="exponents over depth, width, ...")
    parser.add_argument("--peer", choices=["auto_lirpa"], help="a library to compare with")
    parser.add_argument("--memory-limit", type=float, default=8.0, help="GB")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds a call")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    peer = imported(parser) if args.peer else None

    report = {"machine": machine(), "jax": jax.__version__} | (peer.versions() if peer else {})
    print(", ".join(f"{key} {value}" for key, value in report.items()), flush=True)
    report |= {"convolution_rows": convolution_rows(), "growth": [], "methods": []}
    parts = {"growth": growth.sweeps() if args.growth else [], "methods": all_methods(args, peer)}
    for key, records in parts.items():
        for record in records:
            report[key].append(record)
            write(report, args.out / "speed.json")
    write(report, args.out / "speed.json")
    if timed := [record for record in report["methods"] if "plain_ratio" in record]:
        picture(timed, args.out / "speed.png")
    print(f"wrote {args.out}/speed.json" + " and .png" * bool(timed))


def imported(parser: argparse.ArgumentParser) -> ModuleType:
    try:
        return importlib.import_module("peer")
    except ImportError as error:
        parser.error(f"--peer needs PyTorch and auto_LiRPA installed in this environment: {error}")


if __name__ == "__main__":
    main()
