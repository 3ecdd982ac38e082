"""How tight are the bounds, and how fast? Every method and relaxation on random and trained networks.

    python benchmarks/tightness.py [--data-dir ~/tensorflow_datasets] [--peer auto_lirpa]
    python benchmarks/tightness.py --networks mlp_plain conv_ibp --methods ibp crown lp --images 20
    python benchmarks/tightness.py --networks benchmarks/networks/*

Bounds the nine margins of MNIST test images (where they cannot be had, of scikit-learn's digits) on small networks at
random weights or trained on the spot, and on the networks of kept runs. The least value of a margin lies between its
lower bound and what gradient descent finds; the share of the gap between intervals and descent that a method closes
says how tight it is. After every network all is written anew: a table (Markdown, CSV), all figures (JSON), pictures.
"""

import argparse
import functools
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import _tightness_plots as plots
import _tightness_tables as tables
import jax
import numpy as np
from _tightness_measure import (
    attacked,
    beside,
    finder,
    in_batches,
    inside,
    measure,
    program,
    solve,
)
from _tightness_problems import HERE, KEPT, Problem, problems
from _timing import machine, write

import jaxbound as jb
from jaxbound import reference

Key = tuple[str, str]  # method and lines
LINEAR = {"lbp": jb.lbp, "crown_ibp": jb.crown_ibp, "crown_lbp": jb.crown_lbp, "crown": jb.crown}
START = "crown", "alpha's inside"
STEPS = "alpha_crown", "20 steps"  # its intermediate bounds are those of START, LP and MILP


def between(fn, *args):
    """CROWN's last walk between the intermediate bounds of alpha-CROWN: where its steps and LP begin."""
    given = jb.intermediate_bounds(fn, *args, method=jb.alpha_crown)
    return jb.crown_ibp(fn, *args, intermediates=given)


METHODS: dict[Key, Callable] = {("ibp", "-"): jb.ibp} | {
    (name, lines): functools.partial(method, relaxation=lines)
    for name, method in LINEAR.items()
    for lines in ("adaptive", "tight")
}
METHODS |= {
    ("crown", "published"): functools.partial(jb.crown, published=True),  # not within intervals
    ("crown", "both"): functools.partial(jb.alpha_crown, steps=0),  # adaptive and tight lines
    ("crown", "parallel"): functools.partial(jb.crown, relaxation="parallel"),  # Fast-Lin
    START: between,
    STEPS: jb.alpha_crown,
    ("alpha_crown", "100 steps"): functools.partial(jb.alpha_crown, steps=100),
    ("alpha_crown", "inside too"): functools.partial(jb.alpha_crown, optimize_intermediates=True),
}
EXACT: dict[Key, Callable] = {("lp", "-"): reference.lp, ("milp", "-"): reference.milp}
FEW = {("alpha_crown", "inside too"), *EXACT}  # see as many images as --few says
SMALL = FEW | {("alpha_crown", "100 steps")}  # only on networks of --small neurons at most
PEER = {  # what a peer is asked for
    ("ibp", "-"): ("both", "IBP"),
    ("lbp", "adaptive"): ("both", "forward"),
    ("crown_ibp", "adaptive"): ("both", "CROWN-IBP"),
    ("crown", "adaptive"): ("both", "CROWN"),
    ("alpha_crown", "inside too"): ("optimised", None),
}
INSIDE = ("ibp", "-"), ("lbp", "adaptive"), ("crown", "adaptive"), ("crown", "tight"), STEPS
# With tight lines the second is nowhere looser: Lyu et al. (arXiv:2104.00447), Theorem 2.
NESTED = (
    ("ibp", "lbp"),
    ("ibp", "crown_ibp"),
    ("lbp", "crown_lbp"),
    ("crown_ibp", "crown_lbp"),
    ("crown_lbp", "crown"),
)
ROUNDING = 1e-5  # of the looser interval's width


