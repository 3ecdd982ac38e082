"""How tight are the bounds? Widths of the certified margins and verified images, by method and relaxation.

    python benchmarks/tightness.py [--images 100] [--steps 1500] [--out benchmarks/results]
    python benchmarks/tightness.py --networks benchmarks/networks/* [--data-dir ~/tensorflow_datasets]

Bounds the margins of test images (scikit-learn's 8 x 8 digits, pixels in [0, 1]) on a dense and a convolutional
network, each at its random initialisation, trained for accuracy alone, and trained with interval bounds; or on the
networks of kept runs, with the data and at the radius that they were tested with. Prints a table, and writes it as
JSON and CSV, and as a picture. A few minutes on two cores.
"""

import argparse
import csv
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxbound as jb
from jaxbound import networks, training

matplotlib.use("agg")
import matplotlib.pyplot as plt

MODELS = {
    "dense": networks.ConvNet((), (100, 100, 100)),
    "conv": networks.ConvNet(
        (networks.ConvSpec(16, 3, 1, 1), networks.ConvSpec(16, 3, 2, 1)), (50,)
    ),
}
EPS = {"random": 0.02, "natural": 0.02, "certified": 0.1}  # radius that is measured, by training
LINEAR = {"lbp": jb.lbp, "crown_ibp": jb.crown_ibp, "crown_lbp": jb.crown_lbp, "crown": jb.crown}
EXAMPLES = Path(__file__).parent.parent / "examples"
METHODS: dict[tuple[str, str], Callable] = {("ibp", "-"): jb.ibp} | {
    (name, lines): functools.partial(method, relaxation=lines)
    for name, method in LINEAR.items()
    for lines in ("adaptive", "tight", "parallel")
}


class Problem(NamedTuple):
    """A network, how it was trained, and images to certify."""

    network: str
    training: str
    eps: float
    apply: Callable[[Any, jax.Array], jax.Array]  # variables, one image -> logits
    variables: Any
    images: jax.Array
    labels: jax.Array


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one network; widths are `upper - lower` of a margin, over all margins and images."""

    network: str
    training: str
    eps: float
    method: str
    relaxation: str
    mean: float
    median: float
    quantile_90: float
    mean_lower: float
    verified: int
    images: int


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images and labels, test images and labels; a fixed split."""
    data = load_digits()
    images = (data.images[..., None] / 16).astype(np.float32)
    train, test, y_train, y_test = train_test_split(
        images, data.target, test_size=360, random_state=0, stratify=data.target
    )
    return train, y_train, test, y_test


