"""Certifies images with a trained checkpoint, method by method.

    python examples/certify.py runs/laptop-cifar10-0 --eps 1
    python examples/certify.py benchmarks/networks/mnist_small_ramp --data-dir ~/tensorflow_datasets
    python examples/certify.py                              # trains a tiny network first

Prints every image's smallest margin and its lower bounds, and plots all margins, to certified.png
in the run.
"""

import argparse
import json
import os
import sys

import _data
import _report
import _run
import _train
import numpy as np
from _presets import Preset
from _run import METHODS
from rich.console import Console
from rich.table import Table

import jaxbound as jb


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="a run's folder; default: trains one")
    parser.add_argument("--data-dir", help="as it was given to the run")
    parser.add_argument(
        "--eps", type=float, help="radius in 1/255, a grey level of an image; default: the preset's"
    )
    parser.add_argument("--images", type=int, default=8, help="test images to certify")
    return parser.parse_args(arguments)


def load(run: str, data_dir: str | None, load_data=_data.load):
    """The run's recipe, data, network and chosen variables."""
    with open(os.path.join(run, "run.json")) as file:
        config = json.load(file)
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in config["recipe"].items()}
    preset, data = Preset(**lists), load_data(config["dataset"], data_dir)
    net, weights = _train.classifier(preset, data), os.path.join(run, "weights.npz")
    checkpoints = os.path.join(run, "checkpoints")
    if os.path.isdir(checkpoints) and (newest := _train.Checkpoints(checkpoints)).latest():
        state, _ = newest.restore(_train.initial_state(net, preset, data, config["seed"]))
        return preset, data, net, _train.chosen(preset, state)[0]
    if os.path.exists(weights):
        return preset, data, net, _train.load_weights(weights)
    raise FileNotFoundError(f"{run} holds neither a checkpoint nor weights.npz yet")


def main(arguments: list[str] | None = None) -> None:
    args, console = parse(arguments), Console()
    jb.keep_compiled_programs()
    run = args.run or os.path.join("runs", "smoke-digits-0")
    if args.run is None and not os.path.exists(os.path.join(run, "results.json")):
        _run.main(["--preset", "smoke", "--out", run, "--overwrite"])
    try:
        preset, data, net, variables = load(run, args.data_dir)
    except (_data.Unavailable, FileNotFoundError) as reason:
        sys.exit(str(reason))
    eps = preset.eps_test[0] if args.eps is None else args.eps / 255
    x, y = data.x_test[: args.images].astype(np.float32) / 255, data.y_test[: args.images]
    clean, bounds = _report.margin_bounds(net.apply, variables, x, y, eps, METHODS)
    title = f"{data}, eps {255 * eps:.3g}/255"
    table = Table("image", "label", "smallest margin", *METHODS, "verified", title=title)
    smallest = {name: np.asarray(bound.lower).min(-1) for name, bound in bounds.items()}
    for i, label in enumerate(y):
        lower = [lowers[i] for lowers in smallest.values()]
        verdict = "yes" if max(lower) > 0 else "no"
        numbers = (f"{value:.4f}" for value in (clean[i].min(), *lower))
        table.add_row(str(i), str(label), *numbers, verdict)
    console.print(table)
    path = os.path.join(run, "certified.png")
    figure = _report.plt.figure(figsize=(2 * len(x) + 2, 6), layout="constrained")
    figure.suptitle(title)
    _report.draw_margins(figure, x, y, clean, bounds)
    _report.save_figure(figure, path)
    console.print(path)


if __name__ == "__main__":
    main()
