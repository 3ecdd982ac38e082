"""Computes a network's outputs independently of JAX, to check witnesses."""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path

import numpy as np
import onnx
import onnx.reference


class Evaluator:
    """Evaluates a network by ONNX Runtime if it is installed and reads the file, else by onnx's reference.

    Attributes:
      name: of what evaluates; empty before the first call.
    """

    def __init__(self, path: Path, inputs: list[str]):
        self.path, self.inputs, self.name = path, inputs, ""

    def __call__(self, *inputs) -> list[np.ndarray]:
        if not self.name:
            self.name, self.run = evaluator(self.path)
        given = dict(zip(self.inputs, map(np.asarray, inputs), strict=True))
        return [np.asarray(value) for value in self.run(None, given)]


def evaluator(path: Path):
    """Returns the name of what evaluates a network, and its function of output names and inputs."""
    data = path.read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    source = gzip.decompress(data) if packed else str(path)  # whose folder may hold more of it
    try:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return "onnxruntime", session.run
    except Exception:  # it is not installed, or does not read this version of the format
        model = (
            onnx.load_model_from_string(source) if isinstance(source, bytes) else onnx.load(source)
        )
        return "onnx.reference", onnx.reference.ReferenceEvaluator(model).run
