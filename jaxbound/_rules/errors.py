"""Defines the one error for programs without a rule."""

from __future__ import annotations

from jaxbound._program.activations import Activation
from jaxbound._program.graph import Equation, Graph
from jaxbound._program.indexing import refused
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_operands


class UnsupportedPrimitiveError(NotImplementedError):
    """Reports that the function applies primitives without a rule to uncertain values.

    Raised before any bound is computed; the message lists all of them, with the Flax layer, the
    user's line, and what to register. ``primitives`` holds their names.
    """

    def __init__(self, equations: list[Equation], rounding: str | None = None):
        self.primitives = tuple(dict.fromkeys(str(eqn.primitive) for eqn in equations))
        lines = dict.fromkeys(map(describe, equations))
        advice = (
            "\nBound the function up to rounding, by rounding=None, or write it in terms of other primitives."
            if rounding is not None
            else "\nRegister one with jaxbound.register_interval_rule(primitive) (enough for every method; add"
            " jaxbound.register_relaxation for tight linear bounds), or all at once with"
            " jaxbound.register_elementwise or jaxbound.register_linear_rule if it is elementwise or affine,"
            " or write the function in terms of supported primitives."
        )
        lacking = (
            "no rule for" if rounding is None else f"rounding={rounding!r}: no error is stated for"
        )
        super().__init__(f"{lacking}:\n  " + "\n  ".join(lines) + advice)


def check_supported(graph: Graph, rounding: str | None = None) -> None:
    """Raises an UnsupportedPrimitiveError unless every equation on uncertain values has a rule.

    Under ``rounding``, so do those whose rule states no error; in the same way.
    """
    missing = [eqn for eqn in graph.equations if eqn.moving and not _supported(eqn)]
    if missing:
        raise UnsupportedPrimitiveError(missing)
    moving = [eqn for eqn in graph.equations if eqn.moving and rounding is not None]
    if unstated := [eqn for eqn in moving if interval_rules[eqn.primitive].error is None]:
        raise UnsupportedPrimitiveError(unstated, rounding)


def _supported(eqn: Equation) -> bool:
    rule = interval_rules.get(eqn.primitive)
    if refused(str(eqn.primitive), eqn.uncertain, eqn.params):
        return False
    return rule is not None and (rule.accepts(eqn.uncertain) or linear_operands(eqn) is not None)


def describe(eqn: Equation) -> str:
    """Returns a line of the message: the primitive, its uncertain operands, the layer, the user's line, a reason."""
    which = list(map(str, eqn.moving))
    operands = f" with uncertain operand{'s' * (len(which) > 1)} {', '.join(which)}"
    layer = f" in layer {eqn.layer}" if eqn.layer else ""
    name = str(eqn.primitive)
    reason = refused(name, eqn.uncertain, eqn.params) or _REASONS.get(name, "")
    if isinstance(eqn.primitive, Activation) and not eqn.primitive.variants:
        reason = " of complex values"
    return f"{eqn.primitive}{operands}{layer} ({eqn.line}){reason}"


# Why other primitives are refused, by their names.
_REASONS = {
    "while": ": how often it runs depends on uncertain or traced values, so that it cannot be unrolled;"
    " close over a number of steps that is no argument, or run a fixed number (jax.lax.scan)"
    " and keep values with jnp.where",
    "lu": ": its pivots depend on the values; jnp.linalg.solve, inv, det and slogdet are bounded up to 6 rows",
    "cholesky": ": bounded up to 6 rows",
    "triangular_solve": ": an uncertain matrix is bounded up to 6 rows",
    "fft": ": bounded up to 8192 frequencies along an axis",
    "shift_left": ": bits may leave the type",
}