def network(p: Problem, args: argparse.Namespace, peer: ModuleType | None) -> dict[str, Any]:
    """All figures of a network."""
    correct = float((p.plain()().argmax(-1) == p.labels).mean())
    size = min(args.batch, len(p.images))
    attack = functools.partial(attacked, args.attack_steps)
    low, _ = in_batches(p, program(p.first(size), "attack", attack)[1], size)
    few = p.first(args.few)
    layers = {key: inside(few, key, METHODS[key], args.batch) for key in INSIDE}
    found, costs, theirs = every_method(p, layers[STEPS], args, peer)
    records = []
    for key, cost in costs.items():
        record = dict(zip(("method", "lines"), key, strict=True)) | cost
        if key in found:
            record |= summary(found[key], low, found)
        if key in theirs:
            record |= {f"peer_{k}": v for k, v in summary(theirs[key], low, found).items()}
        records.append(record)
    return {
        "network": p.name,
        "eps": p.eps,
        "images": len(p.images),
        "correct": correct,
        "neurons": neurons(layers["ibp", "-"]),
        "attacked": low.min(-1).tolist(),
        "nested": nested(found),
        "layers": {" ".join(key).rstrip(" -"): of_layers(boxes) for key, boxes in layers.items()},
        "methods": records,
    }


def neurons(boxes: dict[str, jb.Interval]) -> int:
    return sum(box.lower[0].size for box in boxes.values())


def of_layers(boxes: dict[str, jb.Interval]) -> dict[str, dict[str, float]]:
    """Before every activation: mean width of the intervals, and the share of unknown sign."""
    return {
        name: {
            "width": float((box.upper - box.lower).mean()),
            "unknown_sign": float(((box.lower < 0) & (box.upper > 0)).mean()),
        }
        for name, box in boxes.items()
    }


def every_method(p: Problem, known: dict, args: argparse.Namespace, peer: ModuleType | None):
    """By method and lines: the bounds, the cost or why there is none, and the peer's bounds."""
    found: dict[Key, jb.Interval] = {}
    costs: dict[Key, dict] = {}
    theirs: dict[Key, jb.Interval] = {}
    for key in [key for key in METHODS | EXACT if key[0] in ("ibp", *args.methods)]:
        chosen = p.first(args.few) if key in FEW else p
        try:
            found[key], costs[key] = of_method(chosen, key, known, args)
        except (ValueError, RuntimeError) as reason:
            costs[key] = {"left_out": " ".join(str(reason).split()[:14])}
        if peer and key in (*PEER, STEPS) and key in found:
            seen = chosen.first(len(found[key].lower))
            given = finder(seen.first(args.batch), STEPS, METHODS[STEPS])
            bounds, cost = beside(seen, peer, PEER.get(key, ("optimised", given)), args)
            theirs |= {} if bounds is None else {key: bounds}
            costs[key] |= cost
        print(f"  {' '.join(key):22s} {tables.note(costs[key])}", flush=True)
        pair = [(key[0], "adaptive"), (key[0], "tight")]
        if key == pair[1]:
            union = key[0], "union"
            found[union] = best([found[key] for key in pair])
            costs[union] = {ms: sum(costs[key][ms] for key in pair) for ms in ("ms", "cpu_ms")}
    return found, costs, theirs


def of_method(p: Problem, key: Key, known: dict, args: argparse.Namespace):
    if key in SMALL and (size := neurons(known)) > args.small:
        raise ValueError(f"{size:,} neurons, more than --small {args.small:,}")
    if key not in EXACT:
        return measure(p, key, METHODS[key], args)
    limit = {"time_limit": args.solve_seconds} if key[0] == "milp" else {}
    return solve(p, functools.partial(EXACT[key], **limit), known, args.seconds)


def best(bounds: list[jb.Interval]) -> jb.Interval:
    """The best of several bounds, element by element."""
    lower, upper = common(*(box.lower for box in bounds)), common(*(box.upper for box in bounds))
    return jb.Interval(np.max(lower, 0), np.min(upper, 0))


def common(*arrays: np.ndarray) -> list[np.ndarray]:
    """The images that all have seen."""
    count = min(map(len, arrays))
    return [array[:count] for array in arrays]


def summary(bounds: jb.Interval, low: np.ndarray, found: dict[Key, jb.Interval]) -> dict[str, Any]:
    """How tight bounds are; `low` is what descent found, `found` all bounds of the network."""
    ibp = jax.tree.map(lambda end: end[: len(bounds.lower)], found["ibp", "-"])
    low, lower, widths = low[: len(bounds.lower)], bounds.lower, bounds.upper - bounds.lower
    record = {
        "seen": len(lower),
        "mean_width": float(widths.mean()),
        "median_width": float(np.median(widths)),
        "relative_width": float(widths.mean() / (ibp.upper - ibp.lower).mean()),
        "mean_lower": float(lower.mean()),
        "smallest_margin": float(lower.min(-1).mean()),
        "smallest": [float(f"{value:.5g}") for value in lower.min(-1)],
        "verified": int((lower > 0).all(-1).sum()),
        "unsound": int((lower > low + 1e-4 * (1 + abs(low))).sum()),
        "gap_closed": share(ibp.lower, lower, low),
    }
    if ("lp", "-") in found and START in found:
        ends = found[START].lower, lower, found["lp", "-"].lower
        record["lp_gap_closed"] = share(*ends)
    return record


