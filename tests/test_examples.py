"""The examples at work, as a user runs them: in processes of their own, on tiny data."""

import argparse
import csv
import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxbound as jb
from jaxbound import training

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import _data  # noqa: E402
import _objective  # noqa: E402
import _presets  # noqa: E402
import _report  # noqa: E402
import _run as example  # noqa: E402
import _train  # noqa: E402

TRAIN = [sys.executable, str(ROOT / "examples" / "cifar_crown_ibp.py")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Compiled programs are shared between the processes; no run finds the user's data."""
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONPATH": str(ROOT),
        "TFDS_DATA_DIR": str(cache),
        "https_proxy": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """96 training and 40 test images of two easy classes."""
    rng = np.random.default_rng(0)
    y = np.arange(136) % 2
    x = np.clip(rng.normal(80 + 100 * y[:, None, None, None], 30, (136, 8, 8, 3)), 0, 255)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    x = x.astype(np.uint8)
    np.savez(path, x_train=x[:96], y_train=y[:96], x_test=x[96:], y_test=y[96:])
    return str(path)


def tiny(npz, out, *more):
    sizes = ["--epochs", "4", "--batch-size", "16", "--network", "tiny", "--dataset", "cifar10"]
    return [*TRAIN, "--preset", "smoke", "--data-dir", npz, "--out", str(out), *sizes, *more]


def run(command, environment, ok=True):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def parameters(out):
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(out / "checkpoints")
    return manager.restore(
        manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
    )["state"]


@pytest.fixture(scope="module")
def straight(npz, environment, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("straight") / "run"
    return out, run(tiny(npz, out), environment)


def test_a_run_writes_what_it_should(straight, environment):
    out, text = straight
    with open(out / "results.json") as file:
        results = json.load(file)
    assert "cifar10 (npz file): 96 training, 40 test images of 8 x 8 x 3" in text
    assert results["data"] in text
    (evaluation,) = results["evaluation"].values()
    assert set(evaluation["verified_error"]) == {"IBP", "CROWN-IBP", "CROWN-LBP", "union"}
    assert set(evaluation["contradictions"].values()) == {0}
    assert evaluation["clean_error"] <= evaluation["pgd_error"]
    assert evaluation["pgd_error"] <= evaluation["verified_error"]["union"] < 0.4
    with open(out / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == ["all", "0", "1"]
    for line, part in zip(lines, [evaluation, *evaluation["classes"].values()], strict=True):
        assert int(line["images"]) == part["images"]
        assert float(line["pgd_error"]) == part["pgd_error"]
        assert float(line["verified_error, IBP"]) == part["verified_error"]["IBP"]
    for picture in ("picture.png", "classes.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.tmp"))


def test_certify_reads_the_checkpoint(straight, npz, environment):
    out, _ = straight
    command = [sys.executable, str(ROOT / "examples" / "certify.py"), str(out), "--data-dir", npz]
    text = run([*command, "--images", "3"], environment)
    assert "cifar10 (npz file)" in text
    assert "CROWN-LBP" in text
    assert (out / "certified.png").exists()


def test_a_benchmark_reads_the_run(straight, npz, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    problems, (out, _) = importlib.import_module("_tightness_problems"), straight
    measure = importlib.import_module("_tightness_measure").measure
    problem = problems.kept(out, npz, 40)
    bounds, _ = measure(problem, "ibp", jb.ibp, argparse.Namespace(batch=20, seconds=60))
    with open(out / "results.json") as file:
        ((eps, evaluation),) = json.load(file)["evaluation"].items()
    assert (problem.name, problem.eps, len(bounds.lower)) == (out.name, float(eps), 40)
    verified = np.mean((bounds.lower > 0).all(-1))
    assert 1 - verified == pytest.approx(evaluation["verified_error"]["IBP"])


def test_certified_radii(npz, tmp_path):
    """CNN-Cert's table: every certificate lies below the attack, the attack's radius is that of a point."""
    cnn_cert, out = importlib.import_module("cnn_cert"), tmp_path / "run"
    sizes = [
        "--epochs",
        "2",
        "--batch-size",
        "16",
        "--network",
        "cnn_2layer_5",
        "--test-images",
        "3",
    ]
    data = ["--dataset", "cifar10", "--data-dir", npz, "--out", str(out), "--target", "runner-up"]
    results = cnn_cert.main([*sizes, *data, "--norms", "2", "--methods", "IBP", "CROWN"])
    (found,) = results["found"].values()
    ibp, crown, attack = (np.array(found[name]["radii"]) for name in ("IBP", "CROWN", "PGD"))
    assert results["contradictions"] == 0 and results["images"] == 3
    assert (0 < ibp).all() and (ibp < 1.001 * crown).all() and (crown < attack).all()
    assert (attack < 10).all()
    with open(out / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["method"] for line in table] == ["IBP", "CROWN", "PGD"]
    assert float(table[1]["average radius"]) == pytest.approx(crown.mean())
    assert (out / "radii.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "results.json").read_text())["found"] == results["found"]


def test_targets():
    """Of ten classes by falling logits: the last, the second, or one between the third and the ninth."""
    with_targets = importlib.import_module("cnn_cert").with_targets
    logits = np.random.default_rng(0).normal(size=(200, 10))
    order = np.argsort(-logits)
    assert (with_targets(logits, "least", 0) == order[:, [0, 9]]).all()
    assert (with_targets(logits, "runner-up", 0) == order[:, [0, 1]]).all()
    assert (with_targets(logits, "all", 0) == order).all()
    label, target = with_targets(logits, "random", 0).T
    places = (order == target[:, None]).argmax(1)
    assert (label == order[:, 0]).all() and set(places) == set(range(2, 9))


def test_a_killed_run_resumes_bit_for_bit(straight, npz, environment, tmp_path):
    expected, _ = straight
    out = tmp_path / "run"
    with subprocess.Popen(tiny(npz, out), env=environment, stdout=subprocess.DEVNULL) as process:
        while not (out / "checkpoints" / "2").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (out / "results.json").exists()
    text = run(tiny(npz, out, "--resume"), environment)
    assert "epoch   1 " not in text
    assert str(parameters(expected)) == str(parameters(out))
    with open(expected / "results.json") as one, open(out / "results.json") as two:
        assert json.load(one)["evaluation"] == json.load(two)["evaluation"]


def test_images_that_are_left_are_decided_in_a_time(capsys):
    assert example.parse(["--complete", "2.5"]).complete == 2.5
    with pytest.raises(SystemExit):
        example.parse(["--complete", "0"])
    assert "--complete: 0 is not > 0" in capsys.readouterr().err
    ones = np.ones(3)
    lower = {"IBP": np.array([0.5, -1, -1]), "complete": np.array([0.5, 0.1, -1])}
    evaluation = training.Evaluation(ones, ones, lower, np.zeros(3, int))
    rows = _report.rows(evaluation)
    assert rows["verified, complete"] == "33.33" and rows["undecided images"] == "1"
    del lower["complete"]
    assert "undecided images" not in _report.rows(evaluation)


def test_another_run_is_neither_continued_nor_lost(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"seed": 0}))
    with pytest.raises(SystemExit, match="unfinished"):
        example.open_run(example.parse([]), str(tmp_path), {"seed": 0})
    with pytest.raises(SystemExit, match="seed differ"):
        example.open_run(example.parse(["--resume"]), str(tmp_path), {"seed": 1})
    example.open_run(example.parse(["--overwrite"]), str(tmp_path), {"seed": 1})
    assert json.loads(path.read_text()) == {"seed": 1}
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"finished run, nothing is left to --resume.*certify.py"):
        example.open_run(example.parse(["--resume"]), str(tmp_path), {"seed": 1})
    assert (tmp_path / "results.json").exists()


def test_divergence_stops_and_keeps_the_last_good_checkpoint(npz, tmp_path):
    data, checkpoints = _data.load("cifar10", npz), _train.Checkpoints(str(tmp_path / "c"))
    good = dataclasses.replace(
        _presets.PRESETS["smoke"], network="tiny", bound="ibp", epochs=2, batch_size=16
    )
    state, _ = _train.train(good, data, 0, checkpoints)
    bad = dataclasses.replace(good, epochs=4, learning_rate=1e30)
    with pytest.raises(_train.Diverged, match=r"the loss is .* at epoch 3"):
        _train.train(bad, data, 0, checkpoints)
    assert checkpoints.latest() == 2
    kept, history = checkpoints.restore(state)
    assert str(kept["variables"]) == str(state["variables"])
    assert len(history) == 2


def test_nan_parameters_are_noticed():
    metrics = [{"loss": np.ones(1), "eps": np.full(1, 0.1)}]
    with pytest.raises(_train.Diverged, match="parameters"):
        _train.summarise(metrics, 0, 1.0, {"variables": jnp.array([jnp.nan])})


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(_data, "connected", lambda host, port: False)


def test_data_asked_for_that_cannot_be_had(no_data):
    with pytest.raises(SystemExit, match=r"no connection.*--data-dir"):
        example.choose(example.parse(["--dataset", "mnist"]), Console())


def test_no_data_falls_back_loudly(no_data, capsys):
    name, _, data = example.choose(example.parse(["--preset", "laptop"]), Console())
    assert (name, data.name) == ("laptop", "digits")
    assert "NO CIFAR10" in capsys.readouterr().out
    name, _, data = example.choose(example.parse([], preset="laptop"), Console())
    assert (name, data.name) == ("digits", "digits")


def test_a_dead_host_is_noticed_in_seconds(monkeypatch):
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    started = time.monotonic()
    assert not _data.connected("192.0.2.1", 443, seconds=0.5)  # a documentation address
    assert time.monotonic() - started < 3


def test_digits_are_whole_and_split():
    data = _data.digits()
    assert len(data.x_train) + len(data.x_test) == 1797
    assert data.x_train.dtype == np.uint8
    assert (data.x_train.max(), data.classes) == (255, 10)


@pytest.mark.parametrize("x", [np.zeros((2, 4, 4), np.int64), np.full((2, 4, 4), 200.0)])
def test_unusable_npz_files_are_refused(x, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    with pytest.raises(_data.Unavailable, match="uint8"):
        _data.load("cifar10", str(tmp_path / "a.npz"))


def test_paper_schedules():
    cifar = _presets.PRESETS["cifar_8"].eps(48)
    assert cifar(320 * 48) == 0
    assert float(cifar(1920 * 48)) == pytest.approx(8.8 / 255)
    mnist = _presets.PRESETS["mnist_.4"].eps(234)
    assert float(mnist(35 * 234)) == pytest.approx(0.2)
    short = _presets.PRESETS["mnist_.4"].scaled(20)
    assert float(short.eps(234)(6 * 234)) == pytest.approx(0.4)


def test_no_bound_is_computed_that_counts_nothing():
    preset = _presets.PRESETS["mnist_.4"]
    phases = [_objective.phase_of(preset, *eps).loss for eps in ((0, 0), (0, 0.1), (0.4, 0.4))]
    assert phases == ["clean", "crown_ibp", "ibp"]
    phase = _objective.phase_of(_presets.PRESETS["cifar_2"], 2.2 / 255, 2.2 / 255)
    assert phase == ("crown_ibp", False)
    fast = _presets.PRESETS["mnist_small_fast"]
    assert _objective.phase_of(fast, 0.1, 0.2) == ("ibp", True)
    assert _objective.phase_of(fast, 0.4, 0.4) == ("ibp", False)


def test_augmentation_crops_and_flips():
    images = jax.random.uniform(jax.random.key(0), (64, 5, 5, 1))
    out = np.asarray(jax.jit(_train.augment, static_argnums=2)(jax.random.key(1), images, 1))
    padded = np.pad(np.asarray(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = {}
    for dy in range(3):
        for dx in range(3):
            crop = padded[:, dy : dy + 5, dx : dx + 5]
            views[dy, dx, 0], views[dy, dx, 1] = crop, crop[:, :, ::-1]
    found = {next(k for k, v in views.items() if (v[i] == out[i]).all()) for i in range(64)}
    assert len(found) > 9


def test_local_lipschitz_constants(environment):
    """No sample beats a method, and CROWN beats intervals."""
    command = [sys.executable, str(ROOT / "examples" / "lipschitz.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    header, *rows = (line.split() for line in done.stdout.splitlines())
    assert header == ["eps", "samples", "ibp", "lbp", "crown_ibp", "crown"]
    for eps, sampled, ibp, *_, crown in (map(float, row) for row in rows):
        assert sampled - 1e-3 <= crown <= ibp + 1e-3
        assert eps == 0 or sampled < crown < ibp
