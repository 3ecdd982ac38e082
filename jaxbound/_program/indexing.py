"""Brings reads and writes at indices to one normal form: what they compute as they run, whatever was promised.

XLA clamps the start of a read into its operand and drops a write that leaves it; the transposes that JAX
makes of both trust a promise that indices are inside, unique, or in order. So reads only clamp here, and
writes clamp or drop, and promise nothing: then value, transpose and interval agree for all indices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex

from jaxbound._program.control import Site
from jaxbound._program.graph import Atom, shape_of

CLIP, DROP, TRUST = (
    lax.GatherScatterMode.CLIP,
    lax.GatherScatterMode.FILL_OR_DROP,
    lax.GatherScatterMode.PROMISE_IN_BOUNDS,
)
# Writes at uncertain indices are unrolled, one after the other: so many at most.
MOST_WRITES = 64

# Of each scatter the primitive in its body, and what it makes of a value and an update.
COMBINE: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "scatter": ("", lambda x, update: update),
    "scatter-add": ("add", lax.add),
    "scatter-sub": ("sub", lax.sub),
    "scatter-mul": ("mul", lax.mul),
    "scatter-max": ("max", lax.max),
    "scatter-min": ("min", lax.min),
}


def refused(name: str, uncertain: Sequence[bool], params: dict[str, Any]) -> str:
    """Returns why an equation that was not rewritten has no rule for its parameters; an empty text if it has one."""
    if name != "gather" and name not in COMBINE:
        return ""
    if params["mode"] not in ((CLIP,) if name == "gather" else (CLIP, DROP)):
        return f": its mode is {params['mode']}"
    if name in COMBINE and not _says(name, params):
        return ": its updates are a function of both values that no rule knows"
    if name in COMBINE and uncertain[1]:
        return f": it writes at more than {MOST_WRITES} uncertain indices"
    return ""


# ---------------------------------------------------------------- reads


def _gather(site: Site, atoms: Sequence[Atom], *, slice_sizes, mode, fill_value, **params):
    """Reads at clamped indices, and chooses the fill where they lie outside, if it has one; None: it stays."""
    promises = params["unique_indices"] or params["indices_are_sorted"]
    if mode not in (CLIP, DROP, TRUST) or (mode is CLIP and not promises):
        return None
    numbers = params["dimension_numbers"]

    def read(x, indices):
        found = lax.gather(x, indices, numbers, slice_sizes, mode=CLIP)
        if mode is not DROP:
            return found
        limits = [x.shape[axis] - slice_sizes[axis] for axis in numbers.start_index_map]
        inside = _inside(indices, limits).all(-1)
        inside = jnp.expand_dims(inside, numbers.offset_dims)
        fill = jnp.full_like(found, fill_value)
        return jnp.where(jnp.broadcast_to(inside, found.shape), found, fill)

    return site.call(read, *atoms)


def _inside(indices, limits):
    """Tells where ``0 <= indices <= limits``, for indices of any integer type."""
    return (indices >= 0) & (indices <= _most(limits, indices))


def clamped(start, limits):
    """Returns starts clamped to ``[0, limits]``, as XLA does, as 32-bit integers."""
    return lax.clamp(jnp.zeros_like(start), start, _most(limits, start)).astype(jnp.int32)


def _most(limits, like):
    """Returns limits as numbers of an integer type, which may be too small for them."""
    most = min(jnp.iinfo(like.dtype).max, np.iinfo(np.int64).max)
    return jnp.broadcast_to(np.minimum(limits, most).astype(like.dtype), like.shape)


def _dynamic_slice(site: Site, atoms: Sequence[Atom], *, slice_sizes, **_):
    """Reads by a gather along the axes whose starts are uncertain; None if there are none."""
    free = [axis for axis, start in enumerate(atoms[1:]) if start.uncertain]
    if not free:
        return None

    def read(x, *starts):
        first = [jnp.zeros_like(s) if i in free else s for i, s in enumerate(starts)]
        sizes = [x.shape[i] if i in free else n for i, n in enumerate(slice_sizes)]
        x = lax.dynamic_slice(x, first, sizes)
        index = jnp.stack([clamped(starts[i], x.shape[i] - slice_sizes[i]) for i in free])
        numbers = lax.GatherDimensionNumbers(tuple(range(x.ndim)), (), tuple(free))
        return lax.gather(x, index, numbers, slice_sizes, mode=CLIP)

    return site.call(read, *atoms)


# ---------------------------------------------------------------- writes


def _moved(x, update, starts: Sequence[Any]):
    """Returns ``update`` moved to ``starts`` in an array as large as ``x``, and a mask of where it lies."""
    here = jnp.ones(x.shape, bool)
    for axis, start in enumerate(starts):
        n, m = x.shape[axis], update.shape[axis]
        if n == m:
            continue
        place = jnp.arange(n, dtype=jnp.int32) - start
        others = [i for i in range(x.ndim) if i != axis]
        here &= jnp.expand_dims((place >= 0) & (place < m), others)
        update = jnp.take(update, jnp.clip(place, 0, m - 1), axis, mode="clip")
    return update, here


def _dynamic_update_slice(site: Site, atoms: Sequence[Atom], **_):
    """Writes by a choice between the moved update and the operand; None if all starts are known."""
    if not any(start.uncertain for start in atoms[2:]):
        return None

    def write(x, update, *starts):
        if not update.size:
            return x
        sizes = zip(x.shape, update.shape, strict=True)
        moved, here = _moved(
            x, update, [clamped(s, n - m) for s, (n, m) in zip(starts, sizes, strict=True)]
        )
        return jnp.where(here, moved, x)

    return site.call(write, *atoms)


def _scatter(name: str, site: Site, atoms: Sequence[Atom], **params):
    """Writes one by one at uncertain indices; at known ones by a scatter without promises; None: it stays.

    A body that is a function of the value alone is applied at known indices as often as they name each value.
    """
    mode, known = params["mode"], not atoms[1].uncertain
    function = None if _says(name, params) else _of_value(params)
    if mode not in (CLIP, DROP, TRUST) or not (_says(name, params) or function):
        return None
    mode, numbers = CLIP if mode is CLIP else DROP, params["dimension_numbers"]
    points = math.prod(shape_of(atoms[1])[:-1])
    if not known:
        combine = (lambda x, _: function(x)) if function else COMBINE[name][1]
        write = functools.partial(_one_by_one, combine=combine, numbers=numbers, mode=mode)
        return site.call(write, *atoms) if points <= MOST_WRITES else None
    if function:
        return _applied(site, atoms, function, numbers, mode)
    promises = params["unique_indices"] or params["indices_are_sorted"]
    if params["mode"] is mode and (points <= 1 or not promises):
        return None
    sums = getattr(lax, name.replace("-", "_"))
    return site.call(lambda *operands: sums(*operands, numbers, mode=mode), *atoms)


def _says(name: str, params: dict[str, Any]) -> bool:
    """Tells whether the body of a scatter is what its name says."""
    body = params.get("update_jaxpr")
    if body is None:
        return True
    body = getattr(body, "jaxpr", body)
    if name == "scatter":
        return not body.eqns and body.outvars[0] is body.invars[1]
    return (
        [eqn.primitive.name for eqn in body.eqns] == [COMBINE[name][0]]
        and list(body.eqns[0].invars) == list(body.invars)
        and list(body.outvars) == list(body.eqns[0].outvars)
    )


def _of_value(params: dict[str, Any]) -> Callable[[Any], Any] | None:
    """Returns the body of a scatter as a function of each value; None if it reads updates too."""
    body, consts = params["update_jaxpr"], params.get("update_consts", ())
    closed = body if hasattr(body, "jaxpr") else jex.ClosedJaxpr(body, consts)
    new = closed.jaxpr.invars[1]
    reads = [v for eqn in closed.jaxpr.eqns for v in eqn.invars] + list(closed.jaxpr.outvars)
    if any(v is new for v in reads):
        return None
    one = lambda value: jex.jaxpr_as_fun(closed)(value, jnp.zeros(new.aval.shape, new.aval.dtype))
    return lambda x: jax.vmap(lambda value: one(value)[0])(x.ravel()).reshape(x.shape)


def _applied(site: Site, atoms: Sequence[Atom], function, numbers, mode):
    """Applies a function to every value as often as indices name it."""
    shape, indices, updates = shape_of(atoms[0]), atoms[1], shape_of(atoms[2])

    def named(indices):
        counts, ones = jnp.zeros(shape, jnp.int32), jnp.ones(updates, jnp.int32)
        return lax.scatter_add(counts, indices, ones, numbers, mode=mode)

    (count,) = site.call(named, indices)
    times, found = site.value(count), list(atoms[:1])
    most = math.prod(shape_of(indices)[:-1]) if times is None else times.max(initial=0)
    for done in range(int(most)):
        once_more = lambda x, count, done=done: jnp.where(count > done, function(x), x)
        found = site.call(once_more, *found, count)
    return found


def _one_by_one(x, indices, updates, *, combine, numbers, mode):
    """Writes at all indices one after the other, each as a choice by a mask of where its update lies."""
    windows = numbers.update_window_dims
    scattered = [axis for axis in range(updates.ndim) if axis not in windows]
    updates = jnp.moveaxis(updates, scattered, range(len(scattered)))
    batched = dict(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    single = sorted((*numbers.inserted_window_dims, *batched))
    for point in np.ndindex(*indices.shape[:-1]) if updates.size else ():
        update = jnp.expand_dims(updates[point], single)
        starts = [jnp.int32(point[batched[i]] if i in batched else 0) for i in range(x.ndim)]
        inside = jnp.ones((), bool)
        for start, axis in zip(indices[point], numbers.scatter_dims_to_operand_dims, strict=True):
            limit = x.shape[axis] - update.shape[axis]
            if mode is DROP:
                inside &= _inside(start, limit)
            starts[axis] = clamped(start, limit)
        moved, here = _moved(x, update, starts)
        x = jnp.where(here & jnp.broadcast_to(inside, x.shape), combine(x, moved), x)
    return x


# Each returns the outputs, or None where the equation has to stay.
INDEXED: dict[str, Callable[..., list[Atom] | None]] = {
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    **{name: functools.partial(_scatter, name) for name in COMBINE},
}
