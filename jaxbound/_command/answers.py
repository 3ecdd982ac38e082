"""Decides a property of a network, both from files, and writes the answer as VNN-COMP does."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound import onnx, vnnlib
from jaxbound._command.compiling import Compiling
from jaxbound._command.witnesses import Evaluator

KEPT = 8  # different networks whose compiled programs are kept
WORDS = {"verified": "unsat", "falsified": "sat", "unknown": "unknown"}


class Answer(NamedTuple):
    """Holds a verdict and how it was found.

    Attributes:
      verdict: "unsat", "sat", "unknown" or "timeout".
      text: the verdict and, behind "sat", the witness; as VNN-COMP writes them.
      compile_seconds: those of XLA.
      nodes: how many sub-domains were bounded.
      open: how many of them were left.
      method: what decided clauses, as "crown 8, branching 1".
      checker: what computed the outputs of the witness.
    """

    verdict: str
    text: str
    compile_seconds: float
    nodes: int
    open: int
    method: str
    checker: str


class Networks:
    """Reads networks from files, and keeps the last one. Networks of the same structure share compiled programs."""

    def __init__(self):
        self.path: Path | None = None
        self.model: Any = None
        self.programs: list[Any] = []

    def load(self, path: Path) -> onnx.Model:
        if path != self.path:
            self.model, self.path = onnx.load(path), path
            if not any(self.model.apply is program for program in self.programs):
                if len(self.programs) == KEPT:
                    self.programs.clear()
                    jax.clear_caches()
                self.programs.append(self.model.apply)
        return self.model


def answer(networks: Networks, network: Path, prop: Path, timeout: float, **options) -> Answer:
    """Decides a property of a network.

    Args:
      networks: loads networks.
      network: a file in ONNX.
      prop: a file in VNN-LIB.
      timeout: seconds for all of it.
      **options: of `vnnlib.verify`.
    """
    started = time.monotonic()
    # With 64 bits allowed, a network computes in its own type, whichever it is.
    with jax.enable_x64(True), Compiling() as compiling:
        model = networks.load(network)
        dtype = jnp.result_type(*(value.dtype for value in model.inputs))
        wanted = vnnlib.load(prop, dtype=dtype)
        evaluate = Evaluator(network, [value.name for value in model.inputs])
        left = timeout - (time.monotonic() - started)
        options = {name: value for name, value in options.items() if value is not None}
        found = vnnlib.verify(model, wanted, timeout=left, evaluate=evaluate, **options)
        verdict, text = WORDS[found.status], ""
        if found.witness is not None:
            inputs = found.witness if isinstance(found.witness, tuple) else (found.witness,)
            text = written(inputs, evaluate(*inputs))
        elif verdict == "unknown" and time.monotonic() - started >= timeout:
            verdict = "timeout"
    stages = Counter(stage for stage in found.decided.tolist() if stage)
    method = ", ".join(f"{stage} {count}" for stage, count in stages.items())
    checker = evaluate.name if found.witness is not None else ""
    return Answer(
        verdict, f"{verdict}\n{text}", compiling.seconds, found.nodes, found.open, method, checker
    )


def written(inputs, outputs) -> str:
    """Returns a witness as VNN-COMP writes it; its numbers, read as float64, are those of the network's type."""
    values = [("X", inputs), ("Y", outputs)]
    lines = [
        f"({letter}_{i} {float(value)!r})"
        for letter, parts in values
        for i, value in enumerate(np.concatenate([np.ravel(part) for part in parts]))
    ]
    return "(" + "\n ".join(lines) + ")\n"
