"""Small random networks whose least value over a box is known, as they are and with a narrow bump of relus.

The least value is found by a mixed-integer program, in float64, for the same function written in relus.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound import reference

relu = jax.nn.relu
MARGIN = (
    0.02  # by which a planted network is positive beside its bump, and negative at the top of it
)


class Network(NamedTuple):
    """A scalar function `(weights, x)`, the shapes of its weights and of x, and `fn` in relus if it has others."""

    fn: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    in_relus: Callable[..., Any] | None = None


def dense(act: Callable, residual: bool = False) -> Network:
    def fn(p, x):
        h = act(x @ p[0] + p[1])
        more = act(h @ p[2] + p[3])
        return ((h + more if residual else more) @ p[4] + p[5])[0]

    return Network(fn, ((4, 7), (7,), (7, 7), (7,), (7, 1), (1,)), (4,))


def convolution(side: int, residual: bool = False) -> Network:
    def fn(p, x):
        h = relu(convolved(x[None], p[0]))
        h = h + relu(convolved(h, p[1])) if residual else h[:, ::2, ::2]
        return (h.ravel() @ p[-2] + p[-1])[0]

    values = 2 * (side**2 if residual else ((side + 1) // 2) ** 2)
    kernels = ((3, 3, 1, 2), (3, 3, 2, 2))[: 1 + residual]
    return Network(fn, (*kernels, (values, 1), (1,)), (side, side, 1))


def convolved(x, kernel):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=names)


def max_pool() -> Network:
    """A convolution and a maximum of two by two."""

    def of(maximum):
        return lambda p, x: (maximum(relu(convolved(x[None], p[0]))).ravel() @ p[1] + p[2])[0]

    def window(h):
        sizes = (1, 2, 2, 1)
        return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, sizes, sizes, "VALID")

    def in_relus(h):
        rows = greater(h[:, ::2], h[:, 1::2])
        return greater(rows[:, :, ::2], rows[:, :, 1::2])

    return Network(of(window), ((3, 3, 1, 2), (8, 1), (1,)), (4, 4, 1), of(in_relus))


def greater(a, b):
    return a + relu(b - a)


EXACT = {
    "dense": dense(relu),
    "residual": dense(relu, residual=True),
    "leaky": dense(lambda z: jax.nn.leaky_relu(z, 0.1)),
    "ramp": dense(lambda z: jb.param_ramp(z, 1.0, 0.1)),
    "convolution": convolution(4),
    "max-pool": max_pool(),
}
PLANTED = {
    "dense": EXACT["dense"],
    "residual": EXACT["residual"],
    "convolution": EXACT["convolution"],
    "conv-residual": convolution(3, residual=True),
}


def instance(
    network: Network, rng: np.random.Generator, radii: tuple[float, ...], scaled: bool
) -> tuple[list[Any], jb.Interval]:
    """Random weights, scaled by what they sum over or not, and a box."""
    fan_in = [int(np.prod(shape[:-1])) if scaled else 1 for shape in network.shapes]
    weights = [
        (rng.normal(size=shape) / count**0.5).astype("float32")
        for shape, count in zip(network.shapes, fan_in, strict=True)
    ]
    center = rng.normal(size=network.shape).astype("float32")
    return weights, jb.linf_ball(center, float(rng.choice(radii)))


@functools.cache
def intermediates(network: Network) -> Callable[..., Any]:
    fn = network.in_relus or network.fn
    return jax.jit(lambda weights, box: jb.intermediate_bounds(fn, weights, box))


def least(network: Network, weights: list[Any], box: jb.Interval) -> float:
    """The least value over the box."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), (weights, box))
        between = intermediates(network)(*wide)
        found = reference.milp(network.in_relus or network.fn, *wide, intermediates=between)
    return found.lower.item()


def shifted(network: Network, weights, x, shift):
    return network.fn(weights, x) - shift


def with_bump(network: Network, weights, x, bump):
    """The network, raised by a shift, but for a dent around a point, as wide as a small ball of the L1 norm."""
    away = (relu(x - bump["point"]) + relu(bump["point"] - x)).sum()
    return network.fn(weights, x) - bump["shift"] - bump["height"] * relu(bump["radius"] - away)


@functools.cache
def question(network: Network, fn: Callable[..., Any]) -> Callable[..., Any]:
    """One object for each network, so that all its instances share their programs."""
    return functools.partial(fn, network)


def planted(
    network: Network, rng: np.random.Generator
) -> tuple[list[Any], jb.Interval, dict[str, Any]]:
    """Weights, a box, and the bump that makes them negative next to a point where the network itself is large."""
    weights, box = instance(network, rng, (0.5, 1.0), scaled=True)
    inner = 0.9 * rng.uniform(-1, 1, (32, *network.shape))
    lower, upper = np.asarray(box.lower), np.asarray(box.upper)
    points = ((lower + upper) / 2 + inner * (upper - lower) / 2).astype("float32")
    values = np.array([network.fn(weights, point) for point in points])
    radius = float(np.exp(rng.uniform(*np.log([0.005, 0.05]))))
    shift = least(network, weights, box) - MARGIN
    height = (values.max() - shift + MARGIN) / radius
    numbers = {"shift": shift, "height": height, "radius": radius}
    bump = {"point": points[values.argmax()]} | {k: np.float32(v) for k, v in numbers.items()}
    if not with_bump(network, weights, bump["point"], bump) < 0:
        raise RuntimeError("the planted point does not violate the property")
    return weights, box, bump


def beside(box: jb.Interval, bump: dict[str, Any]) -> jb.Interval:
    """The larger part of the box that a plane cuts off beside the bump: there the network is at least the margin."""
    lower, upper = np.array(box.lower), np.array(box.upper)
    below, above = bump["point"] - lower, upper - bump["point"]
    place = np.unravel_index(np.maximum(below, above).argmax(), lower.shape)
    away = 1.5 * bump["radius"]
    if above[place] > below[place]:
        lower[place] = bump["point"][place] + away
    else:
        upper[place] = bump["point"][place] - away
    return jb.Interval(jnp.asarray(lower), jnp.asarray(upper))
