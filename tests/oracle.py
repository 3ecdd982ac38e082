"""The oracle of the tests: a bound must contain what the function does at samples and corners.

Functions are evaluated in float64, whatever the bounds were computed in.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from interpreter import by_numpy, each_by_numpy

import jaxbound as jb
from jaxbound._bounds.regions import is_region
from jaxbound._walks.intervals import interval_walk

METHODS = (jb.ibp, jb.lbp, jb.crown_ibp, jb.crown_lbp, jb.crown)
LINEAR = METHODS[1:]
KINDS = ("adaptive", "tight", "parallel", "constant")
DTYPES = ("float32", "float64")

# The one tolerance. Rounding is proportional to what enters the sums: to the largest finite end of
# any interval in the graph, in units of the last place of the bounds' type.
ULPS = 256


def precision(dtype: str):
    """Context in which arrays of ``dtype`` keep their type, as they would for a user."""
    return jax.enable_x64(dtype == "float64")


def once(bound, /, **options):
    """A method whose program runs once."""
    return lambda fn, *args: by_numpy(functools.partial(bound, fn, **options))(*args)


def by_every(fn, *args, methods=METHODS):
    """The bounds by all methods."""
    return by_numpy(lambda *args: [method(fn, *args) for method in methods])(*args)


def by_every_of_a_batch(fn, regions, methods=METHODS):
    """The same for regions along a leading axis."""
    return each_by_numpy(lambda region: [method(fn, region) for method in methods])(regions)


def side_by_side(functions, boxes, methods):
    """Per method, the bounds of functions of a box each (two dicts), as one function: none spoils another."""
    outs = {name: jax.eval_shape(fn, boxes[name].lower) for name, fn in functions.items()}
    cuts = np.cumsum([out.size for out in outs.values()])[:-1]

    def together(xs):
        return jnp.concatenate([fn(xs[name]).ravel() for name, fn in functions.items()])

    def apart(end):
        parts = zip(outs.items(), np.split(np.asarray(end), cuts), strict=True)
        return {name: part.reshape(out.shape) for (name, out), part in parts}

    found = []
    for bounds in by_every(together, boxes, methods=methods):
        lower, upper = apart(bounds.lower), apart(bounds.upper)
        found.append({name: jb.Interval(lower[name], upper[name]) for name in outs})
    return found


def box(lower, upper, dtype="float32") -> jb.Interval:
    """An interval of NumPy arrays: they keep their type outside of `precision` too."""
    lower, upper = np.broadcast_arrays(np.asarray(lower, dtype), np.asarray(upper, dtype))
    return jb.Interval(lower, upper)


def corners(shape, limit=64) -> np.ndarray:
    """0/1 choices of an end per element, ``[n, *shape]``: all of them, or some of many."""
    size = math.prod(shape)
    if 2**size <= limit:
        flat = np.array(list(itertools.product((0.0, 1.0), repeat=size)))
    else:
        flat = np.random.default_rng(0).integers(0, 2, (limit, size)).astype(float)
        flat[:2] = [[0.0], [1.0]]
    return flat.reshape(-1, *shape)


def samples(region, count=200) -> np.ndarray:
    """Points of a region in float64, ``[n, *shape]``: corners, the centre, and random ones.

    Infinite ends are replaced by large finite ones.
    """
    rng = np.random.default_rng(1)
    if isinstance(region, jb.LpBall):
        return ball_samples(region, rng, count)
    lower, upper = (
        np.clip(np.asarray(e, np.float64), -1e6, 1e6) for e in (region.lower, region.upper)
    )
    parts = np.concatenate([corners(lower.shape), rng.uniform(size=(count, *lower.shape))])
    # Values of every element alone, for the others at an end: where kinks and turning points lie.
    return np.clip(lower + parts * (upper - lower), lower, upper)


def ball_samples(ball: jb.LpBall, rng, count) -> np.ndarray:
    """Points of the ball: mostly on its sphere, with the axes' poles among them."""
    center = np.asarray(ball.center, np.float64)
    size = center.size
    directions = rng.normal(size=(count, size)) * (
        rng.uniform(size=(count, size)) < rng.uniform(size=(count, 1))
    )
    directions = np.concatenate([np.eye(size), -np.eye(size), directions])
    norms = np.linalg.norm(directions, ball.p, axis=1, keepdims=True)
    directions = directions / np.where(norms > 0, norms, 1)
    lengths = np.where(np.arange(len(directions)) % 4, 1.0, rng.uniform(size=len(directions)))
    points = float(ball.radius) * lengths[:, None] * directions
    points = center + points.reshape(-1, *center.shape)
    # Towards the centre, no element leaves the ball.
    return points if ball.clip is None else np.clip(points, ball.clip.lower, ball.clip.upper)


def values(fn, *points):
    """``fn`` at every point (or tree of points), in float64."""
    with jax.enable_x64(True):
        points = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), points)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(fn))(*points))


def magnitude(fn, *args):
    """The largest finite end of any interval of the graph: what enters its sums. A scalar, traceable."""
    graph = jb.trace(fn, *args)
    leaves = jax.tree.leaves(args, is_leaf=is_region)
    boxes = [a.box if is_region(a) else a for a in leaves]
    env = interval_walk(graph, graph.known(dict(zip(graph.inputs, boxes, strict=True))))
    leaves = jax.tree.leaves(list(env.values()))
    floating = [jnp.ravel(end) for end in leaves if jnp.issubdtype(end.dtype, jnp.floating)]
    ends = jnp.abs(jnp.concatenate(floating))
    return jnp.max(ends, initial=1, where=jnp.isfinite(ends))


def tolerance(dtype, size: float) -> float:
    return ULPS * float(jnp.finfo(dtype).eps) * size


def assert_contains(bounds: jb.Interval, found, slack: float, what="") -> None:
    """``lower - slack <= found <= upper + slack`` for all found ``[n, *shape]``; NaN is a failure."""
    lower, upper = (np.asarray(end, np.float64) for end in (bounds.lower, bounds.upper))
    assert not np.isnan(lower).any() and not np.isnan(upper).any(), f"{what}: NaN bound"
    assert (lower <= upper + slack).all(), f"{what}: empty bound {lower} > {upper}"
    worst = max(np.max(lower - found, initial=-np.inf), np.max(found - upper, initial=-np.inf))
    assert worst <= slack, f"{what}: violated by {worst:.3g}, slack {slack:.3g}"
