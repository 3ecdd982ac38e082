"""The bounds of many images by one method, and what an image costs: ours, the references', a peer's."""

import argparse
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _tightness_problems import Problem
from _timing import Timed, medians, peak_mb
from _timing import seconds as clock

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
    """`run(images, labels)` on all images, or on as many as the time allows; wall and CPU seconds by batch."""
    parts, times, total = [], [], len(p.images)
    for first in range(0, total, size):
        at = np.minimum(np.arange(first, first + size), total - 1)  # the last repeats an image
        batch = p.images[at], p.labels[at]
        times.append(clock(lambda batch=batch: parts.append(run(*batch))))
        if sum(times)[0] > seconds:
            break
    join = lambda *part: np.concatenate(part)[:total]
    return jax.tree.map(join, *parts), np.array(times)


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
    batch = p.first(size)
    return in_order(p, in_batches(p, finder(batch, key, method), len(batch.images))[0])


def finder(p: Problem, key: Any, method: Callable) -> Callable:
    """The same of other images: a function of as many, and of their labels."""
    find = functools.partial(jb.intermediate_bounds, method=method)
    _, run = program(p, ("inside", key), functools.partial(of_margins, find))
    return lambda images, labels: in_order(p, run(images, labels))


def in_order(p: Problem, found: dict[str, Any]) -> dict[str, Any]:
    """By layer, as in the network: a compiled program returns a dictionary sorted by its keys."""
    find = functools.partial(jb.intermediate_bounds, method=jb.ibp)
    names = of_margins(find, p.net.apply, p.variables, p.images[0], p.labels[0], p.eps)
    return {name: found[name] for name in names}


# ---------------------------------------------------------------- methods and what they cost


def measure(p: Problem, key: Any, method: Callable, args: argparse.Namespace):
    """Bounds, and the cost: of a batch, by the image."""
    batch = p.first(args.batch)
    timed, run = program(batch, key, functools.partial(of_margins, method))
    peak = peak_mb(run)  # a warm-up as well
    bounds, times = in_batches(p, run, len(batch.images), args.seconds)
    return bounds, {
        **per_image(run, times, batch),
        "trace_s": timed.trace_s,
        "compile_s": timed.compile_s,
        "memory_mb": timed.memory / 1e6,
        "peak_mb": peak,
    }


def per_image(run: Callable, times: np.ndarray, batch: Problem) -> dict[str, float]:
    """Milliseconds by the wall and of all threads: the median of batches, or of a few more if these were brief."""
    median = np.median(times, 0) if times[:, 0].sum() > 0.5 else medians(run, budget=0.5)[0]
    return named(1e3 * median / len(batch.images))


def named(milliseconds: np.ndarray) -> dict[str, float]:
    return dict(zip(("ms", "cpu_ms"), milliseconds.tolist(), strict=True))


def solve(p: Problem, method: Callable, known: dict[str, jb.Interval], seconds: float):
    """A reference's bounds, one image after another, on intermediate bounds that are known."""
    known = {name: rounded(box) for name, box in known.items()}
    found, times = [], []

    def run(i):
        bound = functools.partial(method, intermediates=jax.tree.map(lambda end: end[i], known))
        image = p.images[i], p.labels[i], p.eps
        found.append(of_margins(bound, p.net.apply, p.variables, *image))

    def every():
        for i in range(len(p.images)):
            times.append(clock(functools.partial(run, i)))
            if sum(times)[0] > seconds:
                break

    if (peak := peak_mb(every)) is None:
        every()
    cost = named(1e3 * np.median(times, 0)) | {"peak_mb": peak}
    return jax.tree.map(lambda *ends: np.stack(ends), *found), cost


def rounded(box: jb.Interval) -> jb.Interval:
    """Wider by what float32 may have lost: a solver takes ends at their word."""
    slack = 1e-6 * np.maximum(np.abs(box.lower), np.abs(box.upper))
    return jb.Interval(box.lower - slack, box.upper + slack)


def beside(p: Problem, peer: ModuleType, asked: tuple[str, Any], args: argparse.Namespace):
    """The peer's bounds of the same images, and its cost; the reason, where there are none."""
    batch = p.first(args.batch)
    try:
        with peer.at_most(args.memory_limit):
            other = peer.Peer(batch)
            bound = functools.partial(getattr(other, asked[0]), asked[1])

            times = []

            def run(images, labels):
                other.look(images, labels, p.eps)
                ends = []
                times.append(clock(lambda: ends.extend(bound())))
                return jb.Interval(*ends)

            peak = peak_mb(bound)
            bounds, _ = in_batches(p, run, len(batch.images), args.seconds)
            cost = per_image(bound, np.array(times), batch) | {"peak_mb": peak}
            return bounds, {f"peer_{name}": value for name, value in cost.items()}
    except (MemoryError, RuntimeError, ValueError) as error:
        return None, {"peer_left_out": str(error).strip().splitlines()[0]}
