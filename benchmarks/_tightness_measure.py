"""The bounds of many images by one method, and what an image costs: ours, the references', a peer's."""

import argparse
import functools
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _tightness_problems import Problem
from _timing import Timed, medians, peak_mb

import jaxbound as jb
from jaxbound import training

PROGRAMS: dict[Any, Timed] = {}


def program(p: Problem, key: Any, one: Callable) -> tuple[Timed, Callable]:
    """`one(apply, variables, image, label, eps)` of a batch, compiled once for all weights of a network."""
    eps, key = jnp.float32(p.eps), (p.net, key, p.images.shape)
    if key not in PROGRAMS:
        batch = jax.vmap(functools.partial(one, p.net.apply), (None, 0, 0, None))
        PROGRAMS[key] = Timed(batch, p.variables, p.images, p.labels, eps)
    compiled = PROGRAMS[key].compiled

    def run(images=p.images, labels=p.labels):
        return jax.block_until_ready(compiled(p.variables, images, labels, eps))

    return PROGRAMS[key], run


def in_batches(p: Problem, run: Callable, size: int, seconds: float = np.inf) -> Any:
    """`run(images, labels)` on all images, or on as many as the time allows, and the seconds of every batch."""
    parts, times, total = [], [], len(p.images)
    for first in range(0, total, size):
        at = np.minimum(np.arange(first, first + size), total - 1)  # the last repeats an image
        start = time.perf_counter()
        parts.append(jax.tree.map(np.asarray, run(p.images[at], p.labels[at])))
        times.append(time.perf_counter() - start)
        if sum(times) > seconds:
            break
    return jax.tree.map(lambda *part: np.concatenate(part)[:total], *parts), times


# ---------------------------------------------------------------- what is computed of an image


def of_margins(method: Callable, apply: Callable, variables, x, y, eps) -> Any:
    return method(lambda x: jb.margins(apply(variables, x), y), jb.linf_ball(x, eps, clip=(0, 1)))


def attacked(steps: int, apply: Callable, variables, x, y, eps) -> jax.Array:
    """The least value that gradient descent meets on every margin alone `[K-1]`."""
    box = jb.linf_ball(x, eps, clip=(0, 1))

    def least(other):
        pair = lambda x: apply(variables, x)[jnp.stack([y, other])]
        return training.pgd(pair, box, jnp.array(0), jax.random.key(0), steps=steps).margins[0]

    others = jnp.arange(jax.eval_shape(apply, variables, x).size - 1)
    return jax.vmap(least)(others + (others >= y))


def inside(p: Problem, key: Any, method: Callable, size: int) -> dict[str, jb.Interval]:
    """The intervals before every activation, of all images."""
    find = functools.partial(jb.intermediate_bounds, method=method)
    batch = p.first(size)
    _, run = program(batch, ("inside", key), functools.partial(of_margins, find))
    return in_batches(p, run, len(batch.images))[0]


# ---------------------------------------------------------------- methods and what they cost


def measure(p: Problem, key: Any, method: Callable, args: argparse.Namespace):
    """Bounds, and the cost: of a batch, by the image."""
    batch = p.first(args.batch)
    timed, run = program(batch, key, functools.partial(of_margins, method))
    peak = peak_mb(run)  # a warm-up as well
    bounds, times = in_batches(p, run, len(batch.images), args.seconds)
    return bounds, {
        "ms": per_image(run, times, batch),
        "trace_s": timed.trace_s,
        "compile_s": timed.compile_s,
        "memory_mb": timed.memory / 1e6,
        "peak_mb": peak,
    }


def per_image(run: Callable, times: list[float], batch: Problem) -> float:
    """Milliseconds, the median of batches; of a few more where they were too brief."""
    seconds = np.median(times) if sum(times) > 0.5 else medians(run, budget=0.5)[0, 0]
    return 1e3 * float(seconds) / len(batch.images)


def solve(p: Problem, method: Callable, known: dict[str, jb.Interval], seconds: float):
    """A reference's bounds, one image after another, on intermediate bounds that are known."""
    found, start = [], time.perf_counter()

    def run():
        for i in range(len(p.images)):
            boxes = jax.tree.map(lambda end, i=i: end[i], known)
            bound = functools.partial(method, intermediates=boxes)
            image = p.images[i], p.labels[i], p.eps
            found.append(of_margins(bound, p.net.apply, p.variables, *image))
            if time.perf_counter() - start > seconds:
                break

    if (peak := peak_mb(run)) is None:
        run()
    ms = 1e3 * (time.perf_counter() - start) / len(found)
    return jax.tree.map(lambda *ends: np.stack(ends), *found), {"ms": ms, "peak_mb": peak}


def beside(p: Problem, peer: ModuleType, method: Callable, args: argparse.Namespace):
    """The peer's bounds of the same images, and its cost; the reason, where there are none."""
    batch = p.first(args.batch)
    try:
        with peer.at_most(args.memory_limit):
            other = peer.Peer(batch)
            bound = functools.partial(other.bounds, peer.METHODS[getattr(method, "func", method)])

            def run(images, labels):
                other.look(images, labels, p.eps)
                return jb.Interval(*bound())

            peak = peak_mb(bound)
            bounds, times = in_batches(p, run, len(batch.images), args.seconds)
            return bounds, {"peer_ms": per_image(bound, times, batch), "peer_peak_mb": peak}
    except (MemoryError, RuntimeError, ValueError) as error:
        return None, {"peer_left_out": str(error).strip().splitlines()[0]}
