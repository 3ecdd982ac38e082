"""Reads models from files and checks them."""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, checker, defs, inliner, shape_inference

from jaxbound.onnx._errors import OnnxError, UnsupportedOnnxError
from jaxbound.onnx._graph import CONTROL, attribute_value, graph_from_proto
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
    refuse(proto, opset)
    try:
        checker.check_model(proto)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
            refuse(proto, opset)
        inferred = shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=True, data_prop=True
        )
        drop_casts(inferred.graph, {})
        graph = graph_from_proto(inferred.graph, opset)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        raise OnnxError(f"the model is not valid: {error}") from None
    given = {value.name: described(value) for value in proto.graph.input}
    inputs = tuple(given[name] for name in graph.inputs)
    return model_from_graph(graph, inputs, tuple(map(described, proto.graph.output)))


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


def all_nodes(graph: onnx.GraphProto):
    """Yields all nodes of a graph, those in branches and bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def drop_casts(graph: onnx.GraphProto, outer: dict[str, int]) -> None:
    """Makes casts to the type that a value has already identities, in any type in which the model is computed later."""
    stated = itertools.chain(graph.input, graph.value_info, graph.output)
    types = outer | {value.name: value.type.tensor_type.elem_type for value in stated}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Cast" and types.get(node.input[0]) == given["to"].i:
            node.op_type = "Identity"
            del node.attribute[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                drop_casts(attribute.g, types)


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
    for attribute in (a for node in all_nodes(graph) for a in node.attribute):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        if attribute.HasField("g"):
            yield from attribute.g.initializer


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


def refuse(proto: onnx.ModelProto, opset: int) -> None:
    """Raises one error about all nodes that cannot be computed."""
    own = {(function.domain, function.name) for function in proto.functions}
    nodes = itertools.chain(all_nodes(proto.graph), *(f.node for f in proto.functions))
    found = [
        f"node {node.name or next(iter(node.output), '')!r} ({node.op_type}): {reason}"
        for node in nodes
        if (node.domain, node.op_type) not in own
        for reason in reasons(node, opset)
    ]
    if found:
        raise UnsupportedOnnxError("\n".join(["these nodes cannot be computed:", *found]))


def reasons(node: onnx.NodeProto, opset: int):
    """Yields why a node cannot be computed."""
    if node.domain not in ("", "ai.onnx"):
        yield f"operators of {node.domain!r} are not supported"
    elif node.op_type in OPERATORS:
        operator = OPERATORS[node.op_type]
        if operator.outputs is not None and any(node.output[operator.outputs :]):
            yield f"outputs beyond the first {operator.outputs} are not supported"
        given = {attribute.name: attribute for attribute in node.attribute}
        for name, values in operator.allowed.items():
            attribute = given.get(name, default_attribute(node.op_type, name, opset))
            if attribute is not None and not attribute.ref_attr_name:
                value = attribute_value(attribute, opset)
                if value not in values:
                    yield f"{name}={value!r} is not supported"
    elif node.op_type not in CONTROL:
        yield "this operator is not supported"


def default_attribute(op: str, name: str, opset: int) -> onnx.AttributeProto | None:
    """Returns the default of an attribute, if it has one in this version."""
    try:
        attribute = defs.get_schema(op, opset).attributes.get(name)
    except defs.SchemaError:
        return None
    return attribute.default_value if attribute and attribute.default_value.name else None


def described(value: onnx.ValueInfoProto) -> Value:
    """Returns name, shape and dtype of an input or output."""
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or kind.elem_type == TensorProto.STRING:
        raise UnsupportedOnnxError(f"{value.name!r} is no array of numbers")
    sizes = None
    if kind.HasField("shape"):
        sizes = tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param
            for size in kind.shape.dim
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else None
    return Value(value.name, sizes, dtype)
