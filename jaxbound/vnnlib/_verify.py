"""Decides a property of a network: `verify`."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound.vnnlib._property import Case, Property, violation

AT_ONCE = 64  # cases that are bounded together
TRIES = 4  # witnesses that are checked


@dataclasses.dataclass(frozen=True)
class Violation:
    """Computes the rows of a property from flat inputs; equal for equal networks, so that they compile once."""

    apply: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, variables, rows, x):
        return violation(rows, self.apply(variables, *self.parts(x)), x)

    def parts(self, x) -> list[Any]:
        """Returns the network's inputs, of their shapes."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        return [
            x[end - math.prod(shape) : end].reshape(shape)
            for end, shape in zip(ends, self.shapes, strict=True)
        ]


def verify(
    model,
    prop: Property,
    *,
    timeout: float = 60.0,
    evaluate: Callable[..., Any] | None = None,
    **options,
) -> jb.Verdict:
    """Decides whether a network has a property: in every case, all clauses have a row that does not hold.

    Args:
      model: of `jaxbound.onnx.load`, or of your own with ``apply``, ``variables`` and ``inputs``. Axes without a
        size have one element.
      prop: the property, whose inputs are all inputs of the network, flat and one after the other.
      timeout: seconds for all cases together.
      evaluate: a function of the network's inputs, as NumPy arrays, that computes its outputs to check a witness;
        by default the model does.
      **options: as for `jaxbound.verify`, which decides each case.

    Returns:
      a `Verdict`: "falsified" has a witness in the network's type and input shape (a tuple of several inputs), for
      which `Property.violated` holds; "verified" holds for the exact decimal numbers of the property.

    Example:
      >>> import onnx.parser
      >>> from jaxbound import onnx as jb_onnx
      >>> from jaxbound import vnnlib
      >>> model = jb_onnx.load(
      ...     onnx.parser.parse_model('''<ir_version: 8, opset_import: ["": 17]>
      ... net (float[n, 1] x) => (float[n, 1] y) { y = Relu(x) }''')
      ... )
      >>> text = "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (>= X_0 -1)) (assert (<= X_0 1))"
      >>> vnnlib.verify(model, vnnlib.loads(text + "(assert (>= Y_0 1.5))")).status
      'verified'
      >>> vnnlib.verify(model, vnnlib.loads(text + "(assert (>= Y_0 0.5))")).status
      'falsified'
    """
    started = time.monotonic()
    prop = prop.astype(jnp.result_type(*(value.dtype for value in model.inputs)))
    fn = Violation(model.apply, input_shapes(model, prop))
    evaluate = evaluate or functools.partial(jax.jit(model.apply), model.variables)
    verdicts = []
    known = lower_bounds(model, prop.cases, fn)
    for i, case in enumerate(prop.cases):
        if i in known and (known[i] > 0).all():
            stage = np.full(known[i].shape, "crown", "<U11")
            verdicts.append(jb.Verdict("verified", None, known[i], stage, 0, 0, 0.0))
            continue
        left = timeout - (time.monotonic() - started)
        verdicts.append(Decision(model, prop, case, fn, evaluate, options).verdict(left))
        if verdicts[-1].status == "falsified":
            break
    statuses = [verdict.status for verdict in verdicts]
    chosen = next((s for s in ("falsified", "unknown") if s in statuses), "verified")
    empty = np.zeros(0)
    return jb.Verdict(
        chosen,
        verdicts[-1].witness if chosen == "falsified" else None,
        np.concatenate([empty, *(verdict.lower for verdict in verdicts)]),
        np.concatenate([empty.astype("<U11"), *(verdict.decided for verdict in verdicts)]),
        sum(verdict.nodes for verdict in verdicts),
        sum(verdict.open for verdict in verdicts),
        time.monotonic() - started,
    )


def lower_bounds(model, cases: tuple[Case, ...], fn: Violation) -> dict[int, np.ndarray]:
    """Returns lower bounds of the clauses of cases of the same shape, many at once; a case by itself has none."""
    alike: dict[tuple, list[int]] = {}
    for i, case in enumerate(cases):
        alike.setdefault((case.limits.shape, case.input_rows is None), []).append(i)
    found: dict[int, np.ndarray] = {}
    for places in (places for places in alike.values() if len(places) > 1):
        count = min(AT_ONCE, len(places))
        for start in range(0, len(places), count):
            # The last ones are repeated, so that all programs have the same shapes.
            chosen = [places[min(start + i, len(places) - 1)] for i in range(count)]
            with jax.enable_x64(True):
                given = [(cases[i].rows, cases[i].box) for i in chosen]
                rows, box = jax.tree.map(lambda *xs: np.stack(xs).astype(np.float64), *given)
                variables = jax.tree.map(
                    lambda x: np.asarray(x).astype(np.float64), model.variables
                )
                bounds = np.asarray(crown_bounds(fn, variables, rows, box)).max(-1)
            found.update(zip(chosen, np.where(np.isfinite(bounds), bounds, -np.inf), strict=True))
    return found


