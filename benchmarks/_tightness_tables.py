"""What `tightness.py` found, as Markdown and CSV."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

Records = list[dict[str, Any]]
LISTS = ("smallest", "peer_smallest")  # a number for every image
COLUMNS = (
    ("method", lambda r: f"`{r['method']}`" + ("" if r["lines"] == "-" else f" {r['lines']}")),
    ("mean width", lambda r: number(r.get("mean_width"))),
    ("smallest margin", lambda r: number(r.get("smallest_margin"))),
    ("verified", lambda r: count(r, "")),
    ("gap closed", lambda r: percent(r.get("gap_closed"))),
    ("CROWN-LP gap", lambda r: percent(to_lp(r, ""))),
    ("ms an image (CPU)", lambda r: both(r, "")),
    ("compile, s", lambda r: number(r.get("compile_s"))),
    ("peak, MB", lambda r: number(r.get("peak_mb"))),
    ("auto_LiRPA: mean width", lambda r: number(r.get("peer_mean_width"))),
    ("verified", lambda r: count(r, "peer_")),
    ("CROWN-LP gap", lambda r: percent(to_lp(r, "peer_"))),
    ("ms an image (CPU)", lambda r: both(r, "peer_")),
    ("peak, MB", lambda r: number(r.get("peer_peak_mb"))),
)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def both(record: dict[str, Any], side: str) -> str:
    if f"{side}ms" not in record:
        return ""
    return f"{number(record[f'{side}ms'])} ({number(record[f'{side}cpu_ms'])})"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:,.{int(abs(value) < 10)}f} %"


def to_lp(record: dict[str, Any], side: str) -> float | None:
    """Of the gap between CROWN and LP, the share closed by what starts from CROWN."""
    value = record.get(f"{side}lp_gap_closed")
    return value if record["method"] in ("alpha_crown", "lp", "milp") else None


def count(record: dict[str, Any], side: str) -> str:
    seen = record.get(f"{side}seen")
    return "" if seen is None else f"{record[f'{side}verified']} / {seen}"


def note(cost: dict[str, Any]) -> str:
    """A line of progress."""
    if "left_out" in cost:
        return f"left out: {cost['left_out']}"
    text = f"{cost['ms']:10.2f} ms an image"
    if "compile_s" in cost:
        text += f", compiled in {cost['trace_s'] + cost['compile_s']:.1f} s"
    if "peer_ms" in cost:
        text += f"; the peer {cost['peer_ms']:.2f} ms"
    return text + (f"; the peer: {cost['peer_left_out']}" if "peer_left_out" in cost else "")


def overview(networks: Records) -> str:
    """Verified images and, in brackets, the share of the gap closed: a line for every network."""
    keys = list(
        dict.fromkeys(key(r) for found in networks for r in found["methods"] if "seen" in r)
    )
    lines = [["network, eps", *(f"`{m}` {lines}".rstrip(" -") for m, lines in keys)]]
    lines.append(["---"] * len(lines[0]))
    for found in networks:
        cells = {
            key(r): f"{count(r, '')} ({percent(r.get('gap_closed'))})"
            for r in found["methods"]
            if "seen" in r
        }
        lines.append([head(found), *(cells.get(name, "") for name in keys)])
    return markdown(lines) + "\n\n" + "\n".join(f"- {line}" for line in overall(networks))


def overall(networks: Records) -> list[str]:
    """What is claimed of all networks together."""
    nested = [record for found in networks for record in found["nested"]]
    margins = sum(record["margins"] for record in nested)
    broken, excess = (
        sum(r["violations"] for r in nested),
        max((r["excess"] for r in nested), default=0),
    )
    notes = [
        f"order of tight lines (Lyu et al., Theorem 2): {broken} violations in {margins:,} comparisons, "
        f"the largest excess {max(excess, 0):.1e} of a width"
    ]
    for lines, side in (("20 steps", ""), ("100 steps", ""), ("20 steps", "peer_")):
        shares = [
            r[f"{side}lp_gap_closed"]
            for found in networks
            for r in found["methods"]
            if key(r) == ("alpha_crown", lines) and r.get(f"{side}lp_gap_closed") is not None
        ]
        if shares:
            name = "auto_LiRPA" if side else f"`alpha_crown` {lines}"
            notes.append(
                f"of the gap between CROWN and LP, {name} closes {100 * np.mean(shares):.1f} % in the mean "
                f"of {len(shares)} networks, {100 * min(shares):.1f} % at least"
            )
    return notes


def key(record: dict[str, Any]) -> tuple[str, str]:
    return record["method"], record["lines"]


def head(found: dict[str, Any]) -> str:
    return f"{found['network']}, {found['eps']:g}"


def markdown(lines) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_network(found: dict[str, Any]) -> str:
    """A network's table; columns that are empty everywhere are left out."""
    rows = [r for r in found["methods"] if "left_out" not in r]
    columns = [(title, "---", *map(cell, rows)) for title, cell in COLUMNS if any(map(cell, rows))]
    lines = zip(*columns, strict=True)
    text = markdown(lines)
    broken = sum(record["violations"] for record in found["nested"])
    unsound = sum(r["unsound"] + r.get("peer_unsound", 0) for r in rows)
    notes = [
        f"{found['images']} images, {found['correct']:.0%} classified rightly, "
        f"{sum(low > 0 for low in found['attacked'])} withstand the descent",
        f"order of tight lines violated {broken} times, bounds above what descent found: {unsound}",
        *(
            f"`{r['method']}` left out: {r['left_out']}"
            for r in found["methods"]
            if "left_out" in r
        ),
        *{f"auto_LiRPA left out: {r['peer_left_out']}" for r in rows if "peer_left_out" in r},
    ]
    return f"\n### {head(found)}\n\n{text}\n\n" + "\n".join(f"- {line}" for line in notes)


def write(networks: Records, out: Path) -> None:
    rows = [
        {"network": found["network"], "eps": found["eps"]} | record
        for found in networks
        for record in found["methods"]
    ]
    names = list(dict.fromkeys(name for row in rows for name in row if name not in LISTS))
    partial = out / "tightness.partial"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(out / "tightness.csv")
    text = "\n".join(["# Tightness and time\n", overview(networks), *map(of_network, networks)])
    partial.write_text(text + "\n")
    partial.replace(out / "tightness.md")
