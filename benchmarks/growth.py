"""How does the time grow? Exponents over depth, width, outputs and neurons of small convolutional nets."""

from collections.abc import Iterator

import jax
import numpy as np
from _timing import Timed, medians

import jaxbound as jb
from jaxbound import networks

METHODS = {"crown_ibp": jb.crown_ibp, "crown": jb.crown}
BASE = {"depth": 3, "width": 16, "outputs": 10, "side": 12}
SWEEPS = {
    "depth": (2, 3, 4, 6),
    "width": (8, 16, 32),
    "outputs": (10, 40, 160, 640),
    "side": (8, 12, 16, 24),
}


def programs(depth: int, width: int, outputs: int, side: int) -> list[Timed]:
    """The plain pass of one image, and the lower bounds of its logits by every method."""
    conv = networks.ConvSpec(width, 3, 1, 1)
    model = networks.ConvNet(
        (conv,) * depth, classes=outputs, kernel_init=jax.nn.initializers.he_normal()
    )
    image = jax.random.uniform(jax.random.key(0), (side, side, 3))
    variables = jax.jit(model.init)(jax.random.key(1), image[None])
    apply = lambda variables, x: model.apply(variables, x[None])[0]

    def lower(method):
        box = lambda x: jb.linf_ball(x, 0.01, clip=(0, 1))
        return lambda variables, x: method(lambda x: apply(variables, x), box(x)).lower

    fns = [apply, *map(lower, METHODS.values())]
    return [Timed(fn, variables, image) for fn in fns]


def sweeps() -> Iterator[dict]:
    """One record per sweep: sizes, milliseconds, and the slope of log time over log size."""
    for name, values in SWEEPS.items():
        points = [BASE | {name: value} for value in values]
        times = 1e3 * np.array([medians(*programs(**point), budget=2.0)[:, 0] for point in points])
        # A wider image has more neurons, and each its window as before.
        sizes = [
            p["depth"] * p["width"] * p["side"] ** 2 if name == "side" else p[name] for p in points
        ]
        of = dict(zip(["plain", *METHODS], times.T, strict=True))
        fits = {key: float(np.polyfit(np.log(sizes), np.log(ms), 1)[0]) for key, ms in of.items()}
        over = "neurons" if name == "side" else name
        text = ", ".join(f"{key} {fit:.2f}" for key, fit in fits.items())
        print(f"growth with {over} {sizes[0]} .. {sizes[-1]}: {text}", flush=True)
        yield {
            "over": over,
            "sizes": sizes,
            "ms": {key: ms.tolist() for key, ms in of.items()},
            "exponents": fits,
        }
