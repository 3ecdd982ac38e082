"""What `tightness.py` found, as Markdown and CSV."""

import csv
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]
LISTS = ("smallest", "peer_smallest")  # a number for every image
COLUMNS = (
    ("method", lambda r: f"`{r['method']}`" + ("" if r["lines"] == "-" else f" {r['lines']}")),
    ("mean width", lambda r: number(r.get("mean_width"))),
    ("smallest margin", lambda r: number(r.get("smallest_margin"))),
    ("verified", lambda r: count(r, "")),
    ("gap closed", lambda r: percent(r.get("gap_closed"))),
    ("CROWN-LP gap", lambda r: percent(r.get("lp_gap_closed"))),
    ("ms an image", lambda r: number(r.get("ms"))),
    ("compile, s", lambda r: number(r.get("compile_s"))),
    ("peak, MB", lambda r: number(r.get("peak_mb"))),
    ("auto_LiRPA: mean width", lambda r: number(r.get("peer_mean_width"))),
    ("verified", lambda r: count(r, "peer_")),
    ("CROWN-LP gap", lambda r: percent(r.get("peer_lp_gap_closed"))),
    ("ms an image", lambda r: number(r.get("peer_ms"))),
    ("peak, MB", lambda r: number(r.get("peer_peak_mb"))),
)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


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


def of_network(found: dict[str, Any]) -> str:
    """A network's table; columns that are empty everywhere are left out."""
    rows = [r for r in found["methods"] if "left_out" not in r]
    columns = [(title, "---", *map(cell, rows)) for title, cell in COLUMNS if any(map(cell, rows))]
    lines = zip(*columns, strict=True)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
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
    head = f"{found['network']}, eps {found['eps']:g}"
    return f"\n### {head}\n\n{text}\n\n" + "\n".join(f"- {line}" for line in notes)


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
    partial.write_text("# Tightness and time\n" + "\n".join(map(of_network, networks)) + "\n")
    partial.replace(out / "tightness.md")
