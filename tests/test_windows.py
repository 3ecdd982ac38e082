# ruff: noqa: E501 -- a network is one line
"""Windows and capacities save work: the same bounds by small windows, sound ones by fewer rows."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from oracle import assert_contains, once, precision, samples, values

import jaxbound as jb
from jaxbound._locality.reach import cone
from jaxbound._walks import columns, rows
from jaxbound._walks.operands import relaxed_operands

IMAGE = (12, 12, 2)


def conv(features, size, **options):
    return nn.Conv(features, (size, size), bias_init=nn.initializers.normal(0.2), **options)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(2, 3)(x))
        y = nn.relu(nn.BatchNorm(use_running_average=True)(conv(2, 3)(x)))
        return conv(2, 3)(nn.relu(x + conv(2, 3)(y)))


class Shortcut(nn.Module):
    """A strided sum: both summands of one stride."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(2, 3, strides=2)(x))
        y = conv(2, 1, strides=2)(x) + conv(2, 3, strides=2)(nn.relu(conv(2, 3)(x)))
        return nn.relu(y)


NETWORKS = {  # name: (network of an image, how many operands read windows)
    "padding": (nn.Sequential([conv(2, 3), nn.relu, conv(3, 3), nn.relu]), 2),
    "stride": (nn.Sequential([conv(2, 4, strides=2, padding="VALID"), nn.tanh, conv(2, 3), nn.relu]), 2),
    "dilation": (nn.Sequential([conv(2, 2, kernel_dilation=2), nn.relu, conv(2, 2, kernel_dilation=(1, 3), strides=(1, 2)), nn.silu]), 2),
    "groups": (nn.Sequential([conv(4, 3, feature_group_count=2), nn.relu, conv(4, 2, feature_group_count=4), nn.relu]), 2),
    "crop": (nn.Sequential([conv(2, 3, padding=[(-1, 2), (0, -2)]), nn.relu, conv(1, 3, padding=[(2, 0), (0, 3)]), nn.relu]), 2),
    "average": (nn.Sequential([conv(2, 3), nn.relu, lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME"), nn.relu]), 2),
    "counted average": (nn.Sequential([conv(2, 3), nn.relu, lambda x: nn.avg_pool(x, (3, 2), (1, 1), "SAME", count_include_pad=False), nn.relu]), 2),
    "maximum": (nn.Sequential([conv(2, 3), nn.tanh, lambda x: nn.max_pool(x, (2, 2), (2, 2)), conv(2, 3), nn.relu]), 3),
    "padded maximum": (nn.Sequential([conv(2, 3), nn.tanh, lambda x: nn.max_pool(x, (2, 2), (1, 1), "SAME"), conv(2, 3), nn.relu]), 2),
    "dense": (nn.Sequential([conv(2, 3), nn.relu, nn.Dense(3), nn.relu, conv(2, 3), nn.gelu]), 3),
    "shapes": (nn.Sequential([conv(2, 3), nn.relu, lambda x: jnp.concatenate([x, 2 * x, jnp.ones_like(x)], -1), lambda x: x.transpose(1, 0, 2)[None, :, None], lambda x: x[0, :, 0], conv(2, 3), nn.relu]), 2),
    "clip": (nn.Sequential([conv(2, 3), lambda x: jb.param_ramp(x, jnp.arange(2.0), 0.1), conv(2, 3), lambda x: jnp.clip(x, -0.2, 0.3), conv(2, 2), lambda x: jnp.where(x > 0, x, 0.2 * x)]), 3),
    "whole rows": (nn.Sequential([conv(2, 3), nn.relu, lambda x: x + x.mean((0, 1), keepdims=True), conv(2, 3), nn.relu]), 1),
    "residual": (Residual(), 3),
    "shortcut": (Shortcut(), 2),
}  # fmt: skip


@functools.cache
def network(name):
    model, count = NETWORKS[name]
    variables = model.init(jax.random.key(1), jnp.zeros(IMAGE))
    variables = jax.tree.map(lambda w: np.asarray(w, np.float64), variables)
    return lambda x: model.apply(variables, (x - 0.4) / 0.3), count


def whole(monkeypatch):
    monkeypatch.setattr(rows, "crop", lambda graph, var: None)


def image(radius=0.05):
    return jb.linf_ball(np.random.default_rng(0).uniform(size=IMAGE), radius)


REGIONS = {
    "box": image,
    "l2 ball": lambda: jb.LpBall(image().center, 0.3, 2),
    "l1 ball in a box": lambda: jb.lp_ball(image().center, 0.5, 1, clip=(0.0, 1.0)),
}


@pytest.mark.parametrize(
    ("name", "region"),
    [*((n, "box") for n in NETWORKS if n != "average"), ("stride", "l1 ball in a box")],
)
def test_windows_give_the_same_bounds(name, region, monkeypatch):
    with precision("float64"):
        (fn, _), box = network(name), REGIONS[region]()
        by_window = once(jb.intermediate_bounds, method=jb.crown)(fn, box)
        whole(monkeypatch)
        by_row = once(jb.intermediate_bounds, method=jb.crown)(fn, box)
    assert by_window.keys() == by_row.keys()
    for key in by_row:
        np.testing.assert_allclose(by_window[key].lower, by_row[key].lower, atol=1e-12)
        np.testing.assert_allclose(by_window[key].upper, by_row[key].upper, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_windows_are_found(name):
    fn, count = network(name)
    graph = jb.trace(fn, image())
    assert sum(rows.crop(graph, var) is not None for var in relaxed_operands(graph)) == count


@pytest.mark.parametrize(
    ("name", "region"),
    [*((n, "box") for n in ("stride", "maximum", "dense")), ("residual", "l2 ball")],
)  # fmt: skip
def test_blocks_of_pixels_give_the_same_forward_bounds(name, region, monkeypatch):
    """By the windows that they reach, and by all pixels at once."""
    with precision("float64"):
        (fn, _), box = network(name), REGIONS[region]()
        reached = []
        monkeypatch.setattr(
            columns, "cone", lambda *where: reached.append(cone(*where)) or reached[-1]
        )
        by_block = once(jb.linear_bounds, method=jb.lbp)(fn, box)
        monkeypatch.setattr(columns, "cone", lambda *where: None)
        at_once = once(jb.linear_bounds, method=jb.lbp)(fn, box)
    assert any(found is not None for found in reached)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), by_block, at_once)


@pytest.mark.parametrize(("fn", "found"), [
    (lambda x: jax.nn.relu(x.reshape(-1) @ jnp.ones((x.size, 3))), False),
    (lambda x: jax.nn.relu(x + x.mean()), False),
    (lambda x: jax.nn.relu(x.sum((1, 2))), True),  # rows of the image
    (lambda x: jax.nn.relu(nn.avg_pool(x, (2, 2), (2, 2))).sum(), True),
])  # fmt: skip
def test_where_pixels_reach_little(fn, found):
    graph = jb.trace(fn, image())
    (output,) = graph.outputs
    assert (cone(graph, output) is not None) == found


def test_blocks_of_pixels_beside_known_arguments():
    weights = np.ones((3, 3, 2, 2), "f")
    kernel = lambda x, w: jax.lax.conv(
        x.transpose(2, 0, 1)[None], w.transpose(3, 2, 0, 1), (1, 1), "SAME"
    )
    fn = lambda w, x: jax.nn.relu(kernel(x, w))
    graph = jb.trace(fn, weights, image())
    assert cone(graph, graph.outputs[0]) is not None
    whole_numbers = lambda x: kernel(x, weights).astype(int).astype("f") + kernel(x, weights)
    graph = jb.trace(whole_numbers, image())
    assert cone(graph, graph.outputs[0]) is None


@pytest.mark.parametrize("options", [{"chunk_size": 7}, {"chunk_size": 10_000}])
def test_windows_in_chunks(options):
    fn, _ = network("padding")
    full = once(jb.crown)(fn, image())
    part = once(jb.crown, **options)(fn, image())
    np.testing.assert_allclose(full.lower, part.lower, atol=1e-5)
    np.testing.assert_allclose(full.upper, part.upper, atol=1e-5)


@pytest.mark.parametrize("name", ["stride"])
def test_gradients_go_through_windows(name, monkeypatch):
    """Of a batch, too."""
    model, _ = NETWORKS[name]
    with precision("float64"):
        variables = model.init(jax.random.key(1), jnp.zeros(IMAGE))
        variables = jax.tree.map(lambda w: w.astype(float), variables)
        images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, *IMAGE)))

        def loss(variables, images):
            found = jax.vmap(
                lambda x: jb.crown(lambda z: model.apply(variables, z), jb.linf_ball(x, 0.05))
            )(images)
            return (found.upper - found.lower).sum()

        found = by_numpy(jax.grad(loss, (0, 1)))(variables, images)
        whole(monkeypatch)
        want = by_numpy(jax.grad(lambda *args: loss(*args), (0, 1)))(variables, images)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, want)


