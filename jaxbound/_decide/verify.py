"""Decides whether a function is positive for all inputs: `verify`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxbound._bounds.numerics import in_double
from jaxbound._decide.question import Verdict, in_float64, pose
from jaxbound._decide.refute import Refuter
from jaxbound._decide.scores import Score
from jaxbound._decide.search import Clock
from jaxbound._decide.stages import Stages


def verify(
    fn,
    *args,
    any_axis: int | None = None,
    timeout: float = 60.0,
    batch: int | None = None,
    split: str = "auto",
    steps: int = 20,
    attack: bool = True,
    score: Score | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Verdict:
    """Decides whether ``fn(x) > 0`` in every element, for all x in the arguments' regions.

    Intervals prove what they can, at next to no cost; an attack searches for a witness of the rest, `crown` and
    `alpha_crown` for a proof; what they leave is split into sub-domains until each is proved, one is refuted, or
    time is over. A search that takes more than a tenth of the time starts anew, after operands were bounded once more
    over the whole regions, each by lines optimised for it.
    All of it is computed in float64, whatever the types of ``fn`` and its arguments: "verified" holds up to the
    rounding of float64, and a witness is checked by ``fn`` itself, as it is and in its own types.

    Args:
      fn: as for `crown`. Two calls with the same function object, shapes and options share their compiled programs:
        pass weights, labels and property rows as arguments, not in a closure.
      *args: pytrees. Every `Interval` and `LpBall` is uncertain, all else is known.
      any_axis: an axis of the (only) output: for every x, at least one element along it has to be positive.
      timeout: seconds, compilation included, after which the answer is "unknown". It is looked at between compiled
        programs, none of which is interrupted.
      batch: sub-domains at once; by default as many as suit the device and the function's size.
      split: "hidden" splits operands of non-linear functions of one variable, "input" the inputs' boxes; "auto"
        takes "input" for up to 16 uncertain inputs, and where ``fn`` has other non-linear functions.
      steps: gradient steps for each sub-domain's lines and multipliers.
      attack: whether to search for witnesses by gradient descent too; without, only by the way.
      score: which operands to split first, a function of rows and gaps as `gap_at_split`; None: the best of several.
      progress: is called after each batch with a dict of "open", "proved", "worst" and "seconds".

    Returns:
      A `Verdict`. "unknown" also when interrupted by the keyboard.

    Raises:
      UnsupportedPrimitiveError: ``fn`` uses primitives without a rule.
      ValueError, TypeError: an argument or option is not valid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> fn = lambda x: jax.nn.relu(x[0] + x[1]) + jax.nn.relu(x[0] - x[1]) - x[0] + 0.01
      >>> box = jb.linf_ball(jnp.array([0.1, 0.0]), 1.0)
      >>> jb.crown(fn, box).lower.item() > 0, jb.verify(fn, box).status
      (False, 'verified')

    References: Bunel et al., arXiv 1909.06588; Wang et al., arXiv 2103.06624.
    """
    _check_options(timeout, batch, split, steps)
    clock = Clock(float(timeout))
    question, written = pose(fn, args, any_axis)
    with in_float64():
        leaves = in_double(written)
        stages = Stages(question, leaves, clock, Refuter(question, written, leaves, attack))
        try:
            return stages.run(split, batch, steps, score, progress or (lambda report: None))
        except KeyboardInterrupt:
            return stages.verdict("unknown")


def _check_options(timeout, batch, split, steps) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; expected a number of seconds > 0")
    if batch is not None and not (isinstance(batch, int) and batch > 0):
        raise ValueError(f"batch is {batch!r}; expected a positive integer or None")
    if split not in ("auto", "hidden", "input"):
        raise ValueError(f"split is {split!r}; expected 'auto', 'hidden' or 'input'")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; expected an integer >= 0")
