"""Hands a trained network to other verifiers: as ONNX, with a VNN-LIB property for each of a few images.

    pip install jax2onnx
    python examples/to_onnx.py runs/laptop-cifar10-0 --images 10 --eps 1
    jaxbound verify --instances runs/laptop-cifar10-0/onnx/instances.csv --results results.csv

Writes net.onnx, the properties ("no input within eps has another class") and VNN-COMP's list of them, instances.csv.
"""

import argparse
import os

import certify
import jax.numpy as jnp
import numpy as np

try:
    import jax2onnx
except ModuleNotFoundError:
    raise SystemExit("jax2onnx is not installed: pip install jax2onnx") from None


def robust(x: np.ndarray, eps: float, label: int, classes: int) -> str:
    """A property in VNN-LIB: no input within eps of x, and in [0, 1], has another class than the label."""
    names = [f"X_{i}" for i in range(x.size)] + [f"Y_{i}" for i in range(classes)]
    lines = [f"(declare-const {name} Real)" for name in names]
    lower, upper = np.clip(x.ravel() - eps, 0, 1), np.clip(x.ravel() + eps, 0, 1)
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines.append(f"(assert (>= X_{i} {low:.9f})) (assert (<= X_{i} {high:.9f}))")
    others = [f"(>= Y_{i} Y_{label})" for i in range(classes) if i != label]
    return "\n".join([*lines, f"(assert (or {' '.join(others)}))", ""])


def write(
    fn, images: np.ndarray, labels: np.ndarray, eps: float, folder: str, timeout: int
) -> None:
    """The network of one image (with a batch axis of 1), its properties and their list."""
    os.makedirs(folder, exist_ok=True)
    shape = (1, *images.shape[1:])
    path = os.path.join(folder, "net.onnx")
    jax2onnx.to_onnx(fn, [shape], return_mode="file", output_path=path)
    rows = []
    for i, (x, label) in enumerate(zip(images, labels, strict=True)):
        scores = np.asarray(fn(jnp.asarray(x[None])))[0]
        if scores.argmax() == label:  # a property of an image that is wrong already says nothing
            with open(os.path.join(folder, f"image_{i}.vnnlib"), "w") as file:
                file.write(robust(x, eps, int(label), scores.size))
            rows.append(f"net.onnx,image_{i}.vnnlib,{timeout}\n")
    with open(os.path.join(folder, "instances.csv"), "w") as file:
        file.writelines(rows)
    print(f"wrote {path} and {len(rows)} properties of {len(images)} images")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--data-dir", help="as it was given to the run")
    parser.add_argument("--eps", type=float, help="radius in 1/255; default: the preset's")
    parser.add_argument("--images", type=int, default=10, help="test images")
    parser.add_argument("--timeout", type=int, default=60, help="seconds of each in the list")
    args = parser.parse_args(arguments)
    preset, data, net, variables = certify.load(args.run, args.data_dir)
    eps = preset.eps_test[0] if args.eps is None else args.eps / 255
    x, y = data.x_test[: args.images].astype(np.float32) / 255, data.y_test[: args.images]
    fn = lambda images: net.apply(variables, images)
    write(fn, x, y, eps, os.path.join(args.run, "onnx"), args.timeout)


if __name__ == "__main__":
    main()