# ---------------------------------------------------------------- capacities


def test_undecided_are_those_of_unknown_sign():
    fn, _ = network("padding")
    box = image()
    counts = once(jb.undecided, method=jb.crown)(fn, box)
    known = once(jb.intermediate_bounds, method=jb.ibp)(fn, box)
    name = list(known)[1]
    assert list(counts) == [name]
    assert counts[name] == ((known[name].lower < 0) & (known[name].upper > 0)).sum()


def test_undecided_of_smooth_functions_are_all():
    fn, _ = network("stride")
    counts = once(jb.undecided)(lambda x: jnp.tanh(fn(x) @ jnp.ones((2, 1))), image())
    assert 25 in counts.values()


def test_enough_capacity_changes_nothing():
    """With lines that nest: else a walk back may find less than an interval that decides."""
    with precision("float64"):
        (fn, _), box = network("padding"), image()
        tight = functools.partial(jb.crown, relaxation="tight")
        counts = once(jb.undecided, method=tight)(fn, box)
        found = once(tight, capacity=jb.capacities(counts))(fn, box)
        full = once(tight)(fn, box)
    np.testing.assert_allclose(found.lower, full.lower, atol=1e-12)
    np.testing.assert_allclose(found.upper, full.upper, atol=1e-12)


@pytest.mark.parametrize(("name", "capacity"), [("padding", 1), ("padding", 50)])
def test_too_little_capacity_is_sound(name, capacity):
    fn, _ = network(name)
    box = image(0.2)
    found = values(fn, samples(box, 50))
    assert_contains(once(jb.crown, capacity=capacity)(fn, box), found, 1e-4)


