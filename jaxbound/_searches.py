"""Searches in a table, recognised as whole calls: what the running JAX traces of `jnp.searchsorted`.

The interval of every step would be that of a search gone astray; the search as a whole is monotone.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from jaxbound._activations import Activation

METHODS = ("scan", "scan_unrolled", "sort", "compare_all")

search = Activation(
    "searchsorted", (lambda table, x, **options: jnp.searchsorted(table, x, **options),)
)


def search_of(closed: jex.ClosedJaxpr) -> dict[str, Any] | None:
    """The options with which a call's body is a search of its second operand in its first; None: it is none."""
    avals = [v.aval for v in closed.jaxpr.invars]
    if len(avals) != 2 or closed.consts or len(avals[0].shape) != 1 or not avals[0].shape[0]:
        return None
    outs = [v.aval for v in closed.jaxpr.outvars]
    if len(outs) != 1 or outs[0].shape != avals[1].shape or outs[0].dtype.kind not in "iu":
        return None
    of = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
    return _bodies(of, jnp.result_type(int)).get(str(closed.jaxpr))


@functools.lru_cache(maxsize=128)
def _bodies(avals: tuple[Any, ...], _) -> dict[str, dict[str, Any]]:
    """The text of the body of every kind of search in these shapes and types."""
    found = {}
    for side, method in itertools.product(("left", "right"), METHODS):
        options = {"side": side, "method": method}
        traced = jax.make_jaxpr(functools.partial(jnp.searchsorted, **options))(*avals)
        for eqn in traced.jaxpr.eqns:
            if list(eqn.invars) == list(traced.jaxpr.invars):
                for body in jex.jaxprs_in_params(eqn.params):
                    found[str(body)] = options
    return found
