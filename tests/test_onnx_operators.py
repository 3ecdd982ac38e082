"""Every ONNX operator, against the format's own tests and its reference implementation."""

import fnmatch
import functools
import warnings

import jax
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from jaxbound import onnx as jb_onnx
from jaxbound.onnx._graph import CONTROL
from jaxbound.onnx._operators import OPERATORS

KNOWN = {*OPERATORS, *CONTROL}

# Tests of the format that are left out, and why; * stands for anything.
LEFT_OUT = {
    "test_batchnorm_example_training_mode": "training",
    "test_batchnorm_epsilon_training_mode": "training",
    "test_training_dropout*": "training is random",
    "test_maxpool_with_argmax*": "the places of maxima, a second output",
    "test_gathernd_example_int32_batch_dim1": "batch_dims",
    "test_equal_string*": "texts",
    "test_identity_sequence": "sequences",
    "test_identity_opt": "optional values",
    "test_loop13_seq": "sequences",
    "test_loop16_seq_none": "sequences",
    "test_if_seq": "sequences",
    "test_if_opt": "optional values",
    "test_not_*d": "opset 1",
}
# Casts to these types, which no device computes in.
SMALL_TYPES = ("FLOAT8", "FLOAT4", "INT4", "INT2", "e8m0", "STRING")


@functools.cache
def cases() -> dict[str, list]:
    """The format's own tests of the operators that are known, by their first operator."""
    found = {name: [] for name in KNOWN}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their making
        tests = load_model_tests(kind="node")
    for test in tests:
        nodes = test.model.graph.node
        names = {node.op_type for node in nodes}
        if nodes and names <= KNOWN and not {node.domain for node in nodes} - {"", "ai.onnx"}:
            found[nodes[0].op_type].append(test)
    return found


def left_out(name: str) -> bool:
    small = name.startswith("test_cast_") and any(part in name for part in SMALL_TYPES)
    return small or "expanded" in name or any(fnmatch.fnmatch(name, key) for key in LEFT_OUT)


def with_known(model: onnx.ModelProto, inputs: list) -> tuple[onnx.ModelProto, list]:
    """A model in which what must be known beforehand (shapes, axes, conditions) is a constant."""
    inputs = [
        onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)
        for x in inputs
    ]
    static = set()
    for node in model.graph.node:
        places = OPERATORS[node.op_type].static if node.op_type in OPERATORS else (0, 1)
        static |= {node.input[i] for i in places if i < len(node.input)}
    known = onnx.ModelProto()
    known.CopyFrom(model)
    stated = list(known.graph.input)
    del known.graph.input[:]
    left = []
    for value, x in zip(stated, inputs, strict=False):
        if value.name in static:
            known.graph.initializer.append(onnx.numpy_helper.from_array(x, value.name))
        else:
            known.graph.input.append(value)
            left.append(x)
    return known, left


@pytest.mark.parametrize("op", sorted(KNOWN))
def test_the_tests_of_the_format_pass(op):
    tests = [test for test in cases()[op] if not left_out(test.name)]
    for test in tests:
        for inputs, outputs in test.data_sets:
            proto, inputs = with_known(test.model, inputs)
            with jax.enable_x64(True):
                model = jb_onnx.load(proto)
                found = jax.tree.leaves(model.apply(model.variables, *inputs))
            assert len(found) == len(outputs)
            for value, expected in zip(found, outputs, strict=True):
                if isinstance(expected, onnx.TensorProto):
                    expected = onnx.numpy_helper.to_array(expected)
                assert value.shape == np.shape(expected), test.name
                assert value.dtype == np.asarray(expected).dtype, test.name
                value, expected = (np.asarray(v).astype(np.float64) for v in (value, expected))
                np.testing.assert_allclose(
                    value, expected, rtol=test.rtol, atol=test.atol, err_msg=test.name
                )


def test_what_is_left_out_exists():
    names = {test.name for tests in cases().values() for test in tests}
    gone = [key for key in LEFT_OUT if not any(fnmatch.fnmatch(name, key) for name in names)]
    assert not gone


