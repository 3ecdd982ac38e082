"""Regions of the inputs, and points in them: samples, corners and ascents towards the extremes."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from oracle import corners

import jaxbound as jb
from random_programs.program import Draw, Program

KINKS = (-6.0, -3.0, -1.0, -0.5, -0.125, 0.0, 0.0, 0.5, 1.0, 3.0, 6.0)
RADII = {
    "degenerate": (0, 0),
    "tiny": (-6, -5),
    "small": (-2, -1),
    "moderate": (-1, 0),
    "wide": (0, 1),
    "large": (1, 3),
    "huge": (3, 6),
    "vast": (8, 36),  # these two: of centres as far out, or as near to 0
    "minute": (-36, -8),
}
FAR = 1e6  # where points lie if an end is infinite
BOXES = (*RADII, "moderate", "wide", "kinks", "kinks", "one-sided", "fixed", "half-line")


def draw_box(d: Draw, shape, kind: str):
    """Ends that are numbers of float32."""
    center = d.rng.normal(size=shape) * d.among((0.3, 1.0, 3.0))
    low, high = RADII.get(kind, (-1, 1))
    if kind in ("vast", "minute"):
        center = center * 10 ** d.rng.uniform(low, high, shape)
    radius = 10 ** d.rng.uniform(low, high, shape) * (kind != "degenerate")
    lower, upper = center - radius * d.rng.uniform(size=shape), center + radius
    if kind == "one-sided":
        lower, upper = d.among(((0 * lower, radius), (-radius, 0 * upper)))
    if kind == "kinks":
        lower, upper = np.sort(d.rng.choice(KINKS, (2, *shape)), axis=0)
    if kind == "fixed" or (kind in RADII and d.chance(0.2)):
        fixed = d.rng.uniform(size=shape) < 0.5
        lower, upper = np.where(fixed, center, lower), np.where(fixed, center, upper)
    if kind == "half-line":
        lower, upper = d.among(((lower, np.inf + upper), (-np.inf + lower, upper)))
    lower, upper = np.asarray(lower, np.float32), np.asarray(upper, np.float32)
    return np.minimum(lower, upper), np.maximum(lower, upper)


def draw_regions(d: Draw, program: Program):
    """Per input a known array, or a region with a leading axis for every kind of box."""
    kinds = BOXES if d.chance(0.3) else BOXES[:-1]
    args = []
    for shape, p in program.inputs:
        boxes = [draw_box(d, shape, kind) for kind in kinds]
        lower, upper = (np.stack(ends) for ends in zip(*boxes, strict=True))
        if p == "known":
            args.append(np.asarray(d.array(*shape), np.float32))
        elif p == "box":
            args.append(jb.Interval(lower, upper))
        else:
            center = np.nan_to_num(lower, neginf=-1.0)
            radius = [10 ** d.rng.uniform(*RADII.get(k, (-1, 1))) for k in kinds]
            radius = np.where(np.array(kinds) == "degenerate", 0, radius).astype(np.float32)
            clip = draw_clip(d, center) if d.chance(0.3) else None
            args.append(jb.LpBall(center, radius, p, clip))
    return args


def draw_clip(d: Draw, center):
    """A box around the centres, some at its ends, some elements fixed, some without an end."""
    ends = []
    for sign in (-1, 1):
        away = 10 ** d.rng.uniform(-1, 1, center.shape) * (d.rng.uniform(size=center.shape) < 0.8)
        away = np.where(d.rng.uniform(size=center.shape) < 0.1, np.inf, away)
        ends.append(np.asarray(center + sign * away, np.float32))
    return jb.Interval(np.minimum(ends[0], center), np.maximum(ends[1], center))


def near(args):
    """The same regions with numbers far out in place of infinite ends."""

    def nearer(region):
        if not isinstance(region, jb.Interval):
            return region
        xp = jnp if isinstance(region.lower, jax.Array) else np
        ends = region.lower, region.upper
        finite = [xp.where(xp.isinf(end), 0, end) for end in ends]
        far = FAR + 2 * sum(map(abs, finite))
        return jb.Interval(*(xp.where(xp.isinf(end), xp.sign(end) * far, end) for end in ends))

    return jax.tree.map(nearer, args, is_leaf=lambda x: isinstance(x, jb.Interval))


def clipped(points, clip: jb.Interval | None, xp=np):
    """Moves towards the centre only: what was in the ball stays there."""
    return points if clip is None else xp.clip(points, clip.lower, clip.upper)


def unit_ball(rng, size: int, count: int, p: float):
    """Points ``[count, size]`` of the ball around 0, most of them on its sphere."""
    some = rng.uniform(size=(count, size)) < rng.uniform(size=(count, 1))
    directions = np.concatenate(
        [np.eye(size), -np.eye(size), rng.normal(size=(count, size)) * some]
    )
    norms = np.linalg.norm(directions, p, axis=1, keepdims=True)
    points = directions / np.where(norms > 0, norms, 1)
    points[3::4] *= rng.uniform(size=points[3::4].shape)
    return rng.permutation(points)[:count] * (1 - 1e-12)


def draw_points(seed: int, args, count=96):
    """Points of all regions together, ``[boxes, count, *shape]`` in float64; known arrays as they are."""
    rng = np.random.default_rng(seed)
    size = sum(math.prod(a.lower.shape[1:]) for a in args if isinstance(a, jb.Interval))
    joint = corners((size,), 32) if size else np.zeros((0, 0))
    points, start = [], 0
    for arg in args:
        if isinstance(arg, jb.LpBall):
            shape = arg.center.shape[1:]
            unit = unit_ball(rng, math.prod(shape), count, arg.p).reshape(1, count, *shape)
            radius = np.asarray(arg.radius, float).reshape(-1, *[1] * (unit.ndim - 1))
            clip = jax.tree.map(lambda end: end.astype(float)[:, None], arg.clip)
            points.append(clipped(arg.center.astype(float)[:, None] + radius * unit, clip))
        elif isinstance(arg, jb.Interval):
            shape = arg.lower.shape[1:]
            parts = rng.uniform(size=(count, *shape))
            at_ends = rng.uniform(size=parts.shape) < rng.uniform(size=(count, *[1] * len(shape)))
            parts = np.where(at_ends, np.round(parts), parts)
            parts[0] = 0.5
            chosen = joint[:, start : start + math.prod(shape)].reshape(-1, *shape)
            parts[1 : 1 + len(chosen)] = chosen
            start += math.prod(shape)
            wide = near(jax.tree.map(lambda end: np.asarray(end, float)[:, None], arg))
            lower, upper = wide.lower, wide.upper
            points.append(np.clip(lower + parts * (upper - lower), lower, upper))
        else:
            points.append(arg.astype(float))
    return points


def vertex(region, slope):
    """The point of a region where the linear function of a slope is largest, or one near it."""
    if isinstance(region, jb.Interval):
        wide = near(region)
        return jnp.where(slope > 0, wide.upper, wide.lower)
    if region.p == 1:
        largest = jnp.argmax(jnp.abs(slope).ravel())
        way = nn.one_hot(largest, slope.size).reshape(slope.shape) * jnp.sign(slope)
    elif region.p == math.inf:
        way = jnp.sign(slope)
    else:
        size = jnp.abs(slope) / jnp.maximum(jnp.abs(slope).max(), 1e-300)
        way = size ** (1 / (region.p - 1)) * jnp.sign(slope)
        way = way / jnp.maximum((jnp.abs(way) ** region.p).sum() ** (1 / region.p), 1e-300)
    return clipped(region.center + region.radius * (1 - 1e-12) * way, region.clip, jnp)


def explored(program: Program, args, points, targets):
    """Values at the points of one region and on the way to the targets' extremes, and those points.

    The way of Frank and Wolfe: towards the vertex that the gradient shows, so it stays in the region.
    """
    axes = [None if kind == "known" else 0 for _, kind in program.inputs]
    moving = [i for i, axis in enumerate(axes) if axis == 0]

    def ascent(start, target, sign):
        def value(*xs):
            full = list(start)
            for i, x in zip(moving, xs, strict=True):
                full[i] = x
            return sign * jnp.concatenate([jnp.ravel(out) for out in program(*full)])[target]

        def step(xs, rate):
            slopes = jax.jacfwd(value, tuple(range(len(xs))))(*xs)
            ends = [
                vertex(args[i], jnp.nan_to_num(slope))
                for i, slope in zip(moving, slopes, strict=True)
            ]
            new = [x + rate * (end - x) for x, end in zip(xs, ends, strict=True)]
            return new, new

        return lax.scan(step, [start[i] for i in moving], jnp.array([1.0, 0.5, 0.2]))[1]

    starts = [p[:2] if axis == 0 else p for p, axis in zip(points, axes, strict=True)]
    ways = jax.vmap(jax.vmap(ascent, (None, 0, None)), (None, None, 0))
    ways = jax.vmap(ways, (axes, None, None))
    visited = ways(starts, targets, jnp.array([1.0, -1.0]))
    points = list(points)
    for i, found in zip(moving, visited, strict=True):
        points[i] = jnp.concatenate([points[i], found.reshape(-1, *points[i].shape[1:])])
    return points, jax.vmap(program.values, axes)(*points)


def truth(program: Program, args, seed: int):
    """Points ``[boxes, n, *shape]`` of all inputs and the values of all steps there, in float64."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        batched = [None if kind == "known" else 0 for _, kind in program.inputs]
        args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), args)
        points = [jnp.asarray(p) for p in draw_points(seed, args)]
        targets = jnp.asarray(rng.integers(0, 2**31, 3))
        size = sum(
            out.size
            for out in jax.eval_shape(
                program,
                *(p if b is None else p[0, 0] for p, b in zip(points, batched, strict=True)),
            )
        )
        walk = jax.vmap(functools.partial(explored, program), (batched, batched, None))
        return jax.tree.map(np.asarray, jax.jit(walk)(args, points, targets % size))
