"""Maps recurrent layers, as scans over time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._operators._table import EXACT, Operator, integers

ACTIVATIONS = {
    "Sigmoid": jax.nn.sigmoid,
    "Tanh": jnp.tanh,
    "Relu": jax.nn.relu,
    "Softsign": jax.nn.soft_sign,
    "Softplus": jax.nn.softplus,
}

dot = functools.partial(jnp.matmul, precision=EXACT)


def rnn_cell(a, functions, given, weights, bias, state):
    """Computes the next state of a plain cell."""
    (hidden,), (gate,) = state, functions
    found = gate(given + dot(hidden, weights.T) + bias)
    return (found,)


def gru_cell(a, functions, given, weights, bias, state):
    """Computes the next state of a gated cell."""
    (hidden,), (gate, candidate) = state, functions
    size = hidden.shape[-1]
    ours, biases = weights[: 2 * size], bias[: 2 * size]
    update, reset = jnp.split(gate(given[:, : 2 * size] + dot(hidden, ours.T) + biases), 2, -1)
    last, offset = weights[2 * size :], bias[2 * size :]
    if a.linear_before_reset:
        inner = reset * (dot(hidden, last.T) + offset)
    else:
        inner = dot(reset * hidden, last.T) + offset
    found = candidate(given[:, 2 * size :] + inner)
    return ((1 - update) * found + update * hidden,)


def lstm_cell(a, functions, given, weights, bias, state, peepholes=None):
    """Computes the next state of a long short-term memory."""
    (hidden, cell), (gate, candidate, final) = state, functions
    parts = jnp.split(given + dot(hidden, weights.T) + bias, 4, -1)
    looks = [0.0] * 3 if peepholes is None else jnp.split(peepholes, 3)
    inlet, outlet, forget, new = parts
    inlet = gate(inlet + looks[0] * cell)
    forget = gate(forget + looks[2] * cell)
    cell = forget * cell + inlet * candidate(new)
    return gate(outlet + looks[1] * cell) * final(cell), cell


def recurrent(cell, gates: int, states: int, defaults: list[str]) -> Operator:
    """Returns the operator that walks a cell over time, in one or both directions."""

    def apply(a, x, weights, recurrence, bias=None, lengths=None, *initial):
        x = x.swapaxes(0, 1) if a.layout else x
        if lengths is not None and set(integers(lengths)) != {x.shape[0]}:
            raise OnnxError("sequences of different lengths")
        directions, size = weights.shape[0], recurrence.shape[-1]
        zeros = jnp.zeros((directions, x.shape[1], size), x.dtype)
        if a.layout:
            initial = tuple(v if v is None else v.swapaxes(0, 1) for v in initial[:states])
        starts = [zeros if start is None else start for start in (*initial, None, None)[:states]]
        functions = [ACTIVATIONS[name] for name in a.activations or defaults * directions]
        peepholes = initial[states] if len(initial) > states else None
        paths, ends = [], []
        for i in range(directions):
            back = a.direction == "reverse" or i == 1
            bias_in, bias_on = (0.0, jnp.zeros(gates * size, x.dtype))
            if bias is not None:
                bias_in, bias_on = jnp.split(bias[i], 2)
            given = dot(x, weights[i].T) + bias_in
            chosen = functions[i * len(defaults) : (i + 1) * len(defaults)]
            extra = () if peepholes is None else (peepholes[i],)

            def step(state, now, i=i, bias_on=bias_on, chosen=chosen, extra=extra):
                found = cell(a, chosen, now, recurrence[i], bias_on, state, *extra)
                return found, found[0]

            end, path = lax.scan(step, tuple(s[i] for s in starts), given, reverse=back)
            paths.append(path)
            ends.append(end)
        found = [jnp.stack(paths, 1), *(jnp.stack(end) for end in zip(*ends, strict=True))]
        if a.layout:
            found = [found[0].transpose(2, 0, 1, 3), *(end.swapaxes(0, 1) for end in found[1:])]
        return tuple(found)

    refused = {"clip": (), "input_forget": (0,), "activation_alpha": ()}
    return Operator(
        apply, plain=False, static=(4,), allowed=refused | {"activation_beta": ()}, outputs=3
    )


TABLE = {
    "RNN": recurrent(rnn_cell, 1, 1, ["Tanh"]),
    "GRU": recurrent(gru_cell, 3, 1, ["Sigmoid", "Tanh"]),
    "LSTM": recurrent(lstm_cell, 4, 2, ["Sigmoid", "Tanh", "Tanh"]),
}
