"""A run, from the command line to its results: train, certify, tables and pictures."""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import sys
import time
from typing import Any, NamedTuple

import _data
import _report
import _train
import jax
import numpy as np
from _presets import ACTIVATIONS, BOUNDS, NETWORKS, PRESETS, Preset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import jaxbound as jb
from jaxbound import training

METHODS = {
    "IBP": jb.ibp,
    "CROWN-IBP": jb.crown_ibp,
    "CROWN-LBP": functools.partial(jb.crown_lbp, relaxation="tight"),
}


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not > 0")
    return value


def make_parser(preset: str, description: str | None) -> argparse.ArgumentParser:
    """The options of every run; those of one script alone are added to it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", choices=PRESETS, help=f"default: {preset}")
    parser.add_argument("--dataset", choices=_data.DATASETS, help="default: the preset's")
    parser.add_argument("--data-dir", help="a TFDS folder, or an npz file")
    parser.add_argument("--out", help="default: runs/PRESET-DATA-SEED")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="discard the run in --out")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and attacks")
    parser.add_argument(
        "--network", choices=NETWORKS, help="default: the preset's, as what follows"
    )
    parser.add_argument("--activation", choices=ACTIVATIONS)
    parser.add_argument("--bound", choices=BOUNDS, help="of the training loss")
    parser.add_argument(
        "--epochs", type=int, help="passes over the data; all schedules stretch or shrink alike"
    )
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument("--learning-rate", type=float, help="of a step, before it decays")
    parser.add_argument("--test-images", type=int, help="certify the first so many images only")
    parser.add_argument(
        "--complete",
        type=_positive,
        metavar="SECONDS",
        help="decide each image that bounds and attack leave, in at most so many seconds",
    )
    parser.epilog = "Radii eps are printed in 1/255, a grey level of an image; times in seconds."
    parser.set_defaults(default=preset, digits="digits")
    return parser


def parse(
    arguments: list[str] | None = None, preset: str = "smoke", description: str | None = None
) -> argparse.Namespace:
    return make_parser(preset, description).parse_args(arguments)


def choose(args: argparse.Namespace, console: Console) -> tuple[str, Preset, _data.Data]:
    """Preset and data; the digits where nothing was asked for and nothing can be had."""
    name = args.preset or args.default
    dataset = args.dataset or PRESETS[name].dataset
    if args.dataset == "digits" and not args.preset:
        name = args.digits
    try:
        data = _data.load(dataset, args.data_dir)
    except _data.Unavailable as reason:
        if args.dataset or args.data_dir:
            sys.exit(f"{dataset} cannot be had: {reason}")
        console.rule(f"[bold red]NO {dataset.upper()}")
        console.print(f"[bold]{reason}.", highlight=False)
        console.rule("[bold red]going on with scikit-learn's handwritten DIGITS")
        name, data = args.preset or args.digits, _data.digits()
    preset = PRESETS[name] if args.epochs is None else PRESETS[name].scaled(args.epochs)
    names = ("network", "activation", "bound", "batch_size", "learning_rate")
    given = {k: getattr(args, k) for k in names}
    return name, dataclasses.replace(preset, **{k: v for k, v in given.items() if v}), data


def open_run(args: argparse.Namespace, out: str, config: dict) -> _train.Checkpoints:
    """The run's folder: new, or continued if it is the same run."""
    path, results = os.path.join(out, "run.json"), os.path.join(out, "results.json")
    if os.path.exists(path) and args.resume:
        with open(path) as file:
            old = json.load(file)
        if os.path.exists(results):
            sys.exit(
                f"{out} holds a finished run, nothing is left to --resume: its results are in {results}, "
                f"`python examples/certify.py {out}` certifies single images, --overwrite trains anew"
            )
        changed = [key for key in config if old.get(key) != config[key]]
        if changed:
            sys.exit(f"{out} holds another run: {', '.join(changed)} differ; choose another --out")
    elif os.path.exists(path):
        if not args.overwrite:
            finished = os.path.exists(results)
            kind = "a finished run:" if finished else "an unfinished run: --resume continues it,"
            sys.exit(f"{out} holds {kind} --overwrite discards it, --out names another folder")
        shutil.rmtree(os.path.join(out, "checkpoints"), ignore_errors=True)
    for old in (results, os.path.join(out, "weights.npz")):
        if os.path.exists(old):
            os.remove(old)
    os.makedirs(out, exist_ok=True)
    _train.write_json(path, config)
    return _train.Checkpoints(os.path.join(out, "checkpoints"))