@functools.partial(jax.jit, static_argnames=("fn",))
def crown_bounds(fn: Violation, variables, rows, box):
    """Returns lower bounds of the rows of many cases."""
    return jb.crown(jax.vmap(fn, (None, 0, 0)), variables, rows, box).lower


@dataclasses.dataclass(frozen=True)
class Decision:
    """Decides one case; what refutes it is an input that counts, with an output of the network itself."""

    model: Any
    prop: Property
    case: Case
    fn: Violation
    evaluate: Callable[..., Any]
    options: dict[str, Any]

    def verdict(self, timeout: float) -> jb.Verdict:
        """Returns the verdict; a witness is in the shapes of the network's inputs."""
        started, box = time.monotonic(), self.case.box
        if timeout <= 0:
            return self.ended("unknown")
        if (box.lower == box.upper).all():
            return self.evaluated()
        found = self.asked(self.case.rows, box, timeout)
        if found.witness is None:
            return found
        x, nodes, beyond = found.witness[-1], found.nodes, 0.0
        for _ in range(TRIES):
            inside = self.inside(x)
            witness, missing = self.checked(inside)
            if witness is not None:
                return dataclasses.replace(found, witness=witness, nodes=nodes)
            # What misses the decimal box is sought inside; what misses by rounding, further beyond the limits.
            beyond = max(beyond, 2 * missing if (inside == x).all() else 0.0)
            left = timeout - (time.monotonic() - started)
            inner = self.case.witnesses
            if left <= 0 or not np.isfinite(beyond) or (inner.lower == inner.upper).all():
                break
            rows = self.case.rows | {
                "limits": self.case.limits - self.case.limits.dtype.type(beyond)
            }
            again = self.asked(rows, inner, left)
            nodes += again.nodes
            if again.witness is None:
                break
            x = again.witness[-1]
        decided = np.where(found.lower > 0, found.decided, "").astype("<U11")
        return dataclasses.replace(
            found, status="unknown", witness=None, decided=decided, nodes=nodes
        )

    def asked(self, rows, box, timeout: float) -> jb.Verdict:
        args = self.model.variables, rows, box
        return jb.verify(self.fn, *args, any_axis=-1, timeout=timeout, **self.options)

    def inside(self, x) -> np.ndarray:
        """Returns the input that counts and lies next to another."""
        return np.clip(x, self.case.witnesses.lower, self.case.witnesses.upper)

    def checked(self, x) -> tuple[Any, float]:
        """Returns the network's input if it refutes the property, else None; and by how much it misses that."""
        parts = self.fn.parts(x)
        outputs = self.evaluate(*parts)
        if self.prop.violated(parts, outputs):
            return parts[0] if len(parts) == 1 else tuple(parts), 0.0
        rows = jax.tree.map(lambda x: np.asarray(x, np.float64), self.case.rows)
        y = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(outputs)])
        value = rows["outputs"] @ y - rows["limits"]
        size = np.abs(rows["outputs"]) @ np.abs(y) + np.abs(rows["limits"])
        if "inputs" in rows:
            value = value + rows["inputs"] @ x.astype(np.float64)
            size = size + np.abs(rows["inputs"]) @ np.abs(x.astype(np.float64))
        return None, max(value.max(-1).min(), size.max() * jnp.finfo(x.dtype).eps)

    def evaluated(self) -> jb.Verdict:
        """Returns the verdict on a single input."""
        x = self.case.box.lower
        with jax.enable_x64(True):
            given = (self.model.variables, self.case.rows, x)
            found = jax.jit(self.fn)(
                *jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), given)
            )
            lower = np.asarray(found).max(-1)
        witness, _ = self.checked(self.inside(x))
        if witness is not None:
            return self.ended("falsified", lower, "attack", witness)
        return self.ended("verified" if (lower > 0).all() else "unknown", lower, "ibp")

    def ended(self, status: str, lower=None, stage: str = "", witness: Any = None) -> jb.Verdict:
        """Returns a verdict without a search."""
        clauses = self.case.limits.shape[0]
        lower = np.full(clauses, -np.inf) if lower is None else lower
        decided = np.full(clauses, "" if status == "unknown" else stage, "<U11")
        left = clauses if status == "unknown" else 0
        return jb.Verdict(status, witness, lower, decided, 0, left, 0.0)


def input_shapes(model, prop: Property) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes of the network's inputs, which must have as many elements as the property."""
    found = []
    for value in model.inputs:
        if value.shape is None:
            raise ValueError(f"input {value.name!r} of the network has no shape")
        found.append(tuple(size if isinstance(size, int) else 1 for size in value.shape))
    size = sum(map(math.prod, found))
    if size != prop.inputs:
        raise ValueError(f"the property has {prop.inputs} inputs, the network {size}: {found}")
    return tuple(found)
