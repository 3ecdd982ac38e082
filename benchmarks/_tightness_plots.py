"""The pictures of `tightness.py`."""

import itertools
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

Records = list[dict[str, Any]]
COLOURS = {
    "ibp": "black",
    "lbp": "tab:orange",
    "crown_ibp": "tab:blue",
    "crown_lbp": "tab:green",
    "crown": "tab:red",
    "alpha_crown": "tab:purple",
    "lp": "tab:brown",
    "milp": "tab:gray",
}
MARKERS = {
    "-": "D",
    "adaptive": "o",
    "tight": "s",
    "parallel": "^",
    "published": "<",
    "both": ">",
    "union": "*",
    "alpha's inside": "v",
    "20 steps": "P",
    "100 steps": "X",
    "inside too": "h",
}
STYLE = {"font.size": 7, "axes.titlesize": 6.3, "legend.fontsize": 6.5, "lines.markersize": 4.5}
PER_LINE = 4


def write(networks: Records, out: Path) -> None:
    """All pictures, each whole or not at all."""
    pictures = {
        "width_time": width_time,
        "margins": margins,
        "layers": layers,
        "gap_closed": gap_closed,
    }
    for name, draw in pictures.items():
        with plt.rc_context(STYLE):
            figure = draw(networks)
            figure.savefig(out / "partial.png", dpi=180)
            plt.close(figure)
        (out / "partial.png").replace(out / f"{name}.png")


def drawn(found: dict[str, Any]) -> Records:
    return [record for record in found["methods"] if "seen" in record]


def title(found: dict[str, Any]) -> str:
    return f"{found['network'].replace('_', ' ')}, eps {found['eps']:.3g}"


def grid(networks: Records, height: float, **options: Any):
    """A panel for every network."""
    columns = min(PER_LINE, len(networks))
    lines = math.ceil(len(networks) / columns)
    size = (1.8 * columns + 0.4, height * lines + 0.9)
    figure, axes = plt.subplots(
        lines, columns, figsize=size, squeeze=False, layout="constrained", **options
    )
    for axis in axes.flat[len(networks) :]:
        axis.axis("off")
    for axis, found in zip(axes.flat, networks, strict=False):
        axis.set_title(title(found))
    return figure, axes.flat[: len(networks)]


def legend(figure, handles: list) -> None:
    columns = max(1, int(figure.get_figwidth()))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


def logarithmic(axes, which: str) -> None:
    """Decades, and marks between them where these are few."""
    axes.set(**{f"{which}scale": "log"})
    low, high = getattr(axes, f"get_{which}lim")()
    axis = getattr(axes, f"{which}axis")
    axis.set_minor_locator(LogLocator(subs=(2, 5)) if high < 100 * low else NullLocator())
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")


def width_time(networks: Records):
    """Mean width of the margins, relative to IBP's on the same images, over the time of an image."""
    figure, axes = grid(networks, 1.6, sharex=True)
    methods, lines = set(), set()
    for axis, found in zip(axes, networks, strict=True):
        for r in drawn(found):
            methods.add(r["method"])
            lines.add(r["lines"])
            style = {"color": COLOURS[r["method"]], "mew": 0.7}
            face = "none" if r["lines"] == "union" else style["color"]
            axis.plot(r["ms"], r["relative_width"], MARKERS[r["lines"]], mfc=face, **style)
            if "peer_ms" in r:
                axis.plot(r["peer_ms"], r["peer_relative_width"], "x", **style)
        logarithmic(axis, "x")
        logarithmic(axis, "y")
    handles = [
        Line2D([], [], color=colour, marker="o", ls="", label=name)
        for name, colour in COLOURS.items()
        if name in methods
    ]
    handles += [
        Line2D([], [], color="0.4", marker=marker, ls="", label=name)
        for name, marker in MARKERS.items()
        if name in lines and name != "-"
    ]
    if any("peer_ms" in r for found in networks for r in found["methods"]):
        handles.append(Line2D([], [], color="0.4", marker="x", ls="", label="auto_LiRPA"))
    legend(figure, handles)
    figure.supxlabel("time of an image (ms)", fontsize=7)
    figure.supylabel("mean width of the margins / that of IBP", fontsize=7)
    return figure


SHOWN = {
    ("ibp", "-"): "_",
    ("crown_ibp", "adaptive"): "x",
    ("crown_ibp", "tight"): "+",
    ("crown", "adaptive"): "x",
    ("crown", "tight"): "+",
    ("alpha_crown", "20 steps"): ".",
}