def test_the_rest_keeps_its_interval():
    fn, _ = network("padding")
    box = image()
    method = functools.partial(jb.crown, capacity=10)
    some, known, full = (
        list(once(jb.intermediate_bounds, method=m)(fn, box).values())[1]
        for m in (method, jb.ibp, jb.crown)
    )
    walked = ~np.isclose(some.lower, known.lower, atol=1e-6)
    assert 1 <= walked.sum() <= 10
    np.testing.assert_allclose(some.lower[walked], full.lower[walked], atol=1e-5)


def test_capacity_per_example():
    fn, _ = network("padding")
    boxes = jb.linf_ball(np.random.default_rng(1).uniform(size=(3, *IMAGE)).astype("f"), 0.05)
    counts = by_numpy(jax.vmap(functools.partial(jb.undecided, fn)))(boxes)
    capacity = jb.capacities(counts)
    assert all(capacity[name] >= count.max() for name, count in counts.items())
    found = by_numpy(jax.vmap(functools.partial(jb.crown, fn, capacity=capacity)))(boxes)
    full = by_numpy(jax.vmap(functools.partial(jb.crown, fn)))(boxes)
    # The output is no looser than its interval, which the decided neurons keep.
    assert (found.lower >= full.lower - 1e-5).all() and (found.upper <= full.upper + 1e-5).all()


@pytest.mark.parametrize("capacity", [0, -3, 2.5, {"nowhere:0": 4}, {"input:0": 0}])
def test_a_wrong_capacity(capacity):
    with pytest.raises(ValueError, match="capacity"):
        jb.crown(jax.nn.relu, jb.linf_ball(jnp.zeros(3), 1.0), capacity=capacity)
