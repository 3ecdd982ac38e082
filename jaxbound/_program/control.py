"""Replaces control flow in a flat program: loops are unrolled, branches chosen or joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbound._program.graph import Atom, Constant


class Site(NamedTuple):
    """Gives access to the flat program in which an equation is replaced.

    Attributes:
      call: ``call(body, *atoms)`` appends the equations of a jaxpr or of a function of arrays, and
        returns its outputs.
      value: the array behind a known atom, where constants alone decide it; else None.
    """

    call: Callable[..., list[Atom]]
    value: Callable[[Atom], np.ndarray | None]


def _scan(site: Site, atoms: Sequence[Atom], *, jaxpr, length, reverse, **params):
    """Unrolls a scan step by step, on slices of the arrays that it scans over; returns its outputs."""
    constants, carries = _parts(**params)
    consts, scanned = atoms[:constants], atoms[constants + carries :]
    carry = list(atoms[constants : constants + carries])
    slices = [site.call(jnp.unstack, x) for x in scanned] if length else []
    rows = []
    for i in range(length)[:: -1 if reverse else 1]:
        outs = site.call(jaxpr, *consts, *carry, *(x[i] for x in slices))
        carry, row = outs[:carries], outs[carries:]
        rows.append(row)
    rows = rows[:: -1 if reverse else 1]
    outs = []
    for i, v in enumerate(jaxpr.jaxpr.outvars[carries:]):
        ys = [row[i] for row in rows]
        if ys:
            outs += site.call(lambda *ys: jnp.stack(ys), *ys)
        else:
            outs.append(Constant(jnp.zeros((0, *v.aval.shape), v.aval.dtype)))
    return carry + outs


def _parts(num_consts=0, num_carry=0, ft_in=None, **_) -> tuple[int, int]:
    """Returns how many operands of a scan are the same in every step, and how many are carried on."""
    if ft_in is None:
        return num_consts, num_carry
    constants, carry, _ = map(len, ft_in.unpack())  # since JAX 0.11
    return constants, carry


def _while(site: Site, atoms: Sequence[Atom], **params):
    """Unrolls as many steps as the condition allows, if constants alone decide it; else returns None."""
    first, second = params["cond_nconsts"], params["body_nconsts"]
    of_condition, of_body = atoms[:first], atoms[first : first + second]
    carry = list(atoms[first + second :])
    while True:
        (condition,) = site.call(params["cond_jaxpr"], *of_condition, *carry)
        goes_on = site.value(condition)
        if goes_on is None:
            return None
        if not goes_on:
            return carry
        carry = site.call(params["body_jaxpr"], *of_body, *carry)


def _cond(site: Site, atoms: Sequence[Atom], *, branches, **_):
    """Appends the branch that constants decide on; else all of them, and a choice among their outputs."""
    last = np.int32(len(branches) - 1)
    (index,) = site.call(lambda i: lax.clamp(np.int32(0), i.astype(np.int32), last), atoms[0])
    value = site.value(index)
    if value is not None:
        return site.call(branches[int(value)], *atoms[1:])
    columns = zip(*(site.call(branch, *atoms[1:]) for branch in branches), strict=True)
    return [site.call(lax.select_n, index, *cases)[0] for cases in columns]


# Each returns the outputs, or None where the equation has to stay.
CONTROL: dict[str, Callable[..., list[Atom] | None]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