def margins(networks: Records):
    """The smallest margin of every image: lower bounds below, what descent found above."""
    figure, axes = grid(networks, 1.6)
    for axis, found in zip(axes, networks, strict=True):
        attacked = np.array(found["attacked"])
        order = np.argsort(attacked)
        axis.plot(attacked[order], color="0.6", lw=2, label="descent (above)")
        for r in drawn(found):
            key = r["method"], r["lines"]
            if key in SHOWN:
                places = np.flatnonzero(order < len(r["smallest"]))
                lower = np.array(r["smallest"])[order[places]]
                style = {"ls": "", "ms": 2.5, "mew": 0.6, "color": COLOURS[key[0]]}
                label = " ".join(key).rstrip(" -")
                axis.plot(places, lower, marker=SHOWN[key], label=label, **style)
        axis.axhline(0, color="black", lw=0.5)
        low, high = axis.get_ylim()
        if high - low > 50:
            axis.set_yscale("symlog", linthresh=1)
            axis.yaxis.set_major_formatter("{x:g}")
    handles = {
        label: line
        for axis in axes
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    legend(figure, list(handles.values()))
    figure.supxlabel("images, by what descent found", fontsize=7)
    figure.supylabel("smallest margin", fontsize=7)
    return figure


def layers(networks: Records):
    """Before every activation: mean width of the intervals, and the share of neurons of unknown sign."""
    lines = math.ceil(len(networks) / PER_LINE)
    columns = min(PER_LINE, len(networks))
    figure = plt.figure(figsize=(1.8 * columns + 0.4, 2.4 * lines + 0.5), layout="constrained")
    for i, part in enumerate(np.atleast_1d(figure.subfigures(lines, 1))):
        widths, shares = part.subplots(2, columns, squeeze=False, sharex="col", sharey="row")
        chosen = networks[i * PER_LINE : (i + 1) * PER_LINE]
        for width, share, found in itertools.zip_longest(widths, shares, chosen):
            if found is None:
                width.axis("off")
                share.axis("off")
                continue
            draw_layers(width, share, found)
        widths[0].set_ylabel("mean width")
        shares[0].set_ylabel("sign unknown (%)")
    handles = [
        Line2D([], [], color=COLOURS[key.split()[0]], ls=dashes(key), marker=".", label=key)
        for key in dict.fromkeys(key for found in networks for key in found["layers"])
    ]
    legend(figure, handles)
    return figure


def draw_layers(width, share, found: dict[str, Any]) -> None:
    for key, values in found["layers"].items():
        style = {"color": COLOURS[key.split()[0]], "ls": dashes(key), "marker": ".", "lw": 0.8}
        names = [name.split("/")[-1].split(":")[0] for name in values]
        width.plot(names, [value["width"] for value in values.values()], **style)
        share.plot(names, [100 * value["unknown_sign"] for value in values.values()], **style)
    width.set(title=title(found))
    logarithmic(width, "y")
    share.set(ylim=(-5, 105))
    share.tick_params("x", rotation=30)


def dashes(key: str) -> str:
    return "--" if key.endswith("tight") else "-"


def gap_closed(networks: Records):
    """The share of the gap between intervals and descent, in percent: methods over networks."""
    keys = list(
        dict.fromkeys((r["method"], r["lines"]) for found in networks for r in drawn(found))
    )
    values = np.full((len(keys), len(networks)), np.nan)
    for j, found in enumerate(networks):
        for r in drawn(found):
            if r["gap_closed"] is not None:
                values[keys.index((r["method"], r["lines"])), j] = 100 * r["gap_closed"]
    size = (0.42 * len(networks) + 1.8, 0.19 * len(keys) + 1.5)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    image = axis.imshow(values, cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 70 else "black"
            axis.text(
                j,
                i,
                f"{value:.0f}" if value > -1000 else "<-999",
                ha="center",
                va="center",
                fontsize=6,
                color=colour,
            )
    axis.set_xticks(
        range(len(networks)), [title(found) for found in networks], rotation=45, ha="right"
    )
    axis.set_yticks(range(len(keys)), [" ".join(key).rstrip(" -") for key in keys])
    figure.colorbar(image, label="gap between IBP and descent closed (%)", extend="min", pad=0.01)
    return figure