def model_of(op: str, inputs: list, constants: list, opset: int, outputs: int = 1, **attributes):
    """A model of one node, whose later inputs are constants; None leaves one out."""
    names = [f"x{i}" for i in range(len(inputs))]
    weights = ["" if value is None else f"w{i}" for i, value in enumerate(constants)]
    results = [f"y{i}" for i in range(outputs)]
    node = oh.make_node(op, names + weights, results, **attributes)
    dtype = oh.np_dtype_to_tensor_dtype
    graph = oh.make_graph(
        [node],
        "g",
        [
            oh.make_tensor_value_info(n, dtype(x.dtype), x.shape)
            for n, x in zip(names, inputs, strict=True)
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
        [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(weights, constants, strict=True)
            if name
        ],
    )
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(proto)
    for value, known in zip(proto.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)
    return proto


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(*values):
    return np.array(values, np.int64)


IMAGE, LINE, VOLUME = normal(2, 4, 7, 6), normal(2, 4, 9), normal(1, 2, 5, 4, 6)
# operator, version, inputs, constants, attributes
OLDER = {
    "add_7": ("Add", 7, [normal(2, 3)], [normal(3)], {}),
    "clip_6": ("Clip", 7, [normal(5)], [], {"min": -0.5, "max": 0.25}),
    "clip_one_end": ("Clip", 13, [normal(5)], [None, np.float32(0.25)], {}),
    "softmax_of_all_later_axes": ("Softmax", 9, [normal(2, 3, 4)], [], {"axis": 1}),
    "log_softmax_of_all_later_axes": ("LogSoftmax", 11, [normal(2, 3, 4)], [], {"axis": -2}),
    "pad_2": ("Pad", 7, [IMAGE], [], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 3.0}),
    "pad_negative": ("Pad", 13, [IMAGE], [whole(0, 0, -1, 2, 0, -1, -2, 1)], {}),
    "slice_1": ("Slice", 9, [IMAGE], [], {"starts": [1, -3], "ends": [100, -1], "axes": [2, 3]}),
    "slice_back": ("Slice", 13, [IMAGE], [whole(-1), whole(-100), whole(3), whole(-2)], {}),
    "slice_far": ("Slice", 13, [IMAGE], [whole(0), whole(2**63 - 1), whole(-2)], {}),
    "slice_empty": ("Slice", 13, [IMAGE], [whole(5), whole(2), whole(2)], {}),
    "squeeze_1": ("Squeeze", 11, [normal(2, 1, 3, 1)], [], {"axes": [-1]}),
    "squeeze_all": ("Squeeze", 11, [normal(2, 1, 3, 1)], [], {}),
    "unsqueeze_1": ("Unsqueeze", 11, [normal(2, 3)], [], {"axes": [0, -1]}),
    "split_2": ("Split", 11, [normal(6, 2)], [], {"axis": 0, "split": [1, 2, 3], "outputs": 3}),
    "split_uneven": ("Split", 18, [normal(7, 2)], [], {"num_outputs": 3, "outputs": 3}),
    "reduce_sum_1": ("ReduceSum", 11, [IMAGE], [], {"axes": [1, -1], "keepdims": 0}),
    "reduce_mean_13": ("ReduceMean", 13, [IMAGE], [], {"axes": [2, 3]}),
    "reduce_noop": ("ReduceSum", 13, [IMAGE], [], {"noop_with_empty_axes": 1}),
    "dropout_7": ("Dropout", 7, [IMAGE], [], {"ratio": 0.3}),
    "batch_norm_7": (
        "BatchNormalization",
        7,
        [IMAGE],
        [normal(4), normal(4), normal(4), abs(normal(4))],
        {"epsilon": 0.01},
    ),
    "gemm_7": ("Gemm", 7, [normal(2, 3)], [normal(4, 3), normal(4)], {"transB": 1, "alpha": 0.5}),
    "gemm_transposed": (
        "Gemm",
        13,
        [normal(3, 2)],
        [normal(3, 4), normal(2, 1)],
        {"transA": 1, "beta": 2.0},
    ),
    "matmul_stacks": ("MatMul", 13, [normal(5, 2, 3)], [normal(3, 4)], {}),
    "conv_1d": (
        "Conv",
        11,
        [LINE],
        [normal(3, 4, 3), normal(3)],
        {"dilations": [2], "pads": [1, 3]},
    ),
    "conv_3d": ("Conv", 11, [VOLUME], [normal(3, 2, 2, 3, 2)], {"strides": [2, 1, 2]}),
    "conv_groups": ("Conv", 11, [IMAGE], [normal(6, 2, 3, 3)], {"group": 2, "pads": [1, 0, 2, 1]}),
    "conv_same_upper": (
        "Conv",
        11,
        [IMAGE],
        [normal(3, 4, 2, 3)],
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "conv_same_lower": (
        "Conv",
        11,
        [IMAGE],
        [normal(3, 4, 2, 4)],
        {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
    ),
    "conv_valid": ("Conv", 11, [IMAGE], [normal(3, 4, 2, 4)], {"auto_pad": "VALID"}),
    "conv_transpose_1d": ("ConvTranspose", 11, [LINE], [normal(4, 3, 3)], {"strides": [2]}),
    "conv_transpose_groups": (
        "ConvTranspose",
        11,
        [IMAGE],
        [normal(4, 3, 3, 2), normal(6)],
        {"group": 2, "strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]},
    ),
    "max_pool_ceil": (
        "MaxPool",
        12,
        [IMAGE],
        [],
        {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1, "pads": [1, 0, 0, 1]},
    ),
    "max_pool_dilated": (
        "MaxPool",
        12,
        [IMAGE],
        [],
        {"kernel_shape": [2, 3], "dilations": [3, 2], "strides": [1, 2]},
    ),
    "max_pool_1d_same": (
        "MaxPool",
        12,
        [LINE],
        [],
        {"kernel_shape": [4], "auto_pad": "SAME_LOWER"},
    ),
    "average_pool_pads": (
        "AveragePool",
        11,
        [IMAGE],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "average_pool_all": (
        "AveragePool",
        11,
        [IMAGE],
        [],
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    ),
    "average_pool_3d": ("AveragePool", 11, [VOLUME], [], {"kernel_shape": [2, 2, 3]}),
    "upsample_9": ("Upsample", 9, [IMAGE], [np.float32([1, 1, 2, 3])], {"mode": "nearest"}),
    "upsample_linear": ("Upsample", 9, [IMAGE], [np.float32([1, 1, 2, 2])], {"mode": "linear"}),
    "resize_10": ("Resize", 10, [IMAGE], [np.float32([1, 1, 2, 0.5])], {"mode": "nearest"}),
    "gather_negative": ("Gather", 13, [IMAGE], [whole(-1, 0)], {"axis": -1}),
    "gather_scalar": ("Gather", 13, [IMAGE], [np.int64(-2)], {"axis": 2}),
    "flatten_negative": ("Flatten", 13, [IMAGE], [], {"axis": -1}),
    "flatten_0": ("Flatten", 9, [IMAGE], [], {"axis": 0}),
    "reshape_0": ("Reshape", 13, [IMAGE], [whole(0, -1, 6)], {}),
    "concat_negative": ("Concat", 13, [IMAGE, IMAGE], [], {"axis": -1}),
    "power_of_whole": ("Pow", 13, [normal(4)], [np.float32(3)], {}),
    "power_of_half": ("Pow", 13, [abs(normal(4))], [np.float32([0.5])], {}),
    "powers": ("Pow", 13, [abs(normal(4))], [normal(2, 4)], {}),
    "divide_whole": ("Div", 13, [whole(7, -7, 7, -7)], [whole(2, 2, -2, -2)], {}),
    "prelu_channels": ("PRelu", 9, [IMAGE], [normal(4, 1, 1)], {}),
    "einsum": ("Einsum", 12, [normal(2, 3, 4)], [normal(2, 4, 5)], {"equation": "bij, bjk -> bik"}),
    "cumsum": ("CumSum", 11, [IMAGE], [np.int64(-1)], {"reverse": 1, "exclusive": 1}),
    "lstm": (
        "LSTM",
        14,
        [normal(3, 2, 4)],
        [normal(1, 20, 4), normal(1, 20, 5)],
        {"hidden_size": 5, "outputs": 3},
    ),
    "gru_reset_after": (
        "GRU",
        14,
        [normal(3, 2, 4)],
        [normal(1, 15, 4), normal(1, 15, 5), normal(1, 30)],
        {"hidden_size": 5, "outputs": 2, "linear_before_reset": 1},
    ),
}


def softmax(x):
    """Over all axes but the first."""
    found = np.exp(x - x.max((1, 2), keepdims=True))
    return found / found.sum((1, 2), keepdims=True)


def transposed(x, kernel, bias):
    """Every entry spreads its kernel, two channels into three at a time."""
    batch, _, height, width = x.shape
    full = np.zeros((batch, 6, 2 * height + 2, 3 * width + 1))
    for c, i, j in np.ndindex(4, height, width):
        channels = slice(3 * (c // 2), 3 * (c // 2) + 3)
        spread = x[:, c, i, j, None, None, None] * kernel[c]
        full[:, channels, 2 * i : 2 * i + 3, 3 * j : 3 * j + 2] += spread
    return full[:, :, 1:, :-1] + bias[:, None, None]


def doubled(x, axis):
    """Twice as many entries, those between the old ones their means."""
    following = np.take(x, np.minimum(np.arange(x.shape[axis]) + 1, x.shape[axis] - 1), axis)
    found = np.stack([x, (x + following) / 2], axis + 1)
    return found.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def windows(x):
    padded = np.pad(x, ((0, 0), (0, 0), (2, 1)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, 4, 2)


# What the reference implementation does not know, or gets wrong.
BY_HAND = {
    "softmax_of_all_later_axes": softmax,
    "log_softmax_of_all_later_axes": lambda x: np.log(softmax(x)),
    "pad_negative": lambda x, _: np.pad(x[:, :-1, 1:-2], ((0, 0), (0, 0), (0, 0), (2, 1))),
    "batch_norm_7": lambda x, scale, bias, mean, variance: (
        (x.swapaxes(1, 3) - mean) / np.sqrt(variance + 0.01) * scale + bias
    ).swapaxes(1, 3),
    "conv_transpose_groups": transposed,
    "max_pool_1d_same": lambda x: windows(x).max(-1),
    "upsample_linear": lambda x, _: doubled(doubled(x, 2), 3),
    "resize_10": lambda x, _: np.repeat(x, 2, 2)[..., ::2],
}


@pytest.mark.parametrize("name", OLDER)
def test_older_versions_and_rarer_attributes(name):
    op, opset, inputs, constants, attributes = OLDER[name]
    proto = model_of(op, inputs, constants, opset, **attributes)
    model = jb_onnx.load(proto)
    found = jax.tree.leaves(jax.jit(model.apply)(model.variables, *inputs))
    names = [value.name for value in proto.graph.input]
    if name in BY_HAND:
        expected = [BY_HAND[name](*inputs, *constants)]
    else:
        expected = ReferenceEvaluator(proto).run(None, dict(zip(names, inputs, strict=True)))
    for value, wanted in zip(found, expected, strict=True):
        assert value.shape == wanted.shape
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["Neg", "Abs", "Floor", "Div", "Equal", "Where", "Concat", "Gather"])
def test_what_is_known_is_computed_in_numpy(op):
    """The same operators on constants alone leave no node."""
    constants = {
        "Div": [whole(-7, 7), whole(2, -2)],
        "Equal": [whole(1, 2), whole(1, 3)],
        "Where": [np.array([True, False]), whole(1, 2), whole(3, 4)],
        "Concat": [whole(1), whole(2, 3)],
        "Gather": [whole(5, 6, 7), whole(-1)],
    }.get(op, [normal(3)])
    attributes = {"Concat": {"axis": 0}}.get(op, {})
    proto = model_of(op, [], constants, 13, **attributes)
    model = jb_onnx.load(proto)
    assert not model.apply.graph.nodes
    np.testing.assert_array_equal(
        model.apply(model.variables), ReferenceEvaluator(proto).run(None, {})[0]
    )
