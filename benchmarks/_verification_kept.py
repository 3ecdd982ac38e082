"""Kept networks on test images: verified by bounds, decided by `jb.verify`, attacked; and a picture over time."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

import jaxbound as jb
from jaxbound import training

matplotlib.use("agg")
import matplotlib.pyplot as plt

sys.path.append(str(Path(__file__).parent.parent / "examples"))
import certify

MISSING = (certify._data.Unavailable, FileNotFoundError)
METHODS = {"IBP": jb.ibp, "CROWN-IBP": jb.crown_ibp, "CROWN": jb.crown}
STEPS, RESTARTS = 40, 5  # of the attack


def margins(net, variables, x, label):
    return jb.margins(net.apply(variables, x), label)


def kept(
    folder: Path, data_dir: str | None, images: Iterable[int], timeout: float
) -> Iterator[dict[str, Any]]:
    """A record for each of these test images of a kept run's data, at the radius that it was tested with."""
    recipe, data, net, variables = certify.load(str(folder), data_dir)
    fn, eps = functools.partial(margins, net), recipe.eps_test[0]
    bounds = {
        name: jax.jit(functools.partial(lower, method, fn)) for name, method in METHODS.items()
    }
    attack = jax.jit(functools.partial(attacked, net))
    for index in images:
        x, y = np.float32(data.x_test[index]) / 255, np.int32(data.y_test[index])
        box = jb.linf_ball(x, np.float32(eps), clip=(0, 1))
        record = {"network": folder.name, "image": index, "eps": eps}
        record |= {"clean": bool((fn(variables, x, y) > 0).all())}
        if record["clean"]:
            record["verified_by"] = [
                name
                for name, bound in bounds.items()
                if (np.asarray(bound(variables, box, y)) > 0).all()
            ]
            record["attacked"] = bool(attack(variables, box, y))
            found = jb.verify(fn, variables, box, y, timeout=timeout)
            record |= {"status": found.status, "seconds": found.seconds, "nodes": found.nodes}
            record["decided"] = sorted(set(found.decided.tolist()))
        yield record


def lower(method: Callable, fn: Callable, variables, box, y):
    return method(fn, variables, box, y).lower


def attacked(net, variables, box, y):
    """Tells whether projected gradient descent finds an image that is classified wrongly."""
    key = jax.random.key(0)
    found = training.pgd(
        functools.partial(net.apply, variables), box, y, key, steps=STEPS, restarts=RESTARTS
    )
    return (found.margins <= 0).any()


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each network; errors in percent of its images."""
    lines = []
    for network in dict.fromkeys(record["network"] for record in records):
        mine = [record for record in records if record["network"] == network]
        right = [record for record in mine if record["clean"]]
        good: dict[str, list[bool]] = {"clean": [True for _ in right]}
        good["PGD"] = [not record["attacked"] for record in right]
        good |= {name: [name in record["verified_by"] for record in right] for name in METHODS}
        good["any bound"] = [bool(record["verified_by"]) for record in right]
        good["complete"] = [record["status"] == "verified" for record in right]
        line: dict[str, Any] = {"network": network, "images": len(mine)}
        line |= {name: 100 * (1 - sum(each) / len(mine)) for name, each in good.items()}
        line["falsified"] = sum(record["status"] == "falsified" for record in right)
        line["unknown"] = sum(record["status"] == "unknown" for record in right)
        line["wrong"] = sum(is_wrong(record) for record in right)
        seconds = [record["seconds"] for record in right]
        lines.append(line | {"median_s": float(np.median(seconds)), "largest_s": max(seconds)})
    return lines


def is_wrong(record: dict[str, Any]) -> bool:
    """Tells whether an attack or a bound contradicts the verdict."""
    refuted = record["attacked"] and record["status"] == "verified"
    return refuted or (bool(record["verified_by"]) and record["status"] == "falsified")


def picture(records: list[dict[str, Any]], timeout: float, path: Path) -> None:
    """Draws which share of the images is verified in at most so many seconds each, beside bounds and the attack."""
    names = list(dict.fromkeys(record["network"] for record in records))
    figure, axes = plt.subplots(
        1, len(names), figsize=(4 * len(names), 3.6), layout="constrained", squeeze=False
    )
    for axis, name, line in zip(axes[0], names, summary(records), strict=True):
        mine = [record for record in records if record["network"] == name]
        times = sorted(r["seconds"] for r in mine if r.get("status") == "verified")
        shares = 100 * np.arange(1, len(times) + 1) / len(mine)
        axis.step(
            [*times, timeout], [*shares, *shares[-1:]] or [0], where="post", label="jb.verify"
        )
        for error, label, style in (
            ("any bound", "by bounds alone", ":"),
            ("PGD", "not refuted by PGD", "--"),
        ):
            axis.axhline(100 - line[error], linestyle=style, color="black", label=label)
        lowest = max(-2, 70 - line["any bound"])
        axis.set(xscale="log", title=name, xlabel="seconds an image", ylim=(lowest, 101))
    axes[0, 0].set_ylabel("verified images (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
