"""Calls that bound a program, and what must hold of them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from oracle import KINDS, LINEAR, METHODS, ULPS, magnitude, precision

import jaxbound as jb
from random_programs.operations import AFFINE
from random_programs.program import Draw, Program
from random_programs.regions import near, truth


def draw_calls(d: Draw) -> dict[str, tuple[Callable[..., Any], str]]:
    """Intervals, one other method, and the linear bounds of one, with random options; and what they are."""
    calls = {}
    other = d.among((*LINEAR, *LINEAR, jb.alpha_crown))
    for method, linear in (jb.ibp, False), (other, False), (d.among(LINEAR), True):
        options: dict[str, Any] = {"chunk_size": d.among((None, None, None, 1, 2, 5))}
        if method is not jb.ibp:
            options["relaxation"] = d.among((*KINDS, "alphas"))
        if method is jb.alpha_crown:
            options |= {"steps": 3, "relaxation": "adaptive"}
        if method is jb.crown:
            options["capacity"] = d.among((None, None, 1, 3))
        first = d.among(METHODS) if d.chance(0.1) else None
        text = ", ".join(f"{k}={v!r}" for k, v in options.items())
        text = f"{method.__name__}({text}{', given those of ' + first.__name__ if first else ''})"
        if linear:
            options, text, method = (
                options | {"method": method},
                f"lines of {text}",
                jb.linear_bounds,
            )
        calls[text.partition("(")[0]] = functools.partial(call, method, first, options), text
    return calls


def call(method, first, options, fn, *args):
    given = jb.intermediate_bounds(fn, *args, method=first) if first else None
    if options.get("relaxation") == "alphas":  # anywhere
        share = lambda alpha: jnp.arange(alpha.size, dtype=alpha.dtype) * 0.618 % 1
        alphas = jb.alphas(fn, *args, method=jb.crown_ibp)
        alphas = jax.tree.map(lambda alpha: share(alpha).reshape(alpha.shape), alphas)
        options = options | {"relaxation": alphas}
    return method(fn, *args, intermediates=given, **options)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A bound that does not hold."""

    call: str
    box: int
    what: str
    beyond: float = math.inf


def bounded(program: Program, args, calls, dtype: str, how: str):
    """The results of all calls for all boxes, and the magnitudes."""
    batched = [None if kind == "known" else 0 for _, kind in program.inputs]

    def every(*args):
        found = {name: bound(program, *args) for name, (bound, _) in calls.items()}
        return found, magnitude(program, *near(args))

    with precision(dtype):
        args = jax.tree.map(lambda x: jnp.asarray(x, dtype), args)
        if how == "vmap":
            return jax.tree.map(np.asarray, jax.jit(jax.vmap(every, batched))(*args))
        one = every if how == "plain" else jax.jit(every)
        each = [one(*nth(args, batched, b)) for b in range(boxes_of(args))]
        return jax.tree.map(lambda *found: np.stack(list(map(np.asarray, found))), *each)


def nth(args, batched, b: int):
    return [
        a if axis is None else jax.tree.map(lambda x: x[b], a)
        for a, axis in zip(args, batched, strict=True)
    ]


def boxes_of(args) -> int:
    return next(
        len(jax.tree.leaves(a)[0]) for a in args if not isinstance(a, np.ndarray | jax.Array)
    )


def line_values(linear: jb.LinearBounds, points) -> jb.Interval:
    """Both affine maps at all points, ``[boxes, n, *shape]``."""

    def at(coeffs, offset):
        total = offset[:, None].astype(float)
        for c, x in zip(coeffs, points, strict=True):
            boxes, count = x.shape[:2]
            flat = c.reshape(boxes, -1, math.prod(x.shape[2:])).astype(float)
            with np.errstate(invalid="ignore"):
                total = total + np.einsum(
                    "bki,bni->bnk", flat, x.reshape(boxes, count, -1)
                ).reshape(boxes, count, *offset.shape[1:])
        return total

    return jb.Interval(
        at(linear.lower_coeffs, linear.lower_offset), at(linear.upper_coeffs, linear.upper_offset)
    )


