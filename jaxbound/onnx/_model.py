"""Defines a model: a function of its weights and inputs, and what both look like."""

from __future__ import annotations

import collections
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

Shape = tuple[int | str, ...] | None


@dataclasses.dataclass(frozen=True)
class Value:
    """Describes an input or an output.

    Attributes:
      name: as in the file.
      shape: a number or a name for each axis, "" for one without a name; None if it is not stated.
      dtype: of its elements, None if it is not stated.
    """

    name: str
    shape: Shape
    dtype: np.dtype | None


class Program:
    """Computes a graph from its variables and inputs; graphs that differ in variables alone share one."""

    def __init__(self, graph: Graph, inputs: tuple[Shape, ...]):
        self.graph, self.inputs = graph, inputs

    def __call__(self, variables: dict[str, Any], *inputs):
        values: dict[str, Any] = {name: jnp.asarray(value) for name, value in variables.items()}
        if len(inputs) != len(self.inputs):
            raise OnnxError(f"the model has {len(self.inputs)} inputs, got {len(inputs)}")
        sizes: dict[str, int] = {}
        for i, (name, value) in enumerate(zip(self.graph.inputs, inputs, strict=True)):
            values[name] = jnp.asarray(value)
            check_shape(i, self.inputs[i], values[name].shape, sizes)
        # Shapes are broadcast as the format says, whatever JAX is set to.
        with jax.numpy_rank_promotion("allow"):
            found = tuple(jnp.asarray(value) for value in evaluate(self.graph, values))
        return found[0] if len(found) == 1 else found


def check_shape(i: int, stated: Shape, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Raises unless a shape is as stated; the same name is the same size everywhere."""
    if stated is None:
        return
    fits = len(shape) == len(stated) and all(
        size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        for size, wanted in zip(shape, stated, strict=True)
        if wanted != ""
    )
    if not fits:
        raise OnnxError(f"input {i} has shape {shape}; expected {stated}")


@dataclasses.dataclass(frozen=True)
class Model:
    """Holds a network: a function, its weights, and what goes in and comes out.

    Attributes:
      apply: ``apply(variables, *inputs)`` is a pure JAX function; it returns a tuple if there are several outputs.
        Models that differ in their weights alone have the same one, and share its compilation.
      variables: the weights, after what follows from them alone is computed, by the place where they are used:
        "Gemm_0.1" is input 1 of the first Gemm. Scalars and whole numbers are constants of the function instead.
      inputs: names, shapes and dtypes of what goes in.
      outputs: those of what comes out.
      names: the file's names of the variables.
    """

    apply: Program = dataclasses.field(repr=False)
    variables: dict[str, jax.Array] = dataclasses.field(repr=False)
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    names: dict[str, str] = dataclasses.field(repr=False)


PROGRAMS: weakref.WeakValueDictionary[bytes, Program] = weakref.WeakValueDictionary()


def model_from_graph(graph: Graph, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Model:
    """Returns a model of a graph, with what its constants determine computed."""
    graph = folded(graph)
    weights = variable_names(graph)
    names = places(graph)
    constants = {k: v for k, v in graph.constants.items() if k not in weights}
    program = Program(
        renamed(dataclasses.replace(graph, constants=constants), names),
        tuple(value.shape for value in inputs),
    )
    program = PROGRAMS.setdefault(digest(program), program)
    return Model(
        program,
        {names[name]: jnp.asarray(graph.constants[name]) for name in weights},
        inputs,
        outputs,
        {names[name]: name for name in weights},
    )


def places(graph: Graph, prefix: str = "") -> dict[str, str]:
    """Returns a name for every value by the place where it is made, or of a constant where it is first used."""
    names = {name: f"{prefix}input_{i}" for i, name in enumerate(graph.inputs)}
    counts: collections.Counter[str] = collections.Counter()
    for node in graph.nodes:
        place = f"{prefix}{node.op}_{counts[node.op]}"
        counts[node.op] += 1
        for i, name in enumerate(node.inputs):
            names.setdefault(name, f"{place}.{i}")
        for i, name in enumerate(node.outputs):
            names[name] = f"{place}:{i}"
        for i, inner in enumerate(node.graphs):
            names = places(inner, f"{place}/{i}/") | names
    for i, name in enumerate(graph.outputs):
        names.setdefault(name, f"{prefix}output_{i}")
    return names | {"": ""}


def renamed(graph: Graph, names: dict[str, str]) -> Graph:
    """Returns a graph with other names of its values."""
    nodes = [
        dataclasses.replace(
            node,
            inputs=tuple(names[name] for name in node.inputs),
            outputs=tuple(names[name] for name in node.outputs),
            attributes={
                key: renamed(value, names) if isinstance(value, Graph) else value
                for key, value in node.attributes.items()
            },
        )
        for node in graph.nodes
    ]
    return Graph(
        tuple(nodes),
        tuple(names[name] for name in graph.inputs),
        tuple(names[name] for name in graph.outputs),
        {names[name]: value for name, value in graph.constants.items() if name in names},
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
    for shape in program.inputs:
        add(shape is None)
        add(
            [
                names.setdefault(n, -1 - len(names)) if isinstance(n, str) and n else n
                for n in shape or ()
            ]
        )
    add(program.graph)
    return found.digest()
