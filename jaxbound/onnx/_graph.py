"""Holds a model's graph, and the interpreter that computes it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import numpy_helper

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._operators import OPERATORS, Call


@dataclasses.dataclass(frozen=True)
class Node:
    """Represents one use of an operator."""

    name: str
    op: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int

    @property
    def label(self) -> str:
        return f"node {self.name!r} ({self.op})"

    @property
    def graphs(self) -> list[Graph]:
        return [value for value in self.attributes.values() if isinstance(value, Graph)]

    @property
    def reads(self) -> set[str]:
        """Returns the names of all values that the node reads, those in its branches and bodies too."""
        inner = (node.reads for graph in self.graphs for node in graph.nodes)
        results = (set(graph.outputs) for graph in self.graphs)
        return set(self.inputs).union(*inner, *results) - {""}


@dataclasses.dataclass(frozen=True)
class Graph:
    """Represents nodes in an order in which they can be computed."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: dict[str, np.ndarray]


def graph_from_proto(proto: onnx.GraphProto, opset: int) -> Graph:
    """Returns a graph as the format describes it."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
    return Graph(
        tuple(node_from_proto(node, opset) for node in proto.node),
        tuple(value.name for value in proto.input if value.name not in constants),
        tuple(value.name for value in proto.output),
        constants,
    )


def node_from_proto(proto: onnx.NodeProto, opset: int) -> Node:
    """Returns a node with all attributes, those that have their default too."""
    given = {attribute.name: attribute for attribute in proto.attribute}
    if onnx.defs.has(proto.op_type):
        defaults = onnx.defs.get_schema(proto.op_type, opset).attributes
        given = {
            **{k: v.default_value for k, v in defaults.items() if v.default_value.name},
            **given,
        }
    return Node(
        proto.name or next(filter(None, proto.output), ""),
        proto.op_type,
        {name: attribute_value(value, opset) for name, value in given.items()},
        tuple(proto.input),
        tuple(proto.output),
        opset,
    )


def attribute_value(attribute: onnx.AttributeProto, opset: int):
    """Returns an attribute as a number, a text, an array, a graph, or a list of them."""
    match onnx.helper.get_attribute_value(attribute):
        case onnx.GraphProto() as graph:
            return graph_from_proto(graph, opset)
        case onnx.TensorProto() as tensor:
            return numpy_helper.to_array(tensor)
        case bytes() as text:
            return text.decode(errors="replace")
        case [bytes(), *_] as texts:
            return [text.decode(errors="replace") for text in texts]
        case value:
            return value


def evaluate(graph: Graph, values: dict[str, Any]) -> list[Any]:
    """Computes the outputs of a graph from the values of all names that it reads."""
    values = values | graph.constants
    for node in graph.nodes:
        values.update(computed(node, values))
    return [values[name] for name in graph.outputs]


def computed(node: Node, values: dict[str, Any]) -> dict[str, Any]:
    """Computes the outputs of a node: in NumPy where all that it reads is known."""
    try:
        inputs = [values[name] if name else None for name in node.inputs]
        found = (
            CONTROL[node.op](node, inputs, values) if node.op in CONTROL else applied(node, inputs)
        )
    except OnnxError as error:
        raise OnnxError(
            error if str(error).startswith("node") else f"{node.label}: {error}"
        ) from error
    except Exception as error:
        raise OnnxError(f"{node.label}: {error}") from error
    return dict(zip(node.outputs, found, strict=False))


def applied(node: Node, inputs: list[Any]) -> tuple[Any, ...]:
    """Returns the outputs of an operator of the table."""
    operator = OPERATORS[node.op]
    known = all(value is None or isinstance(value, np.ndarray) for value in inputs)
    plain = known and operator.plain
    call = Call(node.attributes, node.opset, np if plain else jnp, len(node.outputs))
    if plain:
        with np.errstate(all="ignore"):
            found = operator.apply(call, *inputs)
    elif known:
        with jax.ensure_compile_time_eval():
            found = operator.apply(call, *(x if x is None else jnp.asarray(x) for x in inputs))
    else:
        found = operator.apply(call, *inputs)
    found = found if isinstance(found, tuple) else (found,)
    return tuple(np.asarray(value) for value in found) if known else found


def branch(node: Node, inputs: list[Any], values: dict[str, Any]) -> list[Any]:
    """Computes the branch of a known condition."""
    taken = "then_branch" if known(inputs[0]) else "else_branch"
    return evaluate(node.attributes[taken], values)


def loop(node: Node, inputs: list[Any], values: dict[str, Any]) -> list[Any]:
    """Computes the body of a loop as often as known numbers say, and stacks what each round returns besides."""
    limit, condition, *carried = inputs
    body: Graph = node.attributes["body"]
    going = condition is None or bool(known(condition))
    limit = np.inf if limit is None else int(known(limit))
    rounds: list[list[Any]] = []
    while going and len(rounds) < limit:
        if len(rounds) >= MOST_ROUNDS:
            raise OnnxError(f"a loop of more than {MOST_ROUNDS} rounds")
        given = [np.array(len(rounds)), np.array(True), *carried]
        going, *found = evaluate(body, values | dict(zip(body.inputs, given, strict=True)))
        going, carried = bool(known(going)), found[: len(carried)]
        rounds.append(found[len(carried) :])
    scans = len(body.outputs) - 1 - len(carried)
    if scans and not rounds:
        raise OnnxError("a loop of no rounds that stacks its results")
    return [*carried, *(stacked([results[i] for results in rounds]) for i in range(scans))]


def stacked(results: list[Any]):
    """Returns arrays along a new first axis."""
    known = all(isinstance(value, np.ndarray) for value in results)
    return (np if known else jnp).stack(results)


def known(value) -> Any:
    """Returns a condition or a count as a Python number."""
    if not isinstance(value, np.ndarray):
        raise OnnxError("a condition or a count depends on the inputs of the model")
    return value.item()


CONTROL = {"If": branch, "Loop": loop}
MOST_ROUNDS = 10_000
