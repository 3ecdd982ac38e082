"""The benchmarks run, at the smallest size, and what they write can be read."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from jaxbound import networks

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Imports a benchmark, and runs its main with the given arguments."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def main(module, *args: str):
        monkeypatch.setattr(sys, "argv", ["benchmark", *args, "--out", str(tmp_path)])
        module.main()
        return json.loads((tmp_path / f"{module.__name__}.json").read_text())

    return main


@pytest.mark.slow
def test_tightness(run, monkeypatch, tmp_path):
    tightness = importlib.import_module("tightness")
    kept = {key: tightness.METHODS[key] for key in [("ibp", "-"), ("crown", "tight")]}
    monkeypatch.setattr(tightness, "METHODS", kept)
    monkeypatch.setattr(tightness, "MODELS", {"dense": networks.ConvNet((), (10, 10))})
    rows = run(tightness, "--images", "3", "--steps", "20")

    assert len(rows) == len(tightness.EPS) * len(kept)
    assert (tmp_path / "tightness.png").stat().st_size
    means = {(row["training"], row["method"]): row["mean"] for row in rows}
    for training in tightness.EPS:  # Lyu et al. (arXiv:2104.00447), Theorem 2
        assert means[training, "crown"] <= means[training, "ibp"] * (1 + 1e-5)


@pytest.mark.slow
def test_speed(run):
    speed = importlib.import_module("speed")
    report = run(speed, "--methods", "ibp", "--networks", "dm_small", "--batches", "1")

    assert report["methods"][0]["ratio"] > 0
    assert set(report["convolution_rows"]["ms"]) == {"in a loop", "at once", "gradient"}
