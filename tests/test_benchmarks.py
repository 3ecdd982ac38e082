"""The benchmarks run, at the smallest size, and what they write can be read."""

import csv
import functools
import gzip
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import onnx.parser
import pytest

import jaxbound as jb
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
    problems, tightness = map(importlib.import_module, ("_tightness_problems", "tightness"))
    monkeypatch.setitem(problems.MODELS, "mlp", networks.ConvNet((), (8, 8)))
    names = ["--networks", "mlp_ibp", "--dataset", "digits"]
    sizes = ["--images", "3", "--few", "2", "--batch", "2", "--steps", "20", "--attack-steps", "5"]
    report = run(tightness, *names, *sizes, "--methods", "ibp", "crown", "lp")

    for found in report["networks"]:
        records = {(r["method"], r["lines"]): r for r in found["methods"]}
        widths = {key: record["mean_width"] for key, record in records.items()}
        assert widths["crown", "union"] <= min(
            widths["crown", "adaptive"], widths["crown", "tight"]
        )
        assert records["ibp", "-"]["gap_closed"] == 0 < records["crown", "tight"]["gap_closed"] <= 1
        assert records["lp", "-"]["seen"] == 2 and records["lp", "-"]["lp_gap_closed"] == 1
        assert not any(record["unsound"] for record in records.values())
        assert set(found["layers"]["ibp"]) == {"ConvNet/Dense_0:0", "ConvNet/Dense_1:0"}
    with open(tmp_path / "tightness.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(
            len(found["methods"]) for found in report["networks"]
        )
    assert "| `crown` union |" in (tmp_path / "tightness.md").read_text()
    for picture in ("width_time", "margins", "layers", "gap_closed"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_tightness_names_what_is_wrong(run, capsys):
    tightness = importlib.import_module("tightness")
    for arguments in (["--networks", "mlp_robust"], ["--images", "0"]):
        with pytest.raises(SystemExit):
            run(tightness, *arguments)
        assert f"{arguments[0]}: " in capsys.readouterr().err


@pytest.fixture
def speed(run, monkeypatch):
    """The benchmark of speed, of one round in turns, with two small networks."""
    speed, problem = importlib.import_module("speed"), importlib.import_module("_problem")
    once = functools.partial(importlib.import_module("_timing").medians, most=1)
    monkeypatch.setattr(speed, "medians", once)
    monkeypatch.setattr(speed.growth, "medians", once)
    conv = networks.ConvNet((networks.ConvSpec(2, 3, 2),), (10,))
    residual = networks.ResNet(2, (networks.BlockSpec(2, 2),), (10,), batch_norm=True)
    for name, model in {"conv": conv, "residual": residual}.items():
        monkeypatch.setitem(problem.NETWORKS, name, problem.Setting(model, (6, 6, 1), 0.02))
    return speed


@pytest.mark.slow
def test_speed(run, speed, monkeypatch, tmp_path):
    few_rows = functools.partial(speed.convolution_rows, n_rows=32, chunk=8)
    monkeypatch.setattr(speed, "convolution_rows", few_rows)
    monkeypatch.setattr(speed.growth, "BASE", dict.fromkeys(speed.growth.BASE, 2))
    monkeypatch.setattr(speed.growth, "SWEEPS", {"side": (2, 4)})
    monkeypatch.setattr(speed.growth, "METHODS", {"crown_ibp": jb.crown_ibp})
    names = ["--networks", "conv", "--methods", "ibp", "crown_undecided"]
    report = run(speed, *names, "--batches", "1", "--growth")

    assert set(report["convolution_rows"]["ms"]) == {"in a loop", "at once", "gradient"}
    assert report["growth"][0]["sizes"] == [2 * 2 * 2**2, 2 * 2 * 4**2]
    assert set(report["growth"][0]["exponents"]) == {"plain", "crown_ibp"}
    assert len(report["methods"]) == 2
    for record in report["methods"]:
        assert record["plain_ratio"] > 0 and record["memory_mb"] > 0
    assert (tmp_path / "speed.png").stat().st_size


def test_speed_leaves_out_what_is_too_much(run, speed, monkeypatch):
    monkeypatch.setattr(speed, "convolution_rows", dict)
    names = ["--networks", "conv", "--methods", "ibp", "--batches", "1", "2"]
    report = run(speed, *names, "--memory-limit", "0")
    assert [record["left_out"] for record in report["methods"]] == ["0 GB"]
    report = run(speed, *names, "--time-limit", "1e-9")
    assert ["left_out" in record for record in report["methods"]] == [False, True]


@pytest.mark.slow
def test_peer_finds_the_same_bounds(run, speed, monkeypatch):
    pytest.importorskip("auto_LiRPA")
    monkeypatch.setattr(speed, "convolution_rows", dict)
    names = ["--networks", "conv", "residual", "--methods", "ibp", "crown"]
    report = run(speed, *names, "--batches", "3", "--peer", "auto_lirpa")

    assert len(report["methods"]) == 4
    for record in report["methods"]:
        assert record["peer_ratio"] > 0
        assert record["mean_lower"] == pytest.approx(record["peer_mean_lower"], rel=1e-3)
        assert record.get("excess", 0) < 1e-3
    assert "excess" in report["methods"][-1]


@pytest.mark.slow
def test_first_bound(run, monkeypatch, capsys, tmp_path):
    first_bound = importlib.import_module("first_bound")
    names = ["--networks", "mlp", "--methods", "ibp", "--repeats", "1"]
    (record,) = run(first_bound, *names)["records"]

    cold, warm = (record[f"this {kind}"]["cpu_s"] for kind in ("cold", "warm"))
    assert warm["compile"] < cold["compile"]  # the cache saves it
    assert cold["all"] == pytest.approx(sum(cold[step] for step in first_bound.STEPS))
    assert (tmp_path / "first_bound.png").read_bytes().startswith(b"\x89PNG")
    for arguments in (["--repeats", "0"], ["--beside", str(tmp_path)]):
        with pytest.raises(SystemExit):
            run(first_bound, *arguments)
        assert f"{arguments[0]} is {arguments[1]}" in capsys.readouterr().err


def test_a_missing_peer_is_named(run, speed, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    monkeypatch.delitem(sys.modules, "peer", raising=False)
    with pytest.raises(SystemExit):
        run(speed, "--peer", "auto_lirpa")
    assert "auto_LiRPA" in capsys.readouterr().err


@pytest.mark.slow
def test_training_cost(run, monkeypatch, capsys):
    cost, timing = importlib.import_module("training_cost"), importlib.import_module("_timing")
    monkeypatch.setattr(cost, "medians", functools.partial(timing.medians, most=1))
    model = networks.ConvNet((), (5,), classes=3, batch_norm=True)
    setting = cost.NETWORKS["mlp"]._replace(model=model, shape=(3, 3, 1))
    monkeypatch.setitem(cost.SETTINGS, "dense", setting)
    chosen = ("SingleProp, constant", "IBP, kappa 0", "IBP, kappa .5, ParamRamp")
    report = run(cost, "--networks", "dense", "--batch", "2", "--methods", *chosen)

    steps = {record["method"]: record for record in report["steps"]}
    assert list(steps) == ["forward", "plain", *chosen]
    assert "| IBP, kappa 0 |" in capsys.readouterr().out
    for record in steps.values():
        assert record["plain_ms_ratio"] > 0 and record["memory_mb"] > 0
    flops = {method: record["plain_flops_ratio"] for method, record in steps.items()}
    assert flops["forward"] < 1 < flops["IBP, kappa 0"] < flops["IBP, kappa .5, ParamRamp"]


@pytest.fixture
def verification(run, monkeypatch):
    """The benchmark of verification, with a network of four neurons."""
    networks, benchmark = map(importlib.import_module, ("_verification_networks", "verification"))
    fn = lambda p, x: (jax.nn.relu(x @ p[0] + p[1]) @ p[2] + p[3])[0]
    small = networks.Network(fn, ((2, 4), (4,), (4, 1), (1,)), (2,))
    for kinds in (networks.EXACT, networks.PLANTED):
        monkeypatch.setitem(kinds, "small", small)
    return benchmark


@pytest.mark.slow
def test_verification_of_random_networks(run, verification):
    options = ("--networks", "small", "--count", "2", "--splits", "input")
    run(verification, "exact", *options)
    report = run(verification, "planted", *options)  # keeps the other part

    for part, kinds in {"exact": ("below", "above"), "planted": ("planted", "twin")}.items():
        assert [r["kind"] for r in report[part]["records"]] == [*kinds, *kinds]
        assert [r["seed"] for r in report[part]["records"]] == [0, 0, 1, 1]
        for line, kind in zip(report[part]["summary"], kinds, strict=True):
            assert line["kind"] == kind and line["wrong"] == 0
            assert line["right"] == 2 or kind == "planted"


def test_verification_knows_what_is_wrong(run, verification):
    fn, box = lambda p, x: x.sum() - p, jb.linf_ball(jnp.zeros(2), 1.0)
    args, nothing = (np.float32(0.5), box), np.array("branching")
    found = jb.Verdict("verified", None, np.array(0.0), nothing, 1, 0, 0.1)
    wrong = functools.partial(verification.wrong, fn=fn, args=args)
    assert wrong(found, "falsified", bound=1.0) == "verified, not falsified"
    assert wrong(found, "verified", bound=-1.0).startswith("the lower bound 0 is beyond")
    assert wrong(found, "verified", bound=1.0) == ""
    for x, reason in (([2.0, -2.0], "outside"), ([0.5, 0.5], "does not violate"), ([0, 0], "")):
        witness = args[0], np.float32(x)
        found = jb.Verdict("falsified", witness, np.array(-1.0), nothing, 1, 0, 0.1)
        assert reason in wrong(found, "falsified", bound=1.0) and bool(reason) == bool(
            wrong(found, "falsified", bound=1.0)
        )


MODEL = """<ir_version: 8, opset_import: ["": 17]>
net (float[1, 1] x) => (float[1, 1] y) { y = Relu(x) }"""
PROPERTY = """(declare-const X_0 Real) (declare-const Y_0 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= Y_0 {}))"""


@pytest.mark.slow
def test_verification_of_files(run, verification, tmp_path, capsys):
    folder = tmp_path / "small"
    folder.mkdir()
    model = onnx.parser.parse_model(MODEL)
    (folder / "net.onnx.gz").write_bytes(gzip.compress(model.SerializeToString()))
    rows = ["onnx,vnnlib,timeout_s,verdict"]
    for name, limit, verdict in (("true", 1.5, "unsat"), ("false", 0.5, "unsat"), ("none", 0, "")):
        rows.append(f"net.onnx,{name}.vnnlib,60,{verdict}")
        if name != "none":
            (folder / f"{name}.vnnlib").write_text(PROPERTY.format(limit))
    (folder / "instances.csv").write_text("\n".join(rows))

    part = run(verification, "instances", "--folder", str(folder))["instances"]
    (line,) = part["summary"]
    assert line["unsat"] == line["sat"] == line["error"] == line["wrong"] == 1
    assert "false.vnnlib: sat contradicts the file" in capsys.readouterr().out
    assert (tmp_path / "verification.png").read_bytes().startswith(b"\x89PNG")
    (witness,) = (tmp_path / "witnesses" / "small").iterdir()

    (folder / "none.vnnlib").write_text(PROPERTY.format(2))
    (folder / "instances.csv").write_text("\n".join(rows[1:]))  # without names
    again = run(verification, "instances", "--folder", str(folder))["instances"]
    assert again["records"][0] == part["records"][0] | {"expected": ""}
    assert again["summary"][0]["unsat"] == 2 and not again["summary"][0]["wrong"]

    witness.write_text("sat\n((X_0 -0.5)\n (Y_0 0.5))")
    again = run(verification, "instances", "--folder", str(folder))["instances"]
    assert again["records"][1]["wrong"] == "the witness does not violate the property"


@pytest.mark.slow
def test_verification_of_kept_networks(run, verification, monkeypatch, tmp_path):
    kept = importlib.import_module("_verification_kept")
    images = np.zeros((4, 2, 2), np.uint8)
    data = SimpleNamespace(x_test=images, y_test=np.array([0, 1, 0, 0]))
    # Class 0 leads by 1 - |x| in the first pixel; another network is wrong where both pixels are large.
    nets = {
        "right": lambda v, x: jnp.stack([v - jnp.abs(x[0, 0]), 0.0]),
        "wrong": lambda v, x: jnp.stack([v - jax.nn.relu(4 * x[0].sum() - 1), 0.0]),
    }
    recipe = SimpleNamespace(eps_test=(0.5,))
    load = lambda run, data_dir: (
        recipe,
        data,
        SimpleNamespace(apply=nets[Path(run).name]),
        jnp.float32(1),
    )
    monkeypatch.setattr(kept.certify, "load", load)
    options = ("networks", "--networks", "right", "wrong")

    run(verification, *options, "--count", "2")
    part = run(verification, *options, "--count", "3")["networks"]

    assert [(r["network"], r["image"]) for r in part["records"]] == [
        (name, image) for images in ([0, 1], [2]) for name in nets for image in images
    ]
    right, wrong = part["summary"]
    for line, verified in ((right, True), (wrong, False)):
        assert line["images"] == 3 and line["wrong"] == line["unknown"] == 0
        assert line["clean"] == pytest.approx(100 / 3)
        assert line["complete"] == line["PGD"] == pytest.approx(100 / 3 if verified else 100)
        assert line["falsified"] == (0 if verified else 2)
    assert right["any bound"] == pytest.approx(100 / 3) and wrong["any bound"] == 100
    picture = tmp_path / "verification_networks.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_operations_count_every_turn_of_a_loop(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    timed, square = importlib.import_module("_timing").Timed, jnp.ones((8, 8))

    def power(turns):
        return timed(lambda x: jax.lax.fori_loop(0, turns, lambda _, y: x @ y, x), square)

    assert power(5).flops == pytest.approx(5 * power(1).flops, rel=0.1)
