"""Benchmarks of the verification competition: what the command answers beside what is known, and a picture."""

import gzip
import re
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
import onnx.reference

from jaxbound import vnnlib
from jaxbound._command.instances import Instance, existing, witness_path
from jaxbound._command.results import Row, key

matplotlib.use("agg")
import matplotlib.pyplot as plt

CONTRARY = {"sat": "unsat", "unsat": "sat"}
VERDICTS = ("unsat", "sat", "unknown", "timeout", "error")


def records(instances: list[Instance], rows: list[Row], witnesses: Path) -> list[dict[str, Any]]:
    """The lines of the results for instances, with what is known, and what is wrong with them."""
    answered = {key(row): row for row in rows}
    found = []
    for instance in instances:
        row = answered.get(instance.key)
        if row is None:
            continue
        record: dict[str, Any] = {"benchmark": instance.folder.absolute().name, **row}
        record |= {"expected": instance.expected, "seconds": float(row["seconds"])}
        record["wrong"] = "contradicts the file" if contradicts(record) else ""
        if row["verdict"] == "sat":
            record["wrong"] = replayed(instance, witness_path(witnesses, row)) or record["wrong"]
        found.append(record)
    return found


def contradicts(record: dict[str, Any]) -> bool:
    return record["verdict"] == CONTRARY.get(record["expected"])


def replayed(instance: Instance, path: Path) -> str:
    """What is wrong with a witness in a file, which onnx's reference evaluates."""
    if not path.is_file():
        return "the witness is missing"
    inputs = [float(number) for number in re.findall(r"\(X_\d+ (\S+)\)", path.read_text())]
    network, prop = (existing(instance.folder, name) for name in (instance.onnx, instance.vnnlib))
    data = network.read_bytes()
    if data[:2] == b"\x1f\x8b":
        model = onnx.load_model_from_string(gzip.decompress(data))
    else:
        model = onnx.load(network)
    evaluator = onnx.reference.ReferenceEvaluator(model)
    types = {value.name: value.type.tensor_type for value in model.graph.input}
    given, dtype = {}, np.float32
    constants = {tensor.name for tensor in model.graph.initializer}  # old files list them as inputs
    for name in (name for name in evaluator.input_names if name not in constants):
        shape = [size.dim_value or 1 for size in types[name].shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name].elem_type)
        size = int(np.prod(shape))
        given[name], inputs = np.array(inputs[:size], dtype).reshape(shape), inputs[size:]
    outputs = evaluator.run(None, given)
    right = not inputs and vnnlib.load(prop).violated(list(given.values()), outputs)
    return "" if right else "the witness does not violate the property"


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each benchmark."""
    lines = []
    for benchmark in sorted({record["benchmark"] for record in records}):
        mine = [record for record in records if record["benchmark"] == benchmark]
        verdicts = Counter(record["verdict"] for record in mine)
        seconds = [record["seconds"] for record in mine]
        line = {"benchmark": benchmark, "instances": len(mine)}
        line |= {name: verdicts[name] for name in VERDICTS}
        line["known"] = sum(bool(record["expected"]) for record in mine)
        line["wrong"] = sum(bool(record["wrong"]) for record in mine)
        line |= {"median_s": float(np.median(seconds)), "largest_s": max(seconds)}
        lines.append(line)
    return lines


def picture(records: list[dict[str, Any]], path: Path) -> None:
    """How many instances of each benchmark are solved in so many seconds each."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for benchmark in sorted({record["benchmark"] for record in records}):
        mine = [record for record in records if record["benchmark"] == benchmark]
        seconds = sorted(r["seconds"] for r in mine if r["verdict"] in CONTRARY)
        label = f"{benchmark} ({len(seconds)} of {len(mine)})"
        axis.step(seconds, np.arange(1, len(seconds) + 1), where="post", label=label)
    axis.set(xlabel="seconds", ylabel="solved instances", xscale="log", ylim=(0, None))
    figure.legend(loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
