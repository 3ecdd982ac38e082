"""Defines a model: a function of its weights and inputs, and what both look like."""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._graph import CONTROL, Graph, Node, computed, evaluate
from jaxbound.onnx._operators import OPERATORS


@dataclasses.dataclass(frozen=True)
class Value:
    """Describes an input or an output.

    Attributes:
      name: as in the file.
      shape: a number or a name for each axis, "" for one without a name; None if it is not stated.
      dtype: of its elements, None if it is not stated.
    """

    name: str
    shape: tuple[int | str, ...] | None
    dtype: np.dtype | None


class Program:
    """Computes a graph from its variables and inputs; graphs that differ in variables alone share one."""

    def __init__(self, graph: Graph, inputs: tuple[Value, ...]):
        self.graph, self.inputs = graph, inputs

    def __call__(self, variables: dict[str, Any], *inputs):
        values: dict[str, Any] = {name: jnp.asarray(value) for name, value in variables.items()}
        if len(inputs) != len(self.inputs):
            raise OnnxError(
                f"the model has {len(self.inputs)} inputs ({', '.join(i.name for i in self.inputs)}), got {len(inputs)}"
            )
        sizes: dict[str, int] = {}
        for stated, value in zip(self.inputs, inputs, strict=True):
            values[stated.name] = jnp.asarray(value)
            check_shape(stated, values[stated.name].shape, sizes)
        found = tuple(jnp.asarray(value) for value in evaluate(self.graph, values))
        return found[0] if len(found) == 1 else found


def check_shape(stated: Value, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Raises unless a shape is as stated; the same name is the same size everywhere."""
    if stated.shape is None:
        return
    fits = len(shape) == len(stated.shape) and all(
        size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        for size, wanted in zip(shape, stated.shape, strict=True)
        if wanted != ""
    )
    if not fits:
        raise OnnxError(f"input {stated.name!r} has shape {shape}; expected {stated.shape}")


@dataclasses.dataclass(frozen=True)
class Model:
    """Holds a network: a function, its weights, and what goes in and comes out.

    Attributes:
      apply: ``apply(variables, *inputs)`` is a pure JAX function; it returns a tuple if there are several outputs.
        Models that differ in their weights alone have the same one, and share its compilation.
      variables: the weights by name, after what follows from them alone is computed. Scalars, whole numbers and
        exponents are constants of the function instead.
      inputs: names, shapes and dtypes of what goes in.
      outputs: those of what comes out.
    """

    apply: Program = dataclasses.field(repr=False)
    variables: dict[str, jax.Array] = dataclasses.field(repr=False)
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


PROGRAMS: weakref.WeakValueDictionary[bytes, Program] = weakref.WeakValueDictionary()


def model_from_graph(graph: Graph, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Model:
    """Returns a model of a graph, with what its constants determine computed."""
    graph = folded(graph)
    variables = variable_names(graph)
    constants = {k: v for k, v in graph.constants.items() if k not in variables}
    program = Program(dataclasses.replace(graph, constants=constants), inputs)
    program = PROGRAMS.setdefault(digest(program), program)
    return Model(
        program,
        {name: jnp.asarray(graph.constants[name]) for name in variables},
        inputs,
        outputs,
    )


def folded(graph: Graph) -> Graph:
    """Returns a graph without the nodes that read nothing but constants; those of use are its constants."""
    constants, left = dict(graph.constants), []
    for node in graph.nodes:
        if node.reads <= set(constants):
            constants.update(computed(node, constants))
        else:
            left.append(node)
    used = set(graph.outputs).union(*(node.reads for node in left))
    kept = {name: value for name, value in constants.items() if name in used}
    return Graph(tuple(left), graph.inputs, graph.outputs, kept)


def variable_names(graph: Graph) -> list[str]:
    """Lists the constants that are weights: arrays of real numbers that are needed when the model runs alone."""
    static = {name for node in graph.nodes for name in static_inputs(node)}
    return [
        name
        for name, value in graph.constants.items()
        if value.ndim and jnp.issubdtype(value.dtype, jnp.floating) and name not in static
    ]


def static_inputs(node: Node) -> set[str]:
    """Returns the inputs that stay constants, in branches and bodies too."""
    places = OPERATORS[node.op].static if node.op not in CONTROL else (0, 1)
    found = {node.inputs[i] for i in places if i < len(node.inputs)}
    return found.union(*(static_inputs(n) for graph in node.graphs for n in graph.nodes))


def digest(program: Program) -> bytes:
    """Returns what is equal for programs that compute the same."""
    found = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, np.ndarray):
            found.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, Graph | Node):
            for field in dataclasses.fields(value):
                if field.name != "name":
                    add(getattr(value, field.name))
        elif isinstance(value, dict):
            add(sorted(value))
            add([value[key] for key in sorted(value)])
        elif isinstance(value, tuple | list):
            found.update(f"[{len(value)}".encode())
            for part in value:
                add(part)
        else:
            found.update(f"{value!r};".encode())

    names: dict[str, int] = {}  # of sizes, which may be anything
    for stated in program.inputs:
        sizes = stated.shape or ()
        add([stated.name, stated.shape is None])
        add(
            [names.setdefault(n, -1 - len(names)) if isinstance(n, str) and n else n for n in sizes]
        )
    add(program.graph)
    return found.digest()
