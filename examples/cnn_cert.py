"""Trains a network of CNN-Cert (Boopathy et al., arXiv:1811.12395) and measures its certified radii.

    python examples/cnn_cert.py --network cnn_4layer_5 --data-dir ~/tensorflow_datasets
    python examples/cnn_cert.py --preset cnn_cert_lenet --activation tanh --norms inf
    python examples/cnn_cert.py --dataset digits

For the first test images that are classified rightly: the average of the largest l1, l2 and linf
radius that each method certifies against one target class, the seconds it takes for an image, and the
distance of the nearest adversarial point that PGD finds, above which nothing can be certified. Pixels
are in [0, 1], less 0.5; balls are not cut at that range, as in the paper.

Writes run.json, checkpoints, weights.npz, results.json, results.csv and radii.png to --out.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import _report
import _run
import _train
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import jaxbound as jb
from jaxbound import training

METHODS = {
    "IBP": jb.ibp,
    "LBP": jb.lbp,
    "Fast-Lin": functools.partial(jb.crown, relaxation="parallel"),
    "CROWN": jb.crown,
}
ATTACK = "PGD"
NORMS = {"1": 1, "2": 2, "inf": np.inf}
TARGETS = ("random", "least", "runner-up", "all")
LIMITS = (1e-5, 30.0)  # of radii


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = _run.make_parser("cnn_cert", __doc__.splitlines()[0])
    parser.add_argument(
        "--norms",
        nargs="+",
        choices=NORMS,
        default=list(NORMS),
        help="of radii; pixels are in [0, 1]",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--target", choices=TARGETS, default="random", help="class to exclude")
    parser.set_defaults(test_images=10, digits="cnn_cert_digits")
    return parser.parse_args(arguments)


def with_targets(logits: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Every image's class and those to exclude `[N, 1 + targets]`.

    A random one is none of the first, the second and the last.
    """
    order = np.argsort(-logits, axis=-1)
    if kind == "random":
        others = np.random.default_rng(seed).permuted(order[:, 2:-1], axis=1)[:, :1]
    else:
        others = order[
            :, {"least": slice(-1, None), "runner-up": slice(1, 2), "all": slice(1, None)}[kind]
        ]
    return np.concatenate([order[:, :1], others], axis=1)


def adversarial_radius(fn, x, label, key, *, p, steps: int = 12):
    """The distance of the nearest point that is classified wrongly, of those that PGD finds in balls.

    Steps of one pixel at a time seldom end a search in an l1 ball: there the balls are l2.
    """

    def step(i, state):
        low, high, nearest = state
        radius = jnp.sqrt(low) * jnp.sqrt(high)
        key_here = jax.random.fold_in(key, i)
        ball = jb.lp_ball(x, radius, max(p, 2))
        found = training.pgd(fn, ball, label, key_here, steps=40)
        broken = found.margins.min() <= 0
        distance = jnp.linalg.norm((found.x - x).ravel(), p)
        nearest = jnp.where(broken, jnp.minimum(nearest, distance), nearest)
        return jnp.where(broken, low, radius), jnp.where(broken, radius, high), nearest

    ends = (jnp.asarray(limit, x.dtype) for limit in (*LIMITS, np.inf))
    return jax.lax.fori_loop(0, steps, step, tuple(ends))[2]


def searches(net: _train.Classifier, variables: Any, methods: list[str], p: float) -> dict:
    """Name -> radius of one image, its classes and a key."""

    def one(search, x, classes, key):
        return search(lambda z: net.apply(variables, z)[classes], x, 0, key)

    def certified(method, fn, x, label, key):
        return jb.certified_radius(fn, x, label, p=p, method=method, limits=LIMITS)

    found = {name: functools.partial(certified, METHODS[name]) for name in methods}
    found[ATTACK] = functools.partial(adversarial_radius, p=p)
    return {name: functools.partial(one, search) for name, search in found.items()}


