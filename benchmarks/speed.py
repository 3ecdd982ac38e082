"""What do bounds cost? Compile time, steady time in plain forward passes, memory.

    python benchmarks/speed.py [--networks dm_small dm_large] [--methods ibp crown_ibp] [--batches 1 16 64]

Measures `.lower` of the nine margins of each image of a batch, on the networks of the certified-training papers at
random weights, CIFAR-10's image size. Times are medians after a warm-up; the plain forward pass is measured in turns
with the bounds, so that a ratio compares one state of the machine. Memory is what the compiled program asks for.
Programs that need more than --memory-limit, or by the smaller batch more than --time-limit a call, are left out.
"""

import argparse
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound import networks

METHODS = {"ibp": jb.ibp, "crown_ibp": jb.crown_ibp, "lbp": jb.lbp, "crown": jb.crown}
NETWORKS = {"dm_small": networks.dm_small, "dm_large": networks.dm_large}
# LBP and CROWN walk one row per pixel or neuron: slow on DM-large, so only if asked for.
DEFAULT = {"dm_small": list(METHODS), "dm_large": ["ibp", "crown_ibp"]}
SHAPE, EPS = (32, 32, 3), 2 / 255


class Timed:
    """A compiled function on its arguments, with the seconds that tracing and compiling took."""

    def __init__(self, fn: Callable, *args: Any):
        start = time.perf_counter()
        lowered = jax.jit(fn).lower(*args)
        self.trace_s = time.perf_counter() - start
        self.compiled, self.args = lowered.compile(), args
        self.compile_s = time.perf_counter() - start - self.trace_s

    @property
    def memory(self) -> int:
        """Bytes of temporaries and results while it runs."""
        analysis = self.compiled.memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    def __call__(self, repeats: int = 1) -> float:
        """Mean seconds of a few runs on end."""
        start = time.perf_counter()
        for _ in range(repeats):
            jax.block_until_ready(self.compiled(*self.args))
        return (time.perf_counter() - start) / repeats


def medians(*programs: Timed, seconds: float = 4.0, most: int = 30) -> list[float]:
    """Median seconds of each program, run in turns after a warm-up, as often as time allows."""
    first = [program() for program in programs]
    repeats = [int(np.clip(0.02 / once, 1, 20)) for once in first]  # a millisecond alone is noise
    least = 3 if sum(first) < 5 * seconds else 1
    rounds = int(np.clip(seconds / np.dot(first, repeats), least, most))
    times = [[run(n) for run, n in zip(programs, repeats, strict=True)] for _ in range(rounds)]
    return np.median(times, 0).tolist()


def network(name: str, batch: int) -> tuple[Callable, Any, jax.Array, jax.Array]:
    """A function of weights and one image, its weights, images and labels."""
    model = NETWORKS[name]()
    images = jax.random.uniform(jax.random.key(0), (batch, *SHAPE))
    variables = jax.jit(model.init)(jax.random.key(1), images[:1])
    return lambda v, x: model.apply(v, x[None])[0], variables, images, jnp.arange(batch) % 10


def margins_lower(method: Callable, apply: Callable) -> Callable:
    """Weights, images, labels -> lower bounds on the margins `[batch, 9]`."""

    def one(variables, x, y):
        fn = lambda x: jb.margins(apply(variables, x), y)
        return method(fn, jb.linf_ball(x, EPS, clip=(0, 1))).lower

    return jax.vmap(one, (None, 0, 0))


