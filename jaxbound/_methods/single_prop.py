"""Propagates one radius beside the value, to be regularised (SingleProp). It certifies nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbound._bounds.balls import linf_ball
from jaxbound._bounds.interval import Interval
from jaxbound._program.graph import Equation, Var, read
from jaxbound._program.trace import trace
from jaxbound._rules.curves import Choice
from jaxbound._rules.elementwise import is_kinked
from jaxbound._rules.errors import check_supported
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._rules.relaxations import check_kind, relaxations


class Propagated(NamedTuple):
    """Holds the value of a function and a radius ``>= 0`` of the same tree and shapes; see `single_prop`."""

    value: Any
    radius: Any


def single_prop(fn, x, radius, *, relaxation="constant") -> Propagated:
    """Propagates one radius beside the value (SingleProp). No bound: a regulariser for training.

    The radius stays centred at the value of each neuron, so it costs one more pass: affine equations
    map it by the absolute values of their weights, and an activation maps it to half of its range over
    ``value +- radius``; the centre of that range is forgotten. So ``fn`` may leave ``value +- radius``:
    where the value of a ReLU's operand is 0 and its radius 1, the radius becomes 1/2, but the ReLU
    reaches 1. Certify with a method such as `ibp`.

    Args:
      fn: function of one example (a batch is `jax.vmap`); normalisation is part of it.
      x: floating-point array.
      radius: non-negative, in the units of ``x``; broadcasts against it as in NumPy.
      relaxation: what counts as the range of a piecewise-linear activation: "constant", its exact image;
        with other lines of `crown`, from the lower line's least to the upper line's greatest value
        ("parallel" is the paper's Fast-Lin, "adaptive" its CROWN). For other activations, always the image.

    Returns:
      `Propagated`: ``fn(x)``, and its radius, 0 where ``radius`` is 0.

    Raises:
      UnsupportedPrimitiveError: ``fn`` uses primitives without a rule.
      ValueError, TypeError: an argument or option is not valid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> found = jb.single_prop(lambda x: 2.0 * jax.nn.relu(x), jnp.array([0.0, 3.0]), 1.0)
      >>> found.value.tolist(), found.radius.tolist()
      ([0.0, 6.0], [1.0, 2.0])

    References: Boopathy et al., arXiv 2102.01208.
    """
    check_kind(relaxation)
    x = jnp.asarray(x)
    graph = trace(fn, linf_ball(x, radius))
    check_supported(graph)
    (start,) = graph.inputs
    values: dict[Var, Any] = {start: x}
    spreads: dict[Var, Any] = {start: jnp.broadcast_to(jnp.asarray(radius, x.dtype), x.shape)}
    for eqn in graph.equations:
        values |= eqn.evaluate(values)
        if eqn.moving:
            spreads |= zip(eqn.outputs, _spread(eqn, values, spreads, relaxation), strict=True)

    def radius_of(atom):
        found = spreads.get(atom, 0)
        value = read(values, atom)
        return jnp.broadcast_to(jnp.asarray(found, jnp.result_type(value)), jnp.shape(value))

    def tree(of):
        return jax.tree.unflatten(graph.out_tree, [of(atom) for atom in graph.outputs])

    return Propagated(tree(lambda atom: read(values, atom)), tree(radius_of))


def _spread(eqn: Equation, values, spreads, kind: str) -> list[Any]:
    """Returns for every output its radius or, if it is not floating-point, its `Interval`."""
    linear = linear_operands(eqn)
    rule = interval_rules[eqn.primitive]
    operands = [read(values, atom) for atom in eqn.inputs]
    for i, var in eqn.moving.items():
        r = spreads[var]
        center = 0 if linear is not None else operands[i]
        operands[i] = Interval(center - r, center + r) if var.is_float else r
    if linear is not None:
        # The constant part of an affine equation moves the value alone.
        operands = [
            jnp.zeros_like(op) if i in linear and i not in eqn.moving else op
            for i, op in enumerate(operands)
        ]
    if rule.radius is not None:
        return [rule.radius(*operands, **eqn.params)]
    outs = rule.bound(*operands, **eqn.params)
    outs = outs if isinstance(outs, list) else [outs]
    if linear is not None:
        return [out.upper for out in outs]  # symmetric about 0; one end is enough
    if kind != "constant" and is_kinked(eqn.primitive) and len(eqn.moving) == 1:
        return [_between_lines(eqn, operands, outs[0], kind)]
    return [out.radius if v.is_float else out for out, v in zip(outs, eqn.outputs, strict=True)]


def _between_lines(eqn: Equation, operands, image: Interval, kind: str):
    """Returns half of the upper line's greatest less the lower line's least value, both at ends of the interval."""
    lines = relaxations[eqn.primitive](*operands, image=image, choice=Choice(kind), **eqn.params)
    (x,) = (op for op in operands if isinstance(op, Interval))
    highest = jnp.maximum(lines.upper(x.lower), lines.upper(x.upper))
    lowest = jnp.minimum(lines.lower(x.lower), lines.lower(x.upper))
    return 0.5 * jnp.maximum(highest - lowest, 0)
