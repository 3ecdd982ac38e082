"""Trains a certified classifier by CROWN-IBP, and certifies the test set.

    python examples/cifar_crown_ibp.py                      # what fits this machine
    python examples/cifar_crown_ibp.py --preset smoke       # everything, in under a minute
    python examples/cifar_crown_ibp.py --preset cifar_8 --data-dir ~/tensorflow_datasets

Writes run.json, checkpoints, results.json, results.csv, picture.png and classes.png to --out. A run
that was stopped goes on with --resume.
"""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import sys
import time

import _data
import _report
import _train
import jax
import numpy as np
from _presets import NETWORKS, PRESETS, Preset, default_preset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import jaxbound as jb
from jaxbound import training

METHODS = {
    "IBP": jb.ibp,
    "CROWN-IBP": jb.crown_ibp,
    "CROWN-LBP": functools.partial(jb.crown_lbp, relaxation="tight"),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, help="default: what fits this machine")
    parser.add_argument("--dataset", choices=_data.DATASETS, help="default: the preset's")
    parser.add_argument("--data-dir", help="a TFDS folder, or an npz file")
    parser.add_argument("--out", help="default: runs/PRESET-DATA-SEED")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="discard the run in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--bound", choices=("ibp", "crown_ibp"), help="of the training loss")
    parser.add_argument("--epochs", type=int, help="stretches or shortens all schedules alike")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--test-images", type=int, help="certify only the first so many")
    return parser.parse_args(arguments)


def choose(args: argparse.Namespace, console: Console) -> tuple[str, Preset, _data.Data]:
    """Preset and data; the digits where nothing was asked for and nothing can be had."""
    name = args.preset or default_preset()
    dataset = args.dataset or PRESETS[name].dataset
    if args.dataset == "digits" and not args.preset:
        name = "digits"
    try:
        data = _data.load(dataset, args.data_dir)
    except _data.Unavailable as reason:
        if args.dataset or args.data_dir:
            sys.exit(f"{dataset} cannot be had: {reason}")
        console.rule(f"[bold red]NO {dataset.upper()}")
        console.print(f"[bold]{reason}.", highlight=False)
        console.rule("[bold red]going on with scikit-learn's handwritten DIGITS")
        name, data = args.preset or "digits", _data.digits()
    preset = PRESETS[name] if args.epochs is None else PRESETS[name].scaled(args.epochs)
    given = {k: getattr(args, k) for k in ("network", "bound", "batch_size", "learning_rate")}
    return name, dataclasses.replace(preset, **{k: v for k, v in given.items() if v}), data


def open_run(args: argparse.Namespace, out: str, config: dict) -> _train.Checkpoints:
    """The run's folder: new, or continued if it is the same run."""
    path, results = os.path.join(out, "run.json"), os.path.join(out, "results.json")
    if os.path.exists(path) and args.resume:
        with open(path) as file:
            old = json.load(file)
        changed = [key for key in config if old.get(key) != config[key]]
        if changed:
            sys.exit(f"{out} holds another run: {', '.join(changed)} differ; choose another --out")
    elif os.path.exists(path):
        if not (args.overwrite or os.path.exists(results)):
            sys.exit(
                f"{out} holds an unfinished run: --resume continues it, --overwrite discards it"
            )
        shutil.rmtree(os.path.join(out, "checkpoints"), ignore_errors=True)
    if os.path.exists(results):
        os.remove(results)
    os.makedirs(out, exist_ok=True)
    _train.write_json(path, config)
    return _train.Checkpoints(os.path.join(out, "checkpoints"))


def train(preset: Preset, data: _data.Data, seed: int, checkpoints, console: Console):
    """Trains under a progress bar, with a line for every epoch; stops where training goes wrong."""
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        steps = len(data.x_train) // preset.batch_size
        task = progress.add_task("training", total=steps * preset.epochs)

        def report(epoch, step, m):
            text = f"epoch {epoch + 1}/{preset.epochs} {describe(m)}"
            progress.update(task, completed=epoch * steps + step, description=text)

        def epoch_done(m):
            line = f"epoch {m['epoch']:>3} {describe(m)} {m['seconds']:.1f} s"
            progress.console.print(line, highlight=False)

        try:
            return _train.train(preset, data, seed, checkpoints, report, epoch_done)
        except _train.Diverged as reason:
            kept = checkpoints.latest()
            sys.exit(
                f"training stopped: {reason}. "
                + (f"The checkpoint of epoch {kept} is kept. " if kept else "")
                + "A lower --learning-rate or a longer ramp (--epochs) helps."
            )