def train(preset: Preset, data: _data.Data, seed: int, checkpoints, console: Console):
    """Trains under a progress bar, with a line for every epoch; stops where training goes wrong."""
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        steps = (len(data.x_train) - preset.validation) // preset.batch_size
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
    errors = {
        "error": "clean",
        "verified_error": "verified",
        "validation_error": "validation, verified",
    }
    shown = (f"{text} {100 * m[key]:.1f} %" for key, text in errors.items() if key in m)
    robust = f", robust {m['robust_loss']:.3f}" if "robust_loss" in m else ""
    losses = f"loss {m['loss']:.3f} (clean {m['clean_loss']:.3f}{robust})"
    return f"eps {255 * m['eps']:.2f}/255 {losses} errors: {', '.join(shown)}"


def certify(
    net,
    variables,
    preset: Preset,
    x: np.ndarray,
    y: np.ndarray,
    console: Console,
    seconds: float | None = None,
):
    """Radius -> evaluation of the test images; what is left of them is decided in `seconds` an image."""
    evaluate = training.evaluator(
        net.apply,
        METHODS,
        batch_sizes={"CROWN-IBP": 64, "CROWN-LBP": preset.lbp_batch},
        limits={"CROWN-LBP": preset.lbp_images},
        attack_steps=preset.pgd_steps,
        attack_restarts=preset.pgd_restarts,
        complete=seconds and functools.partial(jb.verify, timeout=seconds),
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


def draw(path: str, title: str, net, variables, preset: Preset, history, x, y) -> None:
    """The curves of the run, and the bounds of a few test images."""
    methods = {key: METHODS[key] for key in ("IBP", "CROWN-IBP")}
    eps = preset.eps_test[0]
    clean, bounds = _report.margin_bounds(net.apply, variables, x, y, eps, methods)
    title = f"{title}, eps {255 * eps:.3g}/255"
    _report.plot_run(path, title, history, x, y, clean, bounds)


class Trained(NamedTuple):
    """What a run's training leaves: where, from what, and what is to be certified."""

    out: str
    title: str
    config: dict[str, Any]
    recipe: Preset
    data: _data.Data
    net: _train.Classifier
    variables: Any
    history: list[dict[str, float]]
    seconds: float


def trained(args: argparse.Namespace, console: Console) -> Trained:
    """Opens a run, trains, and keeps the chosen weights."""
    jb.keep_compiled_programs()
    started = time.monotonic()
    name, recipe, data = choose(args, console)
    out = args.out or os.path.join("runs", f"{name}-{data.name}-{args.seed}")
    console.print(f"{name} on {data}, {jax.default_backend()}; writing to {out}", highlight=False)
    fields = json.loads(json.dumps(dataclasses.asdict(recipe)))
    config = {"preset": name, "recipe": fields, "data": str(data), "dataset": data.name}
    config |= {"seed": args.seed}
    checkpoints = open_run(args, out, config)
    state, history = train(recipe, data, args.seed, checkpoints, console)
    seconds = time.monotonic() - started
    net, (variables, selection) = _train.classifier(recipe, data), _train.chosen(recipe, state)
    weights = os.path.join(out, "weights.npz")
    _train.save_weights(weights, variables)
    variables = _train.load_weights(weights)  # what is certified is what is kept
    config |= {"selection": selection, "backend": jax.default_backend()}
    title = f"{name} (seed {args.seed}) on {data}"
    return Trained(out, title, config, recipe, data, net, variables, history, seconds)


def main(arguments: list[str] | None = None, preset: str = "smoke", description=None) -> dict:
    args, console, started = parse(arguments, preset, description), Console(), time.monotonic()
    run = trained(args, console)
    out, data, recipe, count = run.out, run.data, run.recipe, args.test_images
    x, y = data.x_test[:count].astype(np.float32) / 255, data.y_test[:count]
    evaluations = certify(run.net, run.variables, recipe, x, y, console, args.complete)
    _report.print_table(console, f"{run.title}; {run.config['selection']}", evaluations)
    picture = os.path.join(out, "picture.png")
    draw(picture, run.title, run.net, run.variables, recipe, run.history, x[:6], y[:6])
    results = run.config | {
        "seconds": {"train": run.seconds, "total": time.monotonic() - started},
        "history": run.history,
        "evaluation": {str(eps): result.summary() for eps, result in evaluations.items()},
    }
    _report.write_csv(os.path.join(out, "results.csv"), evaluations)
    _report.plot_classes(os.path.join(out, "classes.png"), run.title, evaluations)
    _train.write_json(os.path.join(out, "results.json"), results)
    console.print(f"{time.monotonic() - started:.0f} s in all; {out}/results.json, {picture}")
    return results


def script(description: str, preset: str) -> None:
    """A command-line program: its own documentation, and the recipe that it runs unless told otherwise."""
    found = main(preset=preset, description=description.splitlines()[0])
    if any(any(e["contradictions"].values()) for e in found["evaluation"].values()):
        sys.exit("a verified image was attacked successfully: a bound is unsound")
