"""Reads models from files and checks them."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from jaxbound.onnx._errors import OnnxError, UnsupportedOnnxError
from jaxbound.onnx._graph import CONTROL, Graph, graph_from_proto
from jaxbound.onnx._model import Model, Value, model_from_graph
from jaxbound.onnx._operators import OPERATORS

LARGEST_FILE = 2**31  # bytes, unpacked
OLDEST, NEWEST = 7, 28


def load(source: str | os.PathLike | bytes | onnx.ModelProto) -> Model:
    """Reads a model in ONNX.

    Args:
      source: a file, which may be packed by gzip; its content; or a model of the onnx package.

    Returns:
      a `Model`. It computes in the types of the file, except that 64 bits become 32 unless JAX allows them.

    Raises:
      UnsupportedOnnxError: lists all nodes that cannot be computed.
      OnnxError: the file is damaged, or contradicts itself.

    Example:
      >>> import jax.numpy as jnp
      >>> import onnx.parser
      >>> from jaxbound import onnx as jb_onnx
      >>> proto = onnx.parser.parse_model('''<ir_version: 8, opset_import: ["": 17]>
      ... net (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, -1}> { h = Mul(x, w)  y = Relu(h) }''')
      >>> model = jb_onnx.load(proto)
      >>> model.inputs[0].shape
      ('n', 2)
      >>> model.apply(model.variables, jnp.ones((1, 2)))
      Array([[1., 0.]], dtype=float32)
    """
    proto = read(source)
    folder = None if isinstance(source, bytes | onnx.ModelProto) else Path(source).parent
    for tensor in tensors(proto.graph):
        read_external(tensor, folder)
    opset = opset_of(proto)
    try:
        onnx.checker.check_model(proto)
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OnnxError(f"the model is not valid: {error}") from None
    graph = graph_from_proto(proto.graph, opset)
    reasons = list(unsupported(graph))
    if reasons:
        raise UnsupportedOnnxError("the model cannot be computed:\n" + "\n".join(reasons))
    named = {value.name: value for value in proto.graph.input}
    return model_from_graph(
        graph,
        tuple(described(named[name]) for name in graph.inputs),
        tuple(described(value) for value in proto.graph.output),
    )


def read(source: str | os.PathLike | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model that a file or its content describes."""
    if isinstance(source, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(source)
        return copied
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = "the model" if isinstance(source, bytes) else str(source)
    try:
        if data[:2] == b"\x1f\x8b":
            unpack = zlib.decompressobj(wbits=31)
            data = unpack.decompress(data, LARGEST_FILE)
            if not unpack.eof:
                raise OnnxError(f"{name} is cut off, or has more than {LARGEST_FILE} bytes")
        proto = onnx.ModelProto.FromString(data)
    except (zlib.error, gzip.BadGzipFile, DecodeError) as error:
        raise OnnxError(f"{name} is not an ONNX file, or damaged: {error}") from None
    if not proto.graph.node and not proto.graph.output:
        raise OnnxError(f"{name} is not an ONNX file: it has no graph")
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """Returns the version of the model's operators."""
    found = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(found) != 1:
        raise OnnxError(f"the model has {len(found)} versions of the standard operators")
    if not OLDEST <= found[0] <= NEWEST:
        raise UnsupportedOnnxError(f"opset {found[0]} is not supported: {OLDEST} to {NEWEST} are")
    return found[0]


def tensors(graph: onnx.GraphProto):
    """Yields all tensors of a graph, those in attributes and inner graphs too."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from tensors(inner)


def read_external(tensor: TensorProto, folder: Path | None) -> None:
    """Reads the numbers of a tensor that stand in a file of their own, in the model's folder or below."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = entries.get("location", "")
    if folder is None:
        raise OnnxError(
            f"tensor {tensor.name!r} stands in the file {where!r}: load the model from a path"
        )
    path = (folder / where).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise OnnxError(f"tensor {tensor.name!r} stands outside of the model's folder: {where!r}")
    if not path.is_file():
        raise OnnxError(f"tensor {tensor.name!r}: the file {where!r} is missing")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", path.stat().st_size - offset))
    except ValueError:
        raise OnnxError(f"tensor {tensor.name!r}: offset and length are not numbers") from None
    if offset < 0 or length < 0 or offset + length > path.stat().st_size:
        raise OnnxError(f"tensor {tensor.name!r}: the file {where!r} is too short")
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT


def unsupported(graph: Graph):
    """Yields why nodes cannot be computed, one line a node."""
    for node in graph.nodes:
        operator = OPERATORS.get(node.op)
        if node.domain not in ("", "ai.onnx"):
            yield f"{node.label}: operators of {node.domain!r} are not supported"
        elif node.op not in CONTROL and operator is None:
            yield f"{node.label}: this operator is not supported"
        elif operator is not None:
            asked = sum(map(bool, node.outputs))
            if operator.outputs is not None and asked > operator.outputs:
                yield f"{node.label}: only the first {operator.outputs} outputs are supported"
            for name, values in operator.allowed.items():
                if (value := node.attributes.get(name)) not in values:
                    yield f"{node.label}: {name}={value!r} is not supported"
        for inner in node.graphs:
            yield from unsupported(inner)


def described(value: onnx.ValueInfoProto) -> Value:
    """Returns name, shape and dtype of an input or output."""
    kind = value.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param
            for size in kind.shape.dim
        )
    dtype = (
        np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else None
    )
    return Value(value.name, shape, dtype)
