"""The same network, boxes and margins in auto_LiRPA, where it is installed: `speed.py --peer auto_lirpa`."""

import contextlib
import functools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import auto_LiRPA
import flax.linen
import jax
import numpy as np
import torch
from _problem import Problem
from torch import nn

import jaxbound as jb
from jaxbound import networks

METHODS = {jb.ibp: "IBP", jb.lbp: "forward", jb.crown_ibp: "CROWN-IBP", jb.crown: "CROWN"}
OPTIMISED = "CROWN-Optimized"  # alpha-CROWN, by default of 20 steps
ACTIVATIONS = {flax.linen.relu: nn.ReLU, flax.linen.sigmoid: nn.Sigmoid}


class Layers:
    """Makes the torch layers of a Flax network, of each kind in the order in which Flax numbers them."""

    def __init__(self, model: networks.ConvNet | networks.ResNet, variables: Any):
        self.model, self.made = model, {"Conv": 0, "BatchNorm": 0, "Dense": 0}
        self.variables = jax.tree.map(np.array, variables)
        if model.activation not in ACTIVATIONS:
            known = ", ".join(activation.__name__ for activation in ACTIVATIONS)
            raise ValueError(f"the activation has no counterpart here; expected {known}")
        self.activation = ACTIVATIONS[model.activation]

    def next(self, kind: str) -> dict[str, np.ndarray]:
        name = f"{kind}_{self.made[kind]}"
        self.made[kind] += 1
        return self.variables["params"][name] | self.variables.get("batch_stats", {}).get(name, {})

    def conv(self, stride: int, padding: int) -> nn.Module:
        layer = self.next("Conv")
        height, width, inputs, features = layer["kernel"].shape
        conv = nn.Conv2d(inputs, features, (height, width), stride, padding)
        fill(conv, weight=layer["kernel"].transpose(3, 2, 0, 1), bias=layer["bias"])
        return self.normalised(conv, nn.BatchNorm2d, features)

    def dense(self, channels: int = 1) -> nn.Linear:
        """Flax flattens an image with its channels last, torch with its channels first."""
        layer = self.next("Dense")
        inputs, features = layer["kernel"].shape
        kernel = layer["kernel"].reshape(inputs // channels, channels, features).swapaxes(0, 1)
        dense = nn.Linear(inputs, features)
        fill(dense, weight=kernel.reshape(inputs, features).T, bias=layer["bias"])
        return dense

    def normalised(self, layer: nn.Module, kind: type, features: int) -> nn.Module:
        if not self.model.batch_norm:
            return layer
        values, norm = self.next("BatchNorm"), kind(features, eps=1e-5)
        fill(norm, weight=values["scale"], bias=values["bias"])
        fill(norm, running_mean=values["mean"], running_var=values["var"])
        return nn.Sequential(layer, norm)


def fill(layer: nn.Module, **values: np.ndarray) -> None:
    for name, value in values.items():
        getattr(layer, name).data.copy_(torch.from_numpy(value))


class Block(nn.Module):
    """Two convolutions and a shortcut, in the order in which Flax makes them."""

    def __init__(self, layers: Layers, stride: int, reshapes: bool):
        super().__init__()
        self.activation = layers.activation()
        self.body = nn.Sequential(layers.conv(stride, 1), layers.activation(), layers.conv(1, 1))
        self.shortcut = layers.conv(stride, 0) if reshapes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


def convert(model: networks.ConvNet | networks.ResNet, variables: Any, channels: int) -> nn.Module:
    """The network in torch, for images with the channels first; padding in pixels."""
    layers, parts = Layers(model, variables), []
    if isinstance(model, networks.ConvNet):
        for conv in model.convs:
            padding = 0 if conv.padding == "VALID" else conv.padding
            parts += [layers.conv(conv.stride, padding), layers.activation()]
            channels = conv.features
    else:
        parts, channels = [layers.conv(1, 1), layers.activation()], model.stem
        for block in model.blocks:
            features, stride, bottleneck, groups = block
            if bottleneck or groups > 1:
                raise ValueError(
                    f"{block} has no counterpart here; expected two plain convolutions"
                )
            parts.append(Block(layers, stride, (channels, 1) != (features, stride)))
            channels = features
    parts.append(nn.Flatten())
    for width in model.dense:
        parts += [
            layers.normalised(layers.dense(channels), nn.BatchNorm1d, width),
            layers.activation(),
        ]
        channels = 1
    return nn.Sequential(*parts, layers.dense(channels)).eval().requires_grad_(False)


class Peer:
    """A batch of images in boxes, and the margins of their labels."""

    def __init__(self, given: Problem):
        allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        torch.set_num_threads(len(allowed(0)))
        x, logits = channels_first(given.images), given.plain()()
        net = convert(given.model, given.variables, given.images.shape[-1])
        if not np.allclose(net(x).numpy(), logits, rtol=1e-4, atol=1e-4):
            raise ValueError("the network in torch is another function than the one in Flax")
        self.module = auto_LiRPA.BoundedModule(net, x, bound_opts={"conv_mode": "patches"})
        self.logits = logits[0]  # any will do: margins are linear in them
        self.look(given.images, given.labels, given.eps)

    def look(self, images: jax.Array, labels: jax.Array, eps: float) -> None:
        """Takes another batch of the same size."""
        box = jb.linf_ball(images, eps, clip=(0, 1))
        x, lower, upper = (channels_first(end) for end in (images, box.lower, box.upper))
        ball = auto_LiRPA.PerturbationLpNorm(norm=np.inf, x_L=lower, x_U=upper)
        self.x, self.seen = auto_LiRPA.BoundedTensor(x, ball), (images, labels)
        margins = jax.vmap(jax.jacobian(jb.margins), (None, 0))
        self.C = torch.from_numpy(np.array(margins(self.logits, labels)))

    def lower(self, method: str) -> np.ndarray:
        """Lower bounds on the margins `[batch, 9]`."""
        with torch.no_grad():
            lower, _ = self.module.compute_bounds(
                x=(self.x,), C=self.C, method=method, bound_upper=False
            )
        return lower.numpy()

    def both(self, method: str) -> list[np.ndarray]:
        """Lower and upper bounds on the margins `[batch, 9]`."""
        with torch.no_grad():
            ends = self.module.compute_bounds(x=(self.x,), C=self.C, method=method)
        return [end.numpy() for end in ends]

    def optimised(self, find: Callable | None) -> list[np.ndarray]:
        """The same by slopes of every walk back, or of the last between what `find(images, labels)` gives."""
        given = {} if find is None else {"interm_bounds": self.named(find(*self.seen))}
        ends = self.module.compute_bounds(x=(self.x,), C=self.C, method=OPTIMISED, **given)
        return [end.detach().numpy() for end in ends]

    def named(self, found: dict[str, jb.Interval]) -> dict[str, list[torch.Tensor]]:
        """Our intermediate bounds `[batch, 1, ...]` by the names of the values here, in the same order."""
        self.both("IBP")  # makes the names
        nodes, _ = self.module.get_split_nodes()
        of_images = lambda box: [channels_first(end[:, 0]) for end in (box.lower, box.upper)]
        pairs = zip(nodes, found.values(), strict=True)
        return {node.name: of_images(box) for node, box in pairs}

    def intermediates(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The ends that the last call found before every relu, in order, with the channels last."""
        nodes, _ = self.module.get_split_nodes()
        return [(channels_last(node.lower), channels_last(node.upper)) for node in nodes]


def channels_first(values: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(np.array(values), -1, 1).copy())


def channels_last(values: torch.Tensor) -> np.ndarray:
    return np.moveaxis(values.numpy(), 1, -1)


@contextlib.contextmanager
def at_most(gigabytes: float) -> Iterator[None]:
    """Allocations beyond so much more memory than now fail, instead of ending the process; Linux only."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    pages = int(statm.read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(pages * resource.getpagesize() + 1e9 * gigabytes)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def meet(given: Problem, bounds: Callable, lower: Any, memory_limit: float, inside: bool):
    """How the peer's bounds compare with ours, and its call to be timed; the reason, where it cannot.

    Args:
      given: the network and its images.
      bounds: one of our methods.
      lower: what it found.
      memory_limit: of the peer, in GB.
      inside: whether to compare CROWN's bounds before every relu as well.
    """
    method = METHODS[getattr(bounds, "func", bounds)]
    try:
        with at_most(memory_limit):
            peer = Peer(given)
            theirs = peer.lower(method)
    except (MemoryError, RuntimeError) as error:
        return {"peer_left_out": str(error).strip().splitlines()[0]}, None
    found = {
        "mean_lower": float(lower.mean()),
        "peer_mean_lower": float(theirs.mean()),
        "verified": int((lower > 0).all(-1).sum()),
        "peer_verified": int((theirs > 0).all(-1).sum()),
    }
    if inside and method == "CROWN":
        # As a list: a compiled program returns a dictionary sorted by its keys.
        values = lambda *call: list(jb.intermediate_bounds(*call, method=bounds).values())
        found |= widths(given.of_margins(values)(), peer.intermediates())
    return found, functools.partial(peer.lower, method)


def widths(ours: list[jb.Interval], theirs: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Of all elements before a relu: by how much of the peer's interval ours goes beyond it, at most.

    The peer walks back from elements of unknown sign only; elsewhere plain intervals are compared.
    """
    assert [box.lower.size for box in ours] == [low.size for low, _ in theirs], "other relus"
    flat = lambda ends: np.concatenate([np.ravel(end) for end in ends])
    lower, upper = flat(box.lower for box in ours), flat(box.upper for box in ours)
    low, high = map(flat, zip(*theirs, strict=True))
    width, unknown = high - low, (low < 0) & (high > 0)
    # Where an interval is but a point, rounding would be divided by nothing.
    excess = np.maximum(low - lower, upper - high) / np.maximum(width, 1e-3 * width.mean())
    return {
        "excess": float(excess[unknown].max(initial=0)),
        "excess_known_sign": float(excess[~unknown].max(initial=0)),
        "narrower": float(np.mean(upper - lower < (1 - 1e-4) * width)),
        "unknown_sign": int(((lower < 0) & (upper > 0)).sum()),
        "peer_unknown_sign": int(unknown.sum()),
        "elements": len(low),
    }


def lines(record: dict) -> str:
    """The rest of a record, in lines of its own."""
    start = "\n" + 28 * " "
    if "peer_left_out" in record:
        return f"{start}peer left out: {record['peer_left_out']}"
    text = (
        f"{start}peer {record['peer_ms']:.2f} ms  ours / peer {record['peer_ratio']:.2f} "
        f"(CPU time {record['peer_cpu_ratio']:.2f})  "
        f"mean lower {record['mean_lower']:.4g}, peer {record['peer_mean_lower']:.4g}  "
        f"verified {record['verified']}, peer {record['peer_verified']}"
    )
    if record["bound_peak_mb"] is not None:
        text += (
            f"{start}peak of the resident memory: + {record['bound_peak_mb']:.1f} MB, "
            f"peer + {record['peer_peak_mb']:.1f} MB"
        )
    if "excess" in record:
        text += (
            f"{start}before relu: ours wider by {record['excess']:.1e} of the width "
            f"({record['excess_known_sign']:.1e} where the peer knows the sign), "
            f"narrower in {record['narrower']:.0%}; sign unknown in {record['unknown_sign']}, "
            f"peer {record['peer_unknown_sign']}, of {record['elements']}"
        )
    return text


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "auto_LiRPA": auto_LiRPA.__version__}
