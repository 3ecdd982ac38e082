"""Runs `jaxbound bounds`: what the outputs of a network lie between."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound import onnx


def run(args: argparse.Namespace, started: float) -> int:
    """Prints a table of bounds, or JSON; returns the exit code."""
    # With 64 bits allowed, a network computes in its own type, whichever it is.
    with jax.enable_x64(True):
        model = onnx.load(args.network)
        centers = read_centers(args, model)
        method = jax.jit(getattr(jb, args.method), static_argnums=0)
        boxes = [jb.lp_ball(x, args.eps, p=args.p, clip=args.clip) for x in centers]
        variables = model.variables
        if args.float64:
            variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
        found = jax.tree.leaves(
            method(model.apply, variables, *boxes), is_leaf=lambda x: isinstance(x, jb.Interval)
        )
        values = jax.tree.leaves(model.apply(variables, *centers))
    outputs = [
        {"name": output.name, "shape": list(bound.shape)}
        | {
            name: numbers(x)
            for name, x in zip(
                ("value", "lower", "upper"), (value, bound.lower, bound.upper), strict=True
            )
        }
        for output, value, bound in zip(model.outputs, values, found, strict=True)
    ]
    if args.json:
        report = {"network": str(args.network), "method": args.method, "eps": args.eps, "p": args.p}
        report |= {"seconds": time.monotonic() - started, "outputs": outputs}
        print(json.dumps(finite(report), allow_nan=False))
    else:
        print(table(outputs), end="")
    return 0


def read_centers(args: argparse.Namespace, model: onnx.Model) -> list[Any]:
    """Returns the inputs around which to bound, of the shapes that the network takes."""
    if len(args.center) != len(model.inputs):
        names = [value.name for value in model.inputs]
        raise ValueError(f"--center has {len(args.center)} files; expected one for each of {names}")
    found = []
    for path, value in zip(args.center, model.inputs, strict=True):
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError):
            raise ValueError(f"{path} holds no array that NumPy saved") from None
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError(f"{path} holds no array of numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{path} holds numbers that are not finite")
        if value.shape is not None:
            shape = tuple(n if isinstance(n, int) else 1 for n in value.shape)
            if array.size != np.prod(shape):
                raise ValueError(f"{path} has shape {array.shape}; the network takes {value.shape}")
            array = array.reshape(shape)
        found.append(jnp.asarray(array, jnp.float64 if args.float64 else value.dtype))
    return found


def numbers(values) -> list[float]:
    return np.asarray(values).ravel().astype(float).tolist()


def finite(value):
    """Returns a value in which numbers that JSON does not have are None."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def table(outputs: list[dict[str, Any]]) -> str:
    """Returns a line for each element of the outputs: its place, its bounds, and its value at the center."""
    lines: list[tuple[str, ...]] = [("output", "lower", "upper", "at the center")]
    for output in outputs:
        places = np.ndindex(*output["shape"])
        for place, *ends in zip(
            places, output["lower"], output["upper"], output["value"], strict=True
        ):
            lines.append((output["name"] + str(list(place)), *(f"{end:.7g}" for end in ends)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        line[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(line[1:], widths[1:], strict=True))
        + "\n"
        for line in lines
    )