def describe(m: dict[str, float]) -> str:
    return (
        f"eps {255 * m['eps']:.2f}/255 loss {m['loss']:.3f} (clean {m['clean_loss']:.3f}, "
        f"worst case {m['robust_loss']:.3f}) verified error {100 * m['verified_error']:.1f} %"
    )


def certify(net, variables, preset: Preset, x: np.ndarray, y: np.ndarray, console: Console):
    """Radius -> evaluation of the test images."""
    evaluate = training.evaluator(
        net.apply,
        METHODS,
        batch_sizes={"CROWN-IBP": 64, "CROWN-LBP": preset.lbp_batch},
        limits={"CROWN-LBP": preset.lbp_images},
        attack_steps=preset.pgd_steps,
        attack_restarts=preset.pgd_restarts,
    )
    evaluations = {}
    with Progress(console=console, transient=True) as progress:
        for eps in preset.eps_test:
            tasks: dict[str, int] = {}

            def tell(stage, done, total, tasks=tasks):
                if stage not in tasks:
                    tasks[stage] = progress.add_task(stage, total=total)
                progress.update(tasks[stage], completed=done, total=total)

            evaluations[eps] = evaluate(variables, x, y, eps, tell)
    return evaluations


def draw(path: str, title: str, net, state, preset: Preset, history, x, y) -> str:
    """The curves of the run, and the bounds of a few test images."""
    methods = {key: METHODS[key] for key in ("IBP", "CROWN-IBP")}
    eps = preset.eps_test[0]
    clean, bounds = _report.margin_bounds(net.apply, state["variables"], x, y, eps, methods)
    title = f"{title}, eps {255 * eps:.3g}/255"
    _report.plot_run(path, title, history, x, y, clean, bounds)
    return path


def main(arguments: list[str] | None = None) -> dict:
    args, console, started = parse(arguments), Console(), time.monotonic()
    name, preset, data = choose(args, console)
    out = args.out or os.path.join("runs", f"{name}-{data.name}-{args.seed}")
    console.print(f"{name} on {data}, {jax.default_backend()}; writing to {out}", highlight=False)
    recipe = json.loads(json.dumps(dataclasses.asdict(preset)))
    config = {"preset": name, "recipe": recipe, "data": str(data), "dataset": data.name}
    checkpoints = open_run(args, out, config | {"seed": args.seed})
    state, history = train(preset, data, args.seed, checkpoints, console)
    trained = time.monotonic() - started
    net, count = _train.classifier(preset, data), args.test_images
    x, y = data.x_test[:count].astype(np.float32) / 255, data.y_test[:count]
    evaluations = certify(net, state["variables"], preset, x, y, console)
    title = f"{name} (seed {args.seed}) on {data}"
    _report.print_table(console, title, evaluations)
    picture = draw(
        os.path.join(out, "picture.png"), title, net, state, preset, history, x[:6], y[:6]
    )
    results = config | {
        "seed": args.seed,
        "backend": jax.default_backend(),
        "seconds": {"train": trained, "total": time.monotonic() - started},
        "history": history,
        "evaluation": {str(eps): result.summary() for eps, result in evaluations.items()},
    }
    _report.write_csv(os.path.join(out, "results.csv"), evaluations)
    _report.plot_classes(os.path.join(out, "classes.png"), title, evaluations)
    _train.write_json(os.path.join(out, "results.json"), results)
    console.print(f"{time.monotonic() - started:.0f} s in all; {out}/results.json, {picture}")
    return results


if __name__ == "__main__":
    found = main()
    if any(any(e["contradictions"].values()) for e in found["evaluation"].values()):
        sys.exit("a verified image was attacked successfully: a bound is unsound")
