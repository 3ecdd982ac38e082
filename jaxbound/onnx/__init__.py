"""Reads networks in ONNX as JAX functions of their weights and inputs.

It needs the extra `jaxbound[onnx]`; `import jaxbound` does not import this package.
"""

import importlib.util

if importlib.util.find_spec("onnx") is None:
    raise ModuleNotFoundError(
        'jaxbound.onnx needs the package onnx: pip install "jaxbound[onnx]"', name="onnx"
    )

from jaxbound.onnx._errors import OnnxError as OnnxError
from jaxbound.onnx._errors import UnsupportedOnnxError as UnsupportedOnnxError
from jaxbound.onnx._files import load as load
from jaxbound.onnx._model import Model as Model
from jaxbound.onnx._model import Value as Value
