"""Counts how many terms an element of a value adds up, or of a row that is pulled back: what rounding errors grow with.

A count takes the operands (intervals where they are uncertain, arrays where known), the value or its variable, and
the parameters of the primitive.
"""

from __future__ import annotations

import math

from jaxbound._bounds.interval import Interval


def never(operands, out, params) -> int:
    return 0


def single(operands, out, params) -> int:
    return 1


def elements(operands, out, params) -> int:
    """Returns the number of elements of all operands: no sum has more terms, if none counts twice."""
    return sum(math.prod(x.shape) for x in operands)


def copies(operands, out, params) -> int:
    """Returns the number of elements of the value: no element of a row that is pulled back adds up more."""
    return math.prod(out.shape)


def repeated(operands, out, params) -> int:
    """Returns the number of elements of the value if there are more than in the operands, else 0."""
    return math.prod(out.shape) if math.prod(out.shape) > elements(operands, out, params) else 0


def spread(operands, out, params) -> int:
    """Returns how many times a broadcast repeats an element, 0 if once."""
    times = math.prod(out.shape) // max(1, math.prod(operands[0].shape))
    return times if times > 1 else 0


def padded(operands, out, params) -> int:
    """Returns how many copies of an uncertain padding there may be."""
    return math.prod(out.shape) if isinstance(operands[1], Interval) else 0


def reduced(operands, out, params) -> int:
    return math.prod(operands[0].shape) // max(1, math.prod(out.shape))


def along(operands, out, params) -> int:
    return operands[0].shape[params["axis"]]


def window(operands, out, params) -> int:
    return math.prod(params["window_dimensions"])


def contracted(operands, out, params) -> int:
    (summed, _), _ = params["dimension_numbers"]
    return math.prod(operands[0].shape[i] for i in summed)


def reached(operands, out, params) -> int:
    """Returns in how many elements of a matrix product an element of a factor enters, at most."""
    summed, batch = params["dimension_numbers"]
    pairs = zip(operands[:2], summed, batch, strict=True)
    return max(
        math.prod(n for i, n in enumerate(x.shape) if i not in (*s, *b)) for x, s, b in pairs
    )


def taps(operands, out, params) -> int:
    """Returns how many products an element of a convolution adds up."""
    kernel = operands[1].shape
    return math.prod(kernel) // max(1, kernel[params["dimension_numbers"].rhs_spec[0]])


def touched(operands, out, params) -> int:
    """Returns in how many elements of a convolution an element of the image enters, at most; of a kernel, in all."""
    kernel = operands[1].shape
    if isinstance(operands[1], Interval) or params["batch_group_count"] != 1:
        return math.prod(out.shape)
    return math.prod(kernel) // max(1, kernel[params["dimension_numbers"].rhs_spec[1]])
