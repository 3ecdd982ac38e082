"""Maps the operators that compute each element by itself, and sums and products of matrices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import lax

from jaxbound.onnx._errors import OnnxError
from jaxbound.onnx._operators._table import EXACT, Operator


def by_name(name: str) -> Operator:
    """Returns the operator that NumPy and JAX call by the same name."""
    return Operator(lambda a, *xs: getattr(a.np, name)(*xs))


def many(name: str) -> Operator:
    """Returns the operator that combines any number of values by a function of two."""
    return Operator(lambda a, *xs: functools.reduce(getattr(a.np, name), xs))


def jax_only(apply) -> Operator:
    """Returns an operator that NumPy has no function for."""
    return Operator(apply, plain=False)


def divide(a, x, y):
    """Divides, and rounds whole numbers towards 0."""
    if not a.np.issubdtype(x.dtype, np.integer):
        return x / y
    return (abs(x) // abs(y)) * a.np.sign(x) * a.np.sign(y)


def remainder(a, x, y):
    """Returns what a division leaves, with the sign of the divisor, or (fmod) of the dividend."""
    return a.np.fmod(x, y) if a.fmod else a.np.mod(x, y)


def power(a, x, y):
    """Raises to a power, by a multiplication where the exponent is a known whole number."""
    if isinstance(y, np.ndarray) and y.size == 1 and not isinstance(x, np.ndarray):
        exponent = y.item()
        found = x ** (int(exponent) if exponent == int(exponent) else exponent)
        return a.np.broadcast_to(found, np.broadcast_shapes(x.shape, y.shape)).astype(x.dtype)
    return a.np.power(x, y).astype(x.dtype)


def clip(a, x, low=None, high=None):
    """Clips between ends, which are attributes before version 11."""
    low, high = (a.min, a.max) if a.opset < 11 else (low, high)
    if low is not None:
        x = a.np.maximum(x, a.np.asarray(low, x.dtype))
    return x if high is None else a.np.minimum(x, a.np.asarray(high, x.dtype))


def cast(a, x):
    """Casts to the type of a number, a truth value being one that is not 0."""
    to = a.np.dtype(onnx.helper.tensor_dtype_to_np_dtype(a.to))
    return x.astype(to if a.np is np else jax.dtypes.canonicalize_dtype(to))


def prelu(_, x, slope):
    """Multiplies what is below 0 by a slope, which may differ between elements."""
    return jnp.where(x >= 0, x, slope * x)


def gemm(a, x, y, bias=None):
    """Multiplies two matrices, transposed or scaled, and adds a third."""
    found = jnp.matmul(x.T if a.transA else x, y.T if a.transB else y, precision=EXACT)
    found = found if a.alpha == 1 else found * a.alpha
    if bias is None or a.beta == 0:
        return found
    if np.broadcast_shapes(found.shape, bias.shape) != found.shape:
        raise OnnxError(f"C of shape {bias.shape} is added to a product of shape {found.shape}")
    return found + (bias if a.beta == 1 else bias * a.beta)


def matmul(a, x, y):
    """Multiplies matrices, or stacks of them."""
    return np.matmul(x, y) if a.np is np else jnp.matmul(x, y, precision=EXACT)


def einsum(a, *xs):
    """Sums products of entries."""
    return jnp.einsum(a.equation.replace(" ", ""), *xs, precision=EXACT)


def hard_sigmoid(a, x):
    """Clips a line between 0 and 1."""
    return a.np.clip(a.alpha * x + a.beta, 0, 1)


# What may be cast to: types that computers, not only files, have.
FLOATS = ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"]
WHOLE = [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
TYPES = tuple(onnx.TensorProto.DataType.Value(name) for name in ["BOOL", *FLOATS, *WHOLE])

TABLE = {
    "Add": Operator(lambda a, x, y: x + y),
    "Sub": Operator(lambda a, x, y: x - y),
    "Mul": Operator(lambda a, x, y: x * y),
    "Div": Operator(divide),
    "Mod": Operator(remainder),
    "Pow": Operator(power, static=(1,)),
    "Neg": Operator(lambda a, x: -x),
    "Abs": by_name("abs"),
    "Sign": by_name("sign"),
    "Sqrt": by_name("sqrt"),
    "Reciprocal": Operator(lambda a, x: 1 / x),
    "Exp": by_name("exp"),
    "Log": by_name("log"),
    "Sin": by_name("sin"),
    "Cos": by_name("cos"),
    "Tan": by_name("tan"),
    "Floor": by_name("floor"),
    "Ceil": by_name("ceil"),
    "Round": by_name("round"),
    "Max": many("maximum"),
    "Min": many("minimum"),
    "Sum": many("add"),
    "Mean": Operator(lambda a, *xs: functools.reduce(a.np.add, xs) / len(xs)),
    "MatMul": Operator(matmul),
    "Gemm": jax_only(gemm),
    "Einsum": jax_only(einsum),
    # Truth values
    "Equal": by_name("equal"),
    "Less": by_name("less"),
    "LessOrEqual": by_name("less_equal"),
    "Greater": by_name("greater"),
    "GreaterOrEqual": by_name("greater_equal"),
    "Not": by_name("logical_not"),
    "And": by_name("logical_and"),
    "Or": by_name("logical_or"),
    "Xor": by_name("logical_xor"),
    "Where": by_name("where"),
    "IsNaN": by_name("isnan"),
    # Types
    "Cast": Operator(cast, allowed={"to": TYPES}),
    "Identity": Operator(lambda a, x: x),
    # Activations
    "Relu": Operator(lambda a, x: a.np.maximum(x, 0)),
    "LeakyRelu": jax_only(lambda a, x: jax.nn.leaky_relu(x, a.alpha)),
    "PRelu": jax_only(prelu),
    "Elu": jax_only(lambda a, x: jax.nn.elu(x, a.alpha)),
    "Selu": jax_only(lambda a, x: a.gamma * jax.nn.elu(x, a.alpha)),
    "Celu": jax_only(lambda a, x: jax.nn.celu(x, a.alpha)),
    "Softplus": jax_only(lambda a, x: jax.nn.softplus(x)),
    "Gelu": jax_only(lambda a, x: jax.nn.gelu(x, approximate=a.approximate == "tanh")),
    "HardSigmoid": Operator(hard_sigmoid),
    "HardSwish": Operator(lambda a, x: x * a.np.clip(x / 6 + 0.5, 0, 1)),
    "Softsign": jax_only(lambda a, x: jax.nn.soft_sign(x)),
    "Mish": jax_only(lambda a, x: jax.nn.mish(x)),
    "Sigmoid": jax_only(lambda a, x: jax.nn.sigmoid(x)),
    "Tanh": by_name("tanh"),
    "Erf": jax_only(lambda a, x: lax.erf(x)),
    "Clip": Operator(clip),
}
