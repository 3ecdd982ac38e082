"""Defines the table of interval rules: what a primitive does to intervals.

A rule takes the operands, `Interval` where uncertain and arrays where known, and the parameters of
the primitive; it returns intervals that contain every value. Ends may come out NaN or infinite on
the wrong side where the primitive has no finite bound; the walk widens those to infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxbound._bounds.interval import Interval
from jaxbound._rules.arithmetic import ends


class IntervalRule(NamedTuple):
    """Holds what a primitive does to intervals.

    Attributes:
      bound: ``bound(*operands, **params)`` returns the intervals of the outputs.
      operands: the positions that may be uncertain (None: all).
      radius: optional ``radius(*operands, **params)``: half the width of the bound, where that costs less.
      exact: the bound is the smallest interval for independent operands (one uncertain factor of a product).
      error: what it states of its rounding (`rounding.Terms`, `rounding.Units`); None: nothing.
    """

    bound: Callable[..., Any]
    operands: Sequence[int] | None = None
    radius: Callable[..., Any] | None = None
    exact: bool = False
    error: Any = None

    def accepts(self, uncertain: Sequence[bool]) -> bool:
        return self.operands is None or all(
            not u or i in self.operands for i, u in enumerate(uncertain)
        )


interval_rules: dict[Any, IntervalRule] = {}


def register_interval_rule(primitive, operands: Sequence[int] | None = None):
    """Registers the decorated function as the interval rule of ``primitive``.

    The rule must satisfy ``rule(X).lower <= primitive(x) <= rule(X).upper`` for all x in X.

    Args:
      primitive: a JAX primitive, as found in ``jax.make_jaxpr(fn)(x).eqns[i].primitive``.
      operands: positions that may be uncertain (`Interval`); None means any.

    Example:
      >>> import jax, jaxbound as jb
      >>> @jb.register_interval_rule(jax.lax.bessel_i0e_p)
      ... def _i0e(x, **params):  # exp(-|x|) I0(x) falls with |x|
      ...     nearest = jax.numpy.clip(0.0, x.lower, x.upper)
      ...     farthest = jax.numpy.maximum(-x.lower, x.upper)
      ...     return jb.Interval(jax.lax.bessel_i0e(farthest), jax.lax.bessel_i0e(nearest))
      >>> found = jb.ibp(jax.lax.bessel_i0e, jb.linf_ball(jax.numpy.zeros(()), 1.0))
      >>> round(found.upper.item(), 3)
      1.0
    """

    def register(rule):
        interval_rules[primitive] = IntervalRule(rule, operands)
        return rule

    return register


def monotone(
    primitive,
    operands: Sequence[int] | None = None,
    falls: Sequence[int] = (),
    guard: Callable[[Any], Any] = lambda bound: bound,
    error: Any = None,
) -> IntervalRule:
    """Returns the interval rule of a primitive that never increases in the operands ``falls``, nor decreases in others.

    The ends of its image are its values at the operands' ends; a ``guard`` heeds those that leave an integer type.
    The ``error`` is what the primitive states of its rounding.
    """

    def monotone_image(*xs, **params):
        sides = [ends(x)[:: -1 if i in falls else 1] for i, x in enumerate(xs)]
        lower, upper = (primitive.bind(*side, **params) for side in zip(*sides, strict=True))
        if isinstance(lower, list | tuple):
            return list(map(Interval, lower, upper))
        return Interval(lower, upper)

    return IntervalRule(guard(monotone_image), operands, exact=True, error=error)
