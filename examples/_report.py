"""What a run leaves behind: tables and pictures."""

import csv
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxbound as jb
from jaxbound import training

matplotlib.use("agg")
from matplotlib import pyplot as plt

COLOURS = {"IBP": "tab:orange", "CROWN-IBP": "tab:blue", "CROWN-LBP": "tab:green"}


def print_table(
    console: Console, title: str, evaluations: dict[float, training.Evaluation]
) -> None:
    """Errors in percent, a column for every radius; a method that saw fewer images says so."""
    table = Table(title=title)
    table.add_column("error, %")
    for eps, evaluation in evaluations.items():
        table.add_column(
            f"eps {eps * 255:.3g}/255, {len(evaluation.clean)} images", justify="right"
        )
    columns = [rows(evaluation) for evaluation in evaluations.values()]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    console.print(table)


def rows(evaluation: training.Evaluation) -> dict[str, str]:
    """Row name -> error in percent."""
    total, verified = len(evaluation.clean), evaluation.verified
    cells = {"clean": evaluation.clean_error, "PGD": evaluation.pgd_error}
    of_methods = {
        f"verified, {name}": (error, len(verified[name]))
        for name, error in evaluation.verified_error.items()
    }
    texts = {name: f"{100 * error:.2f}" for name, error in cells.items()}
    for name, (error, images) in of_methods.items():
        first = "" if images == total else f" (first {images} images)"
        texts[name] = f"{100 * error:.2f}{first}"
    if "complete" in verified:
        texts["undecided images"] = str(evaluation.undecided)
    return texts | {"contradictions": str(max(evaluation.contradictions.values()))}


def write_csv(path: str, evaluations: dict[float, training.Evaluation]) -> None:
    """A row for every radius and class, the first of all classes."""
    lines = [
        {"eps": eps, "class": label} | flat(part)
        for eps, evaluation in evaluations.items()
        for label, part in with_classes(evaluation)
    ]
    write_lines(path, lines)


def write_lines(path: str, lines: Sequence[dict[str, Any]]) -> None:
    """Lines of the same columns as CSV; writes all of it or nothing."""
    with open(path + ".tmp", "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    os.replace(path + ".tmp", path)


def with_classes(evaluation: training.Evaluation) -> list[tuple[str, dict[str, Any]]]:
    """The summary of all images, then that of every class."""
    summary = evaluation.summary()
    return [("all", summary), *summary.pop("classes").items()]


def flat(summary: dict[str, Any]) -> dict[str, Any]:
    """One level: `{"verified_error": {"IBP": 0.5}}` becomes `{"verified_error, IBP": 0.5}`."""
    cells = {}
    for name, value in summary.items():
        inner = value.items() if isinstance(value, dict) else ()
        cells |= {f"{name}, {key}": cell for key, cell in inner} or {name: value}
    return cells


def plot_classes(path: str, title: str, evaluations: dict[float, training.Evaluation]) -> None:
    """The errors of every class, a panel for every radius."""
    (labels, *_) = (list(evaluation.classes) for evaluation in evaluations.values())
    size = (min(3 + 0.6 * len(labels), 30), 1 + 2.5 * len(evaluations))
    figure = plt.figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(evaluations), squeeze=False, sharex=True)[:, 0]
    for panel, (eps, evaluation) in zip(panels, evaluations.items(), strict=True):
        parts = evaluation.classes.values()
        errors = {
            "clean": [part.clean_error for part in parts],
            "PGD": [part.pgd_error for part in parts],
            "verified by no method": [part.verified_error["union"] for part in parts],
        }
        for i, (name, of_classes) in enumerate(errors.items()):
            places = np.arange(len(labels)) + 0.27 * (i - 1)
            panel.bar(places, 100 * np.array(of_classes), 0.27, label=name)
        panel.set(ylabel=f"error, %, eps {eps * 255:.3g}/255", ylim=(0, 100))
    legend_below(figure, panels[0])
    panels[-1].set_xticks(range(len(labels)), labels)
    panels[-1].set_xlabel("class")
    save_figure(figure, path)


def margin_bounds(
    apply: Callable,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    eps: float,
    methods: dict,
) -> tuple[np.ndarray, dict[str, jb.Interval]]:
    """Clean margins `[N, K-1]`, and their bounds over the balls by every method."""

    def bounds(method):
        def one(x, y):
            box = jb.linf_ball(x, eps, clip=(0.0, 1.0))
            return method(lambda x: jb.margins(apply(variables, x), y), box)

        return jax.jit(jax.vmap(one))(images, labels)

    clean = jax.vmap(lambda x, y: jb.margins(apply(variables, x), y))(images, labels)
    return np.asarray(clean), {name: bounds(method) for name, method in methods.items()}


def legend_below(figure, axis) -> None:
    """Beside the panels, where it covers nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def save_figure(figure, path: str) -> None:
    """Writes all of it or nothing."""
    figure.savefig(path + ".tmp", format="png", dpi=110)
    os.replace(path + ".tmp", path)
    plt.close(figure)


def plot_run(path: str, title: str, history: Sequence[dict], images, labels, clean, bounds) -> None:
    """The curves of a run above, some test images and the bounds on their margins below."""
    figure = plt.figure(figsize=(12, 8.5), layout="constrained")
    figure.suptitle(title)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    losses, errors = top.subplots(1, 2)
    epochs = [h["epoch"] for h in history]
    for key, label in (("clean_loss", "clean"), ("robust_loss", "robust")):
        losses.plot(epochs, [h.get(key, np.nan) for h in history], label=label)
    for key, label in (("error", "clean"), ("verified_error", "verified")):
        errors.plot(epochs, [100 * h.get(key, np.nan) for h in history], label=label)
    losses.set(xlabel="epoch", ylabel="cross-entropy (training)", yscale="log")
    errors.set(xlabel="epoch", ylabel="error, % (training)", ylim=(0, 100))
    radius = errors.twinx()
    radius.plot(epochs, [255 * h["eps"] for h in history], "k:", label="eps")
    radius.set(ylabel="eps, 1/255 (dotted)", ylim=(0, None))
    for axis in (losses, errors):
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    draw_margins(bottom, images, labels, clean, bounds)
    save_figure(figure, path)


def draw_margins(figure, images, labels, clean: np.ndarray, bounds: dict) -> None:
    """Every image over its margins: the clean value, and a bar from lower to upper bound."""
    axes = figure.subplots(2, len(images), squeeze=False, height_ratios=(1, 2), sharey="row")
    for i, (picture, plot) in enumerate(axes.T):
        picture.imshow(images[i].squeeze(), cmap="gray", vmin=0, vmax=1)
        verified = any((np.asarray(b.lower[i]) > 0).all() for b in bounds.values())
        picture.set_title("verified" if verified else "not verified", fontsize=9)
        picture.axis("off")
        others = [k for k in range(clean.shape[1] + 1) if k != labels[i]]
        for k, (name, bound) in enumerate(bounds.items()):
            at = np.array(others) + 0.8 * (k + 0.5) / len(bounds) - 0.4
            plot.vlines(at, bound.lower[i], bound.upper[i], COLOURS.get(name), lw=2, label=name)
        plot.plot(others, clean[i], "k_", label="clean")
        plot.axhline(0, color="red", lw=0.8)
        plot.set_xticks(others, others, fontsize=8)
    axes[1, 0].set_ylabel("margin over each class")
    legend_below(figure, axes[1, 0])
