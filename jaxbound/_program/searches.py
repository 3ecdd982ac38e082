"""Recognises searches and interpolations in a table as whole calls, by what the running JAX traces of them.

Bounded step by step, a search with uncertain comparisons could go anywhere; as a whole, it is monotone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from jaxbound._program.activations import Activation

METHODS = ("scan", "scan_unrolled", "sort", "compare_all")

search = Activation(
    "searchsorted", (lambda table, x, **options: jnp.searchsorted(table, x, **options),)
)
interpolation = Activation("interp", (lambda x, places, table: jnp.interp(x, places, table),))


def look_up(closed: jex.ClosedJaxpr, uncertain: Sequence[bool]) -> tuple[Activation, Any] | None:
    """Returns the search or the interpolation that a call's body is, and its options; None if it is neither."""
    outs = [v.aval for v in closed.jaxpr.outvars]
    avals = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars)
    shapes, ranks = [aval.shape for aval in avals], [len(aval.shape) for aval in avals]
    if closed.consts or len(outs) != 1:
        return None
    if len(avals) == 2 and ranks[0] == 1 and shapes[1] == outs[0].shape:
        kinds = _searches
    elif list(uncertain) == [True, False, False] and shapes == [outs[0].shape, *2 * shapes[1:2]]:
        kinds = _interpolations
    else:
        return None
    # Most calls are neither: patterns are only traced if one of these words is in the body.
    text = str(closed.jaxpr)
    if not any(word in text for word in ("lt_to", "le_to", "sort")):
        return None
    return kinds(avals, jnp.result_type(int)).get(text)


@functools.lru_cache(maxsize=128)
def _searches(avals: tuple[Any, ...], _) -> dict[str, tuple[Activation, Any]]:
    """Returns the kinds of searches and their options by the text of their bodies, in these shapes and types."""
    found = {}
    for side, method in itertools.product(("left", "right"), METHODS):
        options = {"side": side, "method": method}
        of = functools.partial(jnp.searchsorted, **options)
        found |= dict.fromkeys(_bodies(of, avals), (search, options))
    return found


@functools.lru_cache(maxsize=128)
def _interpolations(avals: tuple[Any, ...], _) -> dict[str, tuple[Activation, Any]]:
    return dict.fromkeys(_bodies(jnp.interp, avals), (interpolation, {}))


def _bodies(of, avals: tuple[Any, ...]) -> list[str]:
    """Returns the texts of the bodies of the calls that ``of`` makes with all of its arguments in order."""
    try:
        traced = jax.make_jaxpr(of)(*avals).jaxpr
    except (TypeError, ValueError):
        return []  # not of these types and sizes
    calls = [eqn for eqn in traced.eqns if list(eqn.invars) == list(traced.invars)]
    return [str(body) for eqn in calls for body in jex.jaxprs_in_params(eqn.params)]
