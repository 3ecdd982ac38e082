"""Counts how many rows a backward walk needs: what to pass to `crown` as its ``capacity``."""

from __future__ import annotations

import sys
from typing import Any

import jax.numpy as jnp

from jaxbound._methods.prepare import precision, prepare
from jaxbound._methods.published import ibp, resolve
from jaxbound._methods.recipes import undecided as undecided_elements
from jaxbound._program.graph import Var
from jaxbound._walks.context import Context
from jaxbound._walks.operands import names_of


def undecided(fn, *args, method=ibp, **options) -> dict[str, Any]:
    """Counts the elements of each operand that `crown` could tighten, on the intervals of ``method``.

    They are those whose two lines differ on the interval that is known before `crown` goes backward
    from them: for relu, the neurons of unknown sign. Where there are more than `crown`'s ``capacity``,
    the rest keep their intervals.

    Args:
      fn: as for the method.
      *args: as for the method.
      method: `ibp` for a quick estimate from above, `crown` for the counts that it meets itself.
      **options: of the method.

    Returns:
      Dict from the names of `intermediate_bounds` to integers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> box = jb.linf_ball(jnp.array([-3.0, 0.5, 0.1]), 1.0)
      >>> found = jb.undecided(lambda x: jax.nn.relu(x @ jnp.eye(3) @ jnp.eye(3)), box)
      >>> [count.item() for count in found.values()]
      [2]
    """
    # With a capacity, the decided keep their intervals, as in `crown`.
    recipe, options = resolve(method, {"capacity": sys.maxsize} | options)
    counts: dict[Var, Any] = {}

    def count(context: Context, var: Var) -> None:
        counts[var] = undecided_elements(context, var).sum()

    with precision():
        graph = prepare(recipe, fn, args, options, before=count).graph
    return {name: counts[var] for name, var in names_of(graph).items() if var in counts}


def capacities(counts: dict[str, Any]) -> dict[str, int]:
    """Returns a ``capacity`` of `crown` for counts of `undecided`, alone or of a batch: the next powers of two.

    By powers of two, counts that differ a little do not compile anew.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbound as jb
      >>> jb.capacities({"Conv_0:0": jnp.array([3, 100]), "Dense_0:0": jnp.array([0, 0])})
      {'Conv_0:0': 128, 'Dense_0:0': 1}
    """
    largest = {name: int(jnp.max(count)) for name, count in counts.items()}
    return {name: 1 << max(0, count - 1).bit_length() for name, count in largest.items()}
