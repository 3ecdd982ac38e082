"""Holds the table of all operators; every family of them has a file."""

from jaxbound.onnx._operators import arithmetic, layers, recurrent, reductions, resizing, shapes
from jaxbound.onnx._operators._table import Call as Call
from jaxbound.onnx._operators._table import Operator as Operator

OPERATORS: dict[str, Operator] = {
    **arithmetic.TABLE,
    **layers.TABLE,
    **recurrent.TABLE,
    **reductions.TABLE,
    **resizing.TABLE,
    **shapes.TABLE,
}