def measure(search: Callable, x, classes, seed: int, advance: Callable) -> dict[str, Any]:
    """The radius of every image, and the seconds for one; compiled beforehand."""
    keys = jax.random.split(jax.random.key(seed), len(x))
    run, radii = jax.jit(search), []
    images = list(zip(x, classes, keys, strict=True))
    run(*images[0]).block_until_ready()
    started = time.monotonic()
    for image in images:
        radii.append(float(run(*image)))
        advance()
    return {"radii": radii, "seconds": (time.monotonic() - started) / len(x)}


def measure_all(run: _run.Trained, args, x, classes, console: Console) -> dict[str, dict]:
    """Norm -> method -> its radii and seconds."""
    found: dict[str, dict] = {}
    with Progress(console=console, transient=True) as progress:
        for norm in args.norms:
            found[norm] = {}
            of_norm = searches(run.net, run.variables, args.methods, NORMS[norm])
            for name, search in of_norm.items():
                task = progress.add_task(f"l{norm}, {name}", total=len(x))
                advance = functools.partial(progress.advance, task)
                found[norm][name] = measure(search, x, classes, args.seed, advance)
    return found


def lines(found: dict[str, dict]) -> list[dict[str, Any]]:
    """A line for every norm and method."""
    return [
        {"norm": f"l{norm}", "method": name, "average radius": np.mean(of["radii"]).item()}
        | {"seconds per image": of["seconds"]}
        for norm, methods in found.items()
        for name, of in methods.items()
    ]


def contradictions(found: dict[str, dict]) -> int:
    """Radii that are certified though an attack succeeded within."""
    return sum(
        radius > least * (1 + 1e-4)
        for methods in found.values()
        for name in methods
        for radius, least in zip(methods[name]["radii"], methods[ATTACK]["radii"], strict=True)
    )


def plot(path: str, title: str, found: dict[str, dict]) -> None:
    """The share of images that are certified at a radius, a panel for every norm."""
    figure = _report.plt.figure(figsize=(4 * len(found) + 1, 3.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for panel, (norm, methods) in zip(panels, found.items(), strict=True):
        for name, of in methods.items():
            radii = np.sort(of["radii"])
            share = 1 - np.arange(len(radii)) / len(radii)
            style = "k:" if name == ATTACK else "-"
            panel.step([LIMITS[0], *radii], [1, *share], style, label=name)
        panel.set(xlabel=f"l{norm} radius", xscale="log", ylim=(0, 1.05))
    panels[0].set_ylabel("share of the images")
    _report.legend_below(figure, panels[0])
    _report.save_figure(figure, path)


def main(arguments: list[str] | None = None) -> dict:
    args, console = parse(arguments), Console()
    run, count = _run.trained(args, console), args.test_images
    images = jnp.float32(run.data.x_test[:count]) / 255
    logits = np.asarray(jax.jit(jax.vmap(run.net.apply, (None, 0)))(run.variables, images))
    right = logits.argmax(-1) == run.data.y_test[:count]
    if not right.any():
        sys.exit("no image is classified rightly: nothing to certify")
    classes = jnp.asarray(with_targets(logits[right], args.target, args.seed))
    found = measure_all(run, args, images[right], classes, console)
    title = f"{run.recipe.network}, {run.recipe.activation}, {run.data.name}, target: {args.target}"
    table = Table(
        *(found_lines := lines(found))[0], title=f"{title}; {right.sum()} of {count} images"
    )
    for line in found_lines:
        table.add_row(
            *(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in line.values())
        )
    console.print(table)
    results = run.config | {"target": args.target, "images": int(right.sum()), "table": found_lines}
    results |= {"found": found, "contradictions": contradictions(found), "history": run.history}
    _report.write_lines(os.path.join(run.out, "results.csv"), found_lines)
    plot(os.path.join(run.out, "radii.png"), title, found)
    _train.write_json(os.path.join(run.out, "results.json"), results)
    console.print(os.path.join(run.out, "results.json"))
    return results


if __name__ == "__main__":
    if main()["contradictions"]:
        sys.exit("an attack succeeded within a certified radius: a bound is unsound")