def share(loose: np.ndarray, lower: np.ndarray, tight: np.ndarray) -> float | None:
    """Of the gap between two lower bounds of the same margins: what a third closes."""
    loose, lower, tight = common(loose, lower, tight)
    gap = (tight - loose).sum()
    return float((lower - loose).sum() / gap) if gap > 1e-6 * abs(tight).sum() else None


def nested(found: dict[Key, jb.Interval]) -> list[dict[str, Any]]:
    """Where the theorem's order is violated, by more than rounding, and by how much of the width at most."""
    of = lambda method: found.get((method, "-" if method == "ibp" else "tight"))
    records = []
    for looser, tighter in NESTED:
        a, b = of(looser), of(tighter)
        if a is None or b is None:
            continue
        low, high, lower, upper = common(a.lower, a.upper, b.lower, b.upper)
        # Where an interval is but a point, rounding would be divided by nothing.
        width = np.maximum(high - low, 1e-3 * (high - low).mean() + 1e-6)
        excess = np.maximum(low - lower, upper - high) / width
        record = {"looser": looser, "tighter": tighter, "margins": excess.size}
        records.append(
            record | {"violations": int((excess > ROUNDING).sum()), "excess": float(excess.max())}
        )
    return records


def parse() -> tuple[argparse.Namespace, ModuleType | None]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = list(dict.fromkeys(name for name, _ in METHODS | EXACT))
    add = parser.add_argument
    add("--networks", nargs="+", default=[*HERE, *map(str, KEPT)], help="names, or folders of runs")
    add("--methods", nargs="+", choices=methods, default=methods)
    add("--images", type=int, default=100, help="of a network; of slow methods:")
    add(
        "--few",
        type=int,
        default=10,
        help="images of lp, milp and alpha-CROWN inside too, and of the layers",
    )
    add("--batch", type=int, default=10, help="images at once")
    add("--steps", type=int, default=2000, help="of each training")
    add("--attack-steps", type=int, default=40, help="of the descent on each margin")
    add("--dataset", choices=["mnist", "digits"], default="mnist")
    add("--data-dir", help="a TFDS folder, or an npz file")
    add("--seconds", type=float, default=10.0, help="of a method on a network: then it stops")
    add("--solve-seconds", type=float, default=2.0, help="of one MILP")
    add("--small", type=int, default=1000, help="neurons at most, for the slowest methods")
    add("--peer", choices=["auto_lirpa"], help="a library to compare with")
    add("--memory-limit", type=float, default=8.0, help="of the peer, in GB")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "tightness")
    args = parser.parse_args()
    for name in ("images", "few", "batch", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, not {getattr(args, name)}")
    for name in args.networks:
        if name not in HERE and not (Path(name) / "run.json").exists():
            known = ", ".join(HERE)
            parser.error(f"--networks: {name} is not one of {known}, nor a folder with a run.json")
    if not args.peer:
        return args, None
    try:
        return args, importlib.import_module("peer")
    except ImportError as error:
        parser.error(f"--peer needs PyTorch and auto_LiRPA installed in this environment: {error}")


def main() -> None:
    args, peer = parse()
    start, shown = time.perf_counter(), vars(args) | {"out": None, "data_dir": None}
    shown["networks"] = [Path(name).name for name in args.networks]
    report = {"machine": machine(), "jax": jax.__version__} | (peer.versions() if peer else {})
    print(", ".join(f"{key} {value}" for key, value in report.items()), flush=True)
    report |= {"options": {k: v for k, v in shown.items() if v is not None}, "networks": []}
    chosen = problems(args.networks, args.data_dir, args.dataset, args.images, args.steps)
    for i, p in enumerate(chosen, 1):
        minutes = (time.perf_counter() - start) / 60
        print(f"\n{p.name} ({i} of {len(args.networks)}, {minutes:.1f} min)", flush=True)
        report["networks"].append(network(p, args, peer))
        print(tables.of_network(report["networks"][-1]), flush=True)
        write(report, args.out / "tightness.json")
        tables.write(report["networks"], args.out)
        plots.write(report["networks"], args.out)
    print(f"\n{tables.overview(report['networks'])}")
    print(f"\nwrote {args.out}: tightness.json, .csv, .md, and pictures")


if __name__ == "__main__":
    main()