def measure(name: str, method: str, batch: int, limits: argparse.Namespace, guess: float) -> dict:
    """One line of the table; `guess` is what a call may take, by the batch before."""
    record = {"network": name, "method": method, "batch": batch}
    if guess > limits.time_limit:
        return record | {"left_out": f"about {guess:.0f} s a call"}
    apply, variables, images, labels = network(name, batch)
    plain = Timed(jax.vmap(apply, (None, 0)), variables, images)
    bound = Timed(margins_lower(METHODS[method], apply), variables, images, labels)
    record |= {
        "trace_s": bound.trace_s,
        "compile_s": bound.compile_s,
        "memory_mb": bound.memory / 1e6,
        "plain_memory_mb": plain.memory / 1e6,
    }
    if bound.memory > 1e9 * limits.memory_limit:
        return record | {"left_out": f"{bound.memory / 1e9:.0f} GB"}
    plain_s, bound_s = medians(plain, bound)
    return record | {
        "plain_ms": 1e3 * plain_s,
        "bound_ms": 1e3 * bound_s,
        "ratio": bound_s / plain_s,
    }


def line(record: dict) -> str:
    text = f"{record['network']:9s} {record['method']:10s} {record['batch']:3d}  "
    if "trace_s" in record:
        text += (
            f"trace {record['trace_s']:5.1f} s  compile {record['compile_s']:5.1f} s  "
            f"memory {record['memory_mb']:8.1f} MB (plain {record['plain_memory_mb']:.1f})  "
        )
    if "left_out" in record:
        return text + f"left out: {record['left_out']}"
    return text + (
        f"{record['bound_ms']:9.2f} ms  plain {record['plain_ms']:7.2f} ms  "
        f"ratio {record['ratio']:7.1f}"
    )


def all_methods(limits: argparse.Namespace):
    for name in limits.networks:
        for method in limits.methods or DEFAULT[name]:
            per_image = 0.0
            for batch in limits.batches:
                record = measure(name, method, batch, limits, per_image * batch)
                print(line(record), flush=True)
                yield record
                if "left_out" in record:
                    break
                per_image = record["bound_ms"] / 1e3 / batch


def convolution_rows(batch: int = 2, n_rows: int = 800, chunk: int = 32) -> dict:
    """The second layer of DM-small walked back: rows in a loop, at once, and the kernel's gradient.

    On CPU, what JAX derives for a transposed convolution can leave XLA's fast path inside a loop and in its kernel
    gradient; these three should be of one order.
    """
    key = jax.random.key(0)
    kernel = 0.1 * jax.random.normal(key, (4, 4, 16, 32))
    boxes = jb.linf_ball(jax.random.uniform(key, (batch, 13, 13, 16)), 0.1)

    def convolve(kernel, x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", dimension_numbers=layout)
        return jax.nn.relu(y).reshape(-1)[:n_rows]

    def total(kernel, boxes, chunk_size):
        method = functools.partial(jb.crown_ibp, chunk_size=chunk_size)
        bounds = jax.vmap(lambda box: jb.linear_bounds(convolve, kernel, box, method=method))(boxes)
        return (bounds.lower_coeffs[0] ** 2).sum()

    programs = {
        "in a loop": Timed(functools.partial(total, chunk_size=chunk), kernel, boxes),
        "at once": Timed(functools.partial(total, chunk_size=n_rows), kernel, boxes),
        "gradient": Timed(jax.grad(functools.partial(total, chunk_size=n_rows)), kernel, boxes),
    }
    seconds = medians(*programs.values())
    times = {name: 1e3 * value for name, value in zip(programs, seconds, strict=True)}
    print("convolution rows: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in times.items()))
    return {"rows": batch * n_rows, "chunk": chunk, "ms": times}


def machine() -> str:
    """The kind of machine, not its name."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{os.cpu_count()}-core {platform.machine()} CPU"
    return device.device_kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--memory-limit", type=float, default=8.0, help="GB")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds a call")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    limits = parser.parse_args()

    print(f"{machine()}, JAX {jax.__version__}", flush=True)
    report = {"machine": machine(), "jax": jax.__version__, "convolution_rows": convolution_rows()}
    report["methods"] = list(all_methods(limits))
    limits.out.mkdir(parents=True, exist_ok=True)
    (limits.out / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {limits.out}/speed.json")


if __name__ == "__main__":
    main()