def check(program: Program, args, calls, dtype: str, seed: int, how: str) -> list[Alarm]:
    """What of the calls' results does not hold."""
    points, values = truth(program, args, seed)
    results, size = bounded(program, args, calls, dtype, how)
    slack = ULPS * float(jnp.finfo(dtype).eps) * np.asarray(size, float)
    # Undefined is what any step leaves undefined: a comparison would hide it.
    defined = np.all([np.isfinite(v).reshape(*v.shape[:2], -1).all(-1) for v in values], axis=0)
    alarms = []
    affine = all(step.name in AFFINE for step in program.steps)
    uncertain = [p for p, (_, kind) in zip(points, program.inputs, strict=True) if kind != "known"]
    for name, (_, text) in calls.items():
        for k, found in enumerate(results[name]):
            true = values[program.outputs[k]]
            if isinstance(found, jb.LinearBounds):
                bad = [
                    np.isnan(leaf).reshape(len(leaf), -1).any(1) for leaf in jax.tree.leaves(found)
                ]
                alarms += [Alarm(name, b, f"{text}: NaN") for b in np.nonzero(np.any(bad, 0))[0]]
                found = line_values(found, uncertain)
            else:
                lower, upper = (np.asarray(e, float) for e in (found.lower, found.upper))
                alarms += disorder(name, text, lower, upper, slack)
                found = jb.Interval(lower[:, None], upper[:, None])
            alarms += violations(name, text, found, true, defined, slack)
            if isinstance(results[name][k], jb.Interval):
                alarms += looser(
                    name, text, results.get("ibp", results[name])[k], results[name][k], slack
                )
        if affine and name != "ibp":
            alarms += inexact(name, text, program, args, results[name], slack)
    return alarms


def disorder(name, text, lower, upper, slack):
    flat = lambda x: x.reshape(len(x), -1)
    wrong = flat(np.isnan(lower) | np.isnan(upper)).any(1)
    with np.errstate(invalid="ignore"):
        wrong |= (flat(lower - upper) > slack[:, None]).any(1)
    wrong |= flat((lower == np.inf) | (upper == -np.inf)).any(1)
    return [
        Alarm(name, int(b), f"{text}: NaN or empty, {lower[b]} {upper[b]}")
        for b in np.nonzero(wrong)[0]
    ]


def looser(name, text, cheap, found, slack):
    """Where a linear method is looser than intervals alone."""
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(cheap.lower - found.lower, found.upper - cheap.upper)
    beyond = np.asarray(beyond, float).reshape(len(beyond), -1).max(1, initial=-np.inf)
    return [
        Alarm(name, int(b), f"{text}: looser than ibp by {beyond[b]:.3g}, slack {slack[b]:.3g}")
        for b in np.nonzero(beyond > 4 * slack)[0]
    ]


def violations(name, text, found, true, defined, slack):
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(found.lower - true, true - found.upper).reshape(*true.shape[:2], -1)
    beyond = np.where(defined[..., None], beyond, -np.inf)
    alarms = []
    for b in np.nonzero((beyond > slack[:, None, None]).any((1, 2)))[0]:
        n, i = np.unravel_index(np.nanargmax(beyond[b]), beyond[b].shape)
        value = true[b, n].ravel()[i]
        what = f"{text}: element {i} violated by {beyond[b, n, i]:.3g}, slack {slack[b]:.3g}, value {value}"
        alarms.append(Alarm(name, int(b), what, float(beyond[b, n, i])))
    return alarms


def inexact(name, text, program: Program, args, results, slack):
    """Where an affine function's bounds are not its range."""
    with jax.enable_x64(True):
        batched = [None if kind == "known" else 0 for _, kind in program.inputs]
        args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), args)
        moving = [i for i, axis in enumerate(batched) if axis == 0]

        def exact(*args):
            full = [jnp.zeros(a.shape) if i in moving else a for i, a in enumerate(args)]

            def of(*xs):
                for i, x in zip(moving, xs, strict=True):
                    full[i] = x
                return program(*full)

            zeros = [full[i] for i in moving]
            offsets, coeffs = of(*zeros), jax.jacfwd(of, tuple(range(len(moving))))(*zeros)
            regions = [args[i] for i in moving]
            return [
                jb.concretize(jb.LinearBounds(c, o, c, o), *regions)
                for c, o in zip(coeffs, offsets, strict=True)
            ]

        ranges = jax.tree.map(np.asarray, jax.jit(jax.vmap(exact, batched))(*args))
    alarms = []
    for found, true in zip(results, ranges, strict=True):
        if isinstance(found, jb.LinearBounds):
            continue
        for end, want in ((found.lower, true.lower), (found.upper, true.upper)):
            with np.errstate(invalid="ignore"):
                off = (
                    np.where(np.isfinite(want), np.abs(end - want), 0).reshape(len(want), -1).max(1)
                )
            alarms += [
                Alarm(name, int(b), f"{text}: not exact, off by {off[b]:.3g}, slack {slack[b]:.3g}")
                for b in np.nonzero(~(off <= slack))[0]
            ]
    return alarms
