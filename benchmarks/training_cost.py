"""What does a step of training cost? Time, operations and memory, in plain training steps and plain forward passes.

    python benchmarks/training_cost.py [--networks dm_small dm_large cnn7_bn] [--batch 16] [--methods "IBP, kappa 0"]

One step is the gradient of the mean loss over a batch of images of random pixels, an Adam update and, with BatchNorm,
the clean pass that its statistics come from; compiled, with its state donated. All steps of a network and its plain
forward pass are timed in turns, as in `speed.py`. Prints a Markdown table per network; writes `training_cost.json`.
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from _problem import NETWORKS, Problem, apply, problem
from _timing import Step, Timed, machine, medians, peak_mb, write

import jaxbound as jb
from jaxbound import networks, training

EPS = 0.01
SETTINGS = {name: NETWORKS[name]._replace(eps=EPS) for name in ("dm_small", "dm_large", "cnn7_bn")}
SETTINGS["dm_small"] = SETTINGS["dm_small"]._replace(shape=(28, 28, 1))
BATCHES = {"dm_small": 64}  # 16 of the others
PLAIN, FORWARD = "plain", "forward"
OPTIMISER = optax.chain(optax.adam(1e-5), networks.project_ramps())


class Method(NamedTuple):
    """The loss of one example, `(fn, x, label) -> loss`; and whether the network is one of ParamRamps."""

    loss: Callable | None
    ramp: bool = False


def of_box(loss: Callable, ramp: bool = False, **options) -> Method:
    def one(fn, x, y):
        return loss(fn, x, y, jb.linf_ball(x, EPS, clip=(0, 1)), **options)[0]

    return Method(one, ramp)


def single_prop(relaxation: str) -> Method:
    return Method(lambda *call: training.single_prop_loss(*call, EPS, relaxation=relaxation)[0])


def attacked(fn, x, y, box):
    return training.adversarial_loss(fn, x, y, box, jax.random.key(0), steps=7)


METHODS = {
    PLAIN: Method(None),
    "PGD-7": of_box(attacked),
    "SingleProp, constant": single_prop("constant"),
    "SingleProp, parallel": single_prop("parallel"),
    "IBP, kappa 0": of_box(training.ibp_loss, kappa=0.0),
    "IBP, kappa .5": of_box(training.ibp_loss, kappa=0.5),
    "IBP, kappa .5, ParamRamp": of_box(training.ibp_loss, ramp=True, kappa=0.5),
    "CROWN-IBP": of_box(training.crown_ibp_loss, beta=1.0),
    "CROWN-IBP, ParamRamp": of_box(training.crown_ibp_loss, ramp=True, beta=1.0),
    "CROWN-IBP, fused": of_box(training.fused_crown_ibp_loss, beta=1.0),
}


def mean_loss(method: Method, given: Problem, params) -> tuple[jax.Array, dict]:
    """The mean loss of the batch, and the variables with the running averages moved on."""
    clean = networks.clean_pass(given.model, given.variables | {"params": params}, given.images)
    if method.loss is None:
        each = optax.softmax_cross_entropy_with_integer_labels(clean.logits, given.labels)
    else:
        fn = functools.partial(apply, given.model, clean.frozen)
        each = jax.vmap(functools.partial(method.loss, fn))(given.images, given.labels)
    return each.mean(), clean.running


def step_of(method: Method, given: Problem) -> Callable:
    """One step of training, `((variables, optimiser's state), images, labels) -> (the next, loss)`."""

    def step(state, images, labels):
        variables, opt = state
        at = given._replace(variables=variables, images=images, labels=labels)
        loss = functools.partial(mean_loss, method, at)
        (value, running), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt = OPTIMISER.update(grads, opt, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return (running | {"params": params}, opt), value

    return step


def with_ramps(given: Problem, name: str) -> Problem:
    """The same network of ParamRamps with finite kinks."""
    setting = SETTINGS[name]
    setting = setting._replace(model=setting.model.clone(activation=networks.ramp))
    new = problem(setting, len(given.images))
    variables = networks.set_ramps(new.model, new.variables, [given.images])
    return new._replace(variables=variables, labels=given.labels)


def compiled(name: str, batch: int, chosen: Iterable[str]) -> dict[str, Timed]:
    """The plain forward pass, and every chosen step on the same images."""
    relu = problem(SETTINGS[name], batch)
    runs = {FORWARD: relu.plain()}
    problems = {False: relu, True: with_ramps(relu, name)}
    # Donated, so copies; one for all methods, as with Adam's moments it can be most of the memory.
    states = {ramp: [initial_state(given)] for ramp, given in problems.items()}
    for key in chosen:
        method = METHODS[key]
        given, state = problems[method.ramp], states[method.ramp]
        runs[key] = Step(step_of(method, given), state, given.images, given.labels)
    return runs


def initial_state(given: Problem) -> tuple:
    variables = jax.tree.map(jnp.copy, given.variables)
    return variables, OPTIMISER.init(variables["params"])


def measure(runs: dict[str, Timed], budget: float) -> Iterator[dict]:
    """A record per run: times in turns, operations, memory, and all but the latter in units of the plain ones."""
    times = 1e3 * medians(*runs.values(), budget=budget)
    costs = {
        key: {"ms": wall, "cpu_ms": cpu, "flops": run.flops}
        for (key, run), (wall, cpu) in zip(runs.items(), times, strict=True)
    }
    for key, run in runs.items():
        ratios = {
            f"{unit}_{cost}_ratio": costs[key][cost] / costs[unit][cost]
            for unit in (PLAIN, FORWARD)
            for cost in costs[key]
        }
        compile_times = {"trace_s": run.trace_s, "compile_s": run.compile_s}
        memory = {"memory_mb": run.memory / 1e6, "peak_mb": peak_mb(run)}
        yield {"method": key} | costs[key] | ratios | compile_times | memory


COLUMNS = (
    "step",
    "in plain steps",
    "its operations",
    "in plain forward passes",
    "its operations",
    "memory, peak (MB)",
    "trace, compile (s)",
)


def header(name: str, batch: int, plain: dict, forward: dict) -> str:
    costs = (
        f"a plain {key} {of['ms']:.1f} ({of['cpu_ms']:.1f}) ms, {of['flops'] / 1e9:.2f} G operations"
        for key, of in (("forward pass", forward), ("step", plain))
    )
    return "\n".join(
        [f"\n`{name}`, batch {batch}: {'; '.join(costs)}\n", row(*COLUMNS), "|---" * 7 + "|"]
    )


def line(record: dict) -> str:
    """A row of the table."""
    peak = "-" if record["peak_mb"] is None else f"{record['peak_mb']:.0f}"
    return row(
        record["method"],
        *multiples(record, PLAIN),
        *multiples(record, FORWARD),
        f"{record['memory_mb']:.0f}, {peak}",
        f"{record['trace_s']:.1f}, {record['compile_s']:.1f}",
    )


def multiples(record: dict, unit: str) -> tuple[str, str]:
    """Of the time by the wall clock (in CPU time), and of the operations."""
    wall, cpu, flops = (record[f"{unit}_{cost}_ratio"] for cost in ("ms", "cpu_ms", "flops"))
    return f"{wall:.1f} ({cpu:.1f})", f"{flops:.1f}"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, help="default: 64 of dm_small, 16 of the others")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of timing a network")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    report = {"machine": machine(), "jax": jax.__version__, "eps": EPS, "steps": []}
    chosen = dict.fromkeys([PLAIN, *args.methods])  # the unit of all others
    for name in args.networks:
        batch = args.batch or BATCHES.get(name, 16)
        forward, plain, *others = measure(compiled(name, batch, chosen), args.budget)
        print(header(name, batch, plain, forward))
        print(*map(line, [plain, *others]), sep="\n", flush=True)
        records = [forward, plain, *others]
        report["steps"] += [{"network": name, "batch": batch} | record for record in records]
        write(report, args.out / "training_cost.json")


if __name__ == "__main__":
    main()