def fit(model, variables, images, labels, steps: int, eps: float):
    """Adam on random batches: cross-entropy where `eps` is 0, else the IBP loss with a growing radius."""
    optimizer = optax.adam(1e-3)
    radius = training.linear_eps(steps // 10, steps // 2, max(eps, 1e-9))

    def loss(variables, step, x, y):
        fn = lambda x: model.apply(variables, x[None])[0]
        if not eps:
            return optax.softmax_cross_entropy_with_integer_labels(fn(x), y)
        kappa = training.kappa(radius(step), eps)
        return training.ibp_loss(fn, x, y, jb.linf_ball(x, radius(step), (0, 1)), kappa=kappa)[0]

    def step_fn(carry, step):
        variables, state = carry
        batch = jax.random.choice(jax.random.fold_in(jax.random.key(1), step), len(labels), (64,))
        mean = lambda v: jax.vmap(loss, (None, None, 0, 0))(
            v, step, images[batch], labels[batch]
        ).mean()
        updates, state = optimizer.update(jax.grad(mean)(variables), state)
        return (optax.apply_updates(variables, updates), state), None

    run = jax.jit(lambda v: jax.lax.scan(step_fn, (v, optimizer.init(v)), jnp.arange(steps))[0][0])
    return run(variables)


@functools.cache
def compiled(apply: Callable, method: tuple[str, str]) -> Callable:
    """Weights, images, labels, eps -> bounds of the margins; compiled once for all trainings."""

    def bounds(variables, images, labels, eps):
        def one(image_and_label):
            x, y = image_and_label
            fn = lambda x: jb.margins(apply(variables, x), y)
            return METHODS[method](fn, jb.linf_ball(x, eps, clip=(0, 1)))

        return jax.lax.map(one, (images, labels), batch_size=20)  # for less memory

    return jax.jit(bounds)


def summary(bounds: jb.Interval) -> dict[str, float]:
    widths = np.asarray(bounds.upper - bounds.lower)
    return {
        "mean": float(widths.mean()),
        "median": float(np.median(widths)),
        "quantile_90": float(np.quantile(widths, 0.9)),
        "mean_lower": float(bounds.lower.mean()),
        "verified": int(jax.vmap(jb.verified)(bounds).sum()),
    }


def trained_here(n_images: int, steps: int) -> Iterator[Problem]:
    """Every network on the digits, by every training."""
    train, y_train, test, y_test = map(jnp.asarray, digits())
    test, y_test = test[:n_images], y_test[:n_images]
    for network, model in MODELS.items():
        start = model.init(jax.random.key(0), train[:1])
        apply = lambda variables, x, model=model: model.apply(variables, x[None])[0]
        for kind, eps in EPS.items():
            train_eps = eps if kind == "certified" else 0.0
            trained = (
                start if kind == "random" else fit(model, start, train, y_train, steps, train_eps)
            )
            yield Problem(network, kind, eps, apply, trained, test, y_test)


def kept(folders: list[Path], n_images: int, data_dir: str | None) -> Iterator[Problem]:
    """The networks of finished runs of the examples."""
    sys.path.insert(0, str(EXAMPLES))
    import certify

    for folder in folders:
        recipe, data, net, variables = certify.load(str(folder), data_dir)
        images = jnp.float32(data.x_test[:n_images]) / 255
        labels = jnp.asarray(data.y_test[:n_images])
        yield Problem(
            recipe.network, folder.name, recipe.eps_test[0], net.apply, variables, images, labels
        )


def rows(problems: Iterable[Problem]) -> Iterator[Row]:
    """Every problem by every method, in the order of the table."""
    for p in problems:
        logits = jax.jit(jax.vmap(p.apply, (None, 0)))(p.variables, p.images)
        accuracy = float((logits.argmax(-1) == p.labels).mean())
        print(f"\n{p.network}, {p.training}: accuracy {accuracy:.1%}, eps {p.eps}", flush=True)
        for method in METHODS:
            bounds = compiled(p.apply, method)(p.variables, p.images, p.labels, p.eps)
            of = summary(bounds)
            row = Row(p.network, p.training, p.eps, *method, **of, images=len(p.images))
            print(format_row(row), flush=True)
            yield row


def format_row(row: Row) -> str:
    widths = f"mean {row.mean:9.3f}  median {row.median:9.3f}  90 % {row.quantile_90:9.3f}"
    return f"  {row.method:10s}{row.relaxation:9s}  {widths}  verified {row.verified:4d} / {row.images}"


def write(table: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    records = [dataclasses.asdict(row) for row in table]
    (out / "tightness.json").write_text(json.dumps(records, indent=1) + "\n")
    with (out / "tightness.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0].keys())
        writer.writeheader()
        writer.writerows(records)
    plot(table, out / "tightness.png")


def plot(table: list[Row], path: Path) -> None:
    """One panel per network and training: mean width relative to IBP, the verified count at each bar."""
    panels = list(dict.fromkeys((row.network, row.training) for row in table))
    columns = min(len(EPS), len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(13, 3.5 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for panel, axis in zip(panels, axes.flat, strict=False):
        chosen = [row for row in table if (row.network, row.training) == panel]
        names = [f"{row.method} {row.relaxation}".rstrip(" -") for row in chosen]
        bars = axis.barh(names, [row.mean / chosen[0].mean for row in chosen], color="C0")
        axis.bar_label(bars, [str(row.verified) for row in chosen], padding=3, fontsize=8)
        axis.set(title=f"{panel[0]}, {panel[1]} (eps {chosen[0].eps})", xscale="log")
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
    figure.supxlabel(f"mean width of the margins / IBP's (labels: verified of {table[0].images})")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1500, help="of each training")
    parser.add_argument("--networks", type=Path, nargs="+", help="folders of kept runs")
    parser.add_argument("--data-dir", help="of the runs' data: a TFDS folder, or an npz file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    for folder in args.networks or ():
        if not (folder / "run.json").exists():
            parser.error(f"--networks: {folder} holds no run.json; expected the folder of a run")
    if args.networks:
        problems = kept(args.networks, args.images, args.data_dir)
    else:
        problems = trained_here(args.images, args.steps)
    write(list(rows(problems)), args.out)
    print(f"\nwrote {args.out}/tightness.json, .csv and .png")


if __name__ == "__main__":
    main()
