"""A JAX program evaluated by NumPy, one equation after the other: what runs once is not worth compiling."""

import string

import jax
import numpy as np
from jax.extend import core as jex


def by_numpy(fn):
    """``fn`` without compilation: as `jax.jit`, up to rounding; leaves are NumPy arrays.

    Operations without a rule here are left to XLA, one small program for each and its shapes: among them exp,
    log and the like, which it approximates in its own way.
    """

    def run(*args):
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        with np.errstate(all="ignore"):
            found = _evaluate(closed, _leaves(closed, args))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return run


def each_by_numpy(fn):
    """``fn`` of every part of a batch: as `jax.jit(jax.vmap(fn))`, up to rounding. It is traced for the first part."""

    def run(*args):
        count = len(jax.tree.leaves(args)[0])
        parts = [jax.tree.map(lambda x, i=i: x[i], args) for i in range(count)]
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*parts[0])
        inputs, steps = [Later() for _ in closed.in_avals], []
        with np.errstate(all="ignore"):
            outs = _evaluate(closed, inputs, steps)
            found = [_replay(inputs, steps, outs, _leaves(closed, part)) for part in parts]
        stacked = [np.stack(values) for values in zip(*found, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(shape), stacked)

    return run


class Later:
    """Stands for an array that depends on the part."""


def _leaves(closed, args):
    pairs = zip(jax.tree.leaves(args), closed.in_avals, strict=True)
    return [np.asarray(x, aval.dtype) for x, aval in pairs]


def _evaluate(closed, args, steps=None):
    """Computes the outputs; what depends on a `Later` is one too, and added to ``steps``."""
    jaxpr, env = closed.jaxpr, {}
    env.update(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        if isinstance(atom, jex.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        return env[atom]

    for eqn in _live(jaxpr):
        operands = [read(v) for v in eqn.invars]
        if eqn.primitive.name in CALLS:
            found = _evaluate(eqn.params[CALLS[eqn.primitive.name]], operands, steps)
        elif any(isinstance(x, Later) for x in operands):
            found = [Later() for _ in eqn.outvars]
            steps.append((eqn, operands, found))
        else:
            found = _step(eqn, operands)
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _replay(inputs, steps, outs, args):
    env = dict(zip(inputs, args, strict=True))
    for eqn, operands, found in steps:
        values = _step(eqn, [env[x] if isinstance(x, Later) else x for x in operands])
        env.update(zip(found, values, strict=True))
    return [env[x] if isinstance(x, Later) else x for x in outs]


def _live(jaxpr):
    """The equations that an output depends on."""
    needed, live = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(map(id, eqn.outvars)):
            needed.update(map(id, eqn.invars))
            live.append(eqn)
    return live[::-1]


def _step(eqn, operands):
    rule = RULES.get(eqn.primitive.name)
    found = NotImplemented if rule is None else rule(*operands, **eqn.params)
    if found is NotImplemented:
        found = eqn.primitive.bind(*operands, **eqn.params)
    found = [np.asarray(x) for x in (found if isinstance(found, list | tuple) else [found])]
    for x, var in zip(found, eqn.outvars, strict=True):
        assert (x.shape, x.dtype) == (var.aval.shape, var.aval.dtype), eqn
    return found


def _plain(fn):
    return lambda *operands, **_: fn(*operands)


def _reduced(fn):
    return lambda x, *, axes, **_: fn(x, axis=tuple(axes)) if x.size else NotImplemented


def _of_floats(fn):
    """Integers are another matter: they wrap around, and truncate."""
    return lambda x, *rest, **options: (
        fn(x, *rest, **options) if x.dtype.kind == "f" else NotImplemented
    )


def _converted(x, *, new_dtype, **_):
    saturates = x.dtype.kind == "f" and np.dtype(new_dtype).kind in "iu"
    return NotImplemented if saturates else x.astype(new_dtype)


def _broadcast(x, *, shape, broadcast_dimensions, **_):
    aligned = [1] * len(shape)
    for size, axis in zip(x.shape, broadcast_dimensions, strict=True):
        aligned[axis] = size
    return np.broadcast_to(x.reshape(aligned), shape)


def _reshaped(x, *, new_sizes, dimensions, **_):
    return (x if dimensions is None else x.transpose(dimensions)).reshape(new_sizes)


def _selected(which, *cases):
    return np.where(which, *cases[::-1]) if len(cases) == 2 else NotImplemented


def _sliced(x, *, start_indices, limit_indices, strides):
    steps = strides or (1,) * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


def _padded(x, fill, *, padding_config):
    if any(low < 0 or high < 0 or inner for low, high, inner in padding_config):
        return NotImplemented
    widths = [(low, high) for low, high, _ in padding_config]
    return np.pad(x, widths, constant_values=fill) if widths else x


def _dot(x, y, *, dimension_numbers, **_):
    if x.dtype.itemsize < 4:  # types of half precision, which XLA sums in a wider one
        return NotImplemented
    (x_sums, y_sums), (x_batch, y_batch) = dimension_numbers
    letters = iter(string.ascii_letters)
    a, b = ([next(letters) for _ in z.shape] for z in (x, y))
    for i, j in zip((*x_sums, *x_batch), (*y_sums, *y_batch), strict=True):
        b[j] = a[i]
    out = [a[i] for i in x_batch]
    out += [a[i] for i in range(x.ndim) if i not in (*x_sums, *x_batch)]
    out += [b[j] for j in range(y.ndim) if j not in (*y_sums, *y_batch)]
    return np.einsum(f"{''.join(a)},{''.join(b)}->{''.join(out)}", x, y)


def _iota(*, dtype, shape, dimension, **_):
    along = [-1 if i == dimension else 1 for i in range(len(shape))]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(along), shape)


def _scan(*operands, jaxpr, length, reverse, num_consts, num_carry, **_):
    if not 0 < length < MANY:  # what runs many times is worth compiling
        return NotImplemented
    consts, operands = operands[:num_consts], operands[num_consts:]
    carry, xs, ys = operands[:num_carry], operands[num_carry:], []
    for i in range(length)[:: -1 if reverse else 1]:
        found = _evaluate(jaxpr, [*consts, *carry, *(x[i] for x in xs)])
        carry = found[:num_carry]
        ys.append(found[num_carry:])
    stacked = (np.stack(parts[:: -1 if reverse else 1]) for parts in zip(*ys, strict=True))
    return [*carry, *stacked]


MANY = 16  # steps of a loop
CALLS = {  # where they hold their bodies
    "jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
}  # fmt: skip
PLAIN = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative,
    "abs": np.abs, "max": np.maximum, "min": np.minimum, "sign": np.sign, "square": np.square,
    "floor": np.floor, "sqrt": np.sqrt,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "is_finite": np.isfinite, "and": np.bitwise_and, "or": np.bitwise_or,
    "not": np.invert, "copy": np.array, "stop_gradient": np.array, "select_n": _selected,
}  # fmt: skip
REDUCED = {
    "reduce_max": np.max, "reduce_min": np.min, "reduce_and": np.all, "reduce_or": np.any,
}  # fmt: skip
RULES = {
    **{name: _plain(fn) for name, fn in PLAIN.items()},
    **{name: _reduced(fn) for name, fn in REDUCED.items()},
    "reduce_sum": _of_floats(_reduced(np.sum)),
    "div": _of_floats(_plain(np.divide)),
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "integer_pow": _of_floats(lambda x, *, y, **_: np.power(x, y)),
    "convert_element_type": _converted,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, tuple(dimensions)),
    "transpose": lambda x, *, permutation, **_: np.transpose(x, permutation),
    "rev": lambda x, *, dimensions, **_: np.flip(x, tuple(dimensions)),
    "concatenate": lambda *xs, dimension, **_: np.concatenate(xs, dimension),
    "split": lambda x, *, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis),
    "slice": _sliced,
    "pad": _padded,
    "dot_general": _dot,
    "iota": _iota,
    "scan": _scan,
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "unstack": lambda x, *, axis: list(np.moveaxis(x, axis, 0)),
}
