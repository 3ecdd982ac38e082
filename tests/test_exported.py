"""Networks of other libraries, as those export them by default: they are read, and their properties decided."""

import importlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

import jaxbound as jb
from jaxbound import _command, vnnlib
from jaxbound import onnx as jb_onnx

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "exported"
KNOWN = np.load(FOLDER / "outputs.npz")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return pytest.importorskip("jax2onnx") and importlib.import_module("to_onnx")


@pytest.mark.parametrize("name", [name for name in KNOWN.files if name != "images"])
def test_networks_of_other_libraries(name):
    """PyTorch writes weights to a file of their own, Keras computes shapes while it runs."""
    model = jb_onnx.load(FOLDER / f"{name}.onnx")
    shape = tuple(size if isinstance(size, int) and size else 1 for size in model.inputs[0].shape)
    for image, right in zip(KNOWN["images"], KNOWN[name], strict=True):
        found = model.apply(model.variables, jnp.asarray(image.reshape(shape)))
        np.testing.assert_allclose(found.ravel(), right, rtol=1e-4, atol=1e-5)


def near_first(count: int, eps: float, label: int) -> str:
    """The property that inputs near the first image have no class after the label; only a few pixels are uncertain."""
    image = KNOWN["images"][0].ravel()
    names = [f"X_{i}" for i in range(64)] + [f"Y_{i}" for i in range(10)]
    lines = [f"(declare-const {name} Real)" for name in names]
    for i, value in enumerate(image):
        reach = eps if i < count else 0.0
        lines.append(
            f"(assert (>= X_{i} {value - reach:.6f})) (assert (<= X_{i} {value + reach:.6f}))"
        )
    others = " ".join(f"(>= Y_{i} Y_{label})" for i in range(10) if i != label)
    return "\n".join([*lines, f"(assert (or {others}))"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch", "keras"])
def test_a_network_from_outside_has_a_verdict(name, tmp_path, capsys):
    label = int(KNOWN[name][0].argmax())
    for eps, word, code in ((0.001, "unsat", 0), (5.0, "sat", 1)):
        (tmp_path / "p.vnnlib").write_text(near_first(64, eps, label))
        call = ["verify", str(FOLDER / f"{name}.onnx"), str(tmp_path / "p.vnnlib")]
        assert _command.main(call) == code
        assert capsys.readouterr().out.startswith(word + "\n")


class Net(nn.Module):
    """A convolution and two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (3, 3), strides=2)(x))
        return nn.Dense(3)(nn.relu(nn.Dense(4)(x.reshape(len(x), -1))))


def test_a_flax_network_goes_out_and_comes_back(example, tmp_path, capsys):
    images = np.random.default_rng(0).random((2, 4, 4, 1), dtype=np.float32)
    net = Net()
    variables = net.init(jax.random.key(0), images)
    labels = np.asarray(net.apply(variables, images)).argmax(-1)
    labels[1] = (labels[1] + 1) % 3  # is wrong: no property
    with jax.numpy_rank_promotion("allow"):  # which jax2onnx asks for
        example.write(lambda x: net.apply(variables, x), images, labels, 1e-4, str(tmp_path), 60)
    assert "1 properties of 2 images" in capsys.readouterr().out

    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    model = jb_onnx.load(tmp_path / "net.onnx")
    boxes = jb.linf_ball(jnp.asarray(images[:1]), 0.1)
    back = jb.crown(model.apply, model.variables, boxes)
    here = jb.crown(net.apply, variables, boxes)
    np.testing.assert_allclose(back.lower, here.lower, atol=1e-5)
    np.testing.assert_allclose(back.upper, here.upper, atol=1e-5)

    prop = vnnlib.load(tmp_path / "image_0.vnnlib")
    (case,) = prop.cases
    assert (case.box.lower <= images[0].ravel()).all() and (
        images[0].ravel() <= case.box.upper
    ).all()
    assert case.violation(np.eye(3, dtype=np.float32)[labels[0]]).min() > 0
    results = tmp_path / "results.csv"
    call = ["verify", "--instances", str(tmp_path / "instances.csv"), "--results", str(results)]
    assert _command.main(call) == 0
    assert ",unsat," in results.read_text()
