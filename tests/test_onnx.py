"""ONNX models as functions: what is read and refused, what the variables are, and what bounds they have."""

import gzip
import itertools
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.helper as oh
import onnx.parser
import pytest
from onnx.numpy_helper import from_array

import jaxbound as jb
from jaxbound import onnx as jb_onnx
from jaxbound import vnnlib

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'


def parsed(graph: str, **weights) -> onnx.ModelProto:
    """A model in the text form of the format, with arrays for weights."""
    proto = onnx.parser.parse_model(HEAD + graph)
    proto.graph.initializer.extend(
        from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return proto


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def perceptron(seed=0, prefix="") -> onnx.ModelProto:
    graph = f"""net (float[n, 3] x) => (float[n, 2] y) {{
      {prefix}h = Gemm({prefix}x0, {prefix}w, {prefix}b)
      {prefix}r = Relu({prefix}h)
      y = MatMul({prefix}r, {prefix}v)
    }}""".replace(f"{prefix}x0", "x")
    weights = {
        "w": normal(3, 4, seed=seed),
        "b": normal(4, seed=seed),
        "v": normal(4, 2, seed=seed),
    }
    return parsed(graph, **{prefix + name: value for name, value in weights.items()})


def expected(seed, x):
    hidden = np.maximum(x @ normal(3, 4, seed=seed) + normal(4, seed=seed), 0)
    return hidden @ normal(4, 2, seed=seed)


@pytest.mark.parametrize("kind", ["proto", "bytes", "packed bytes", "path", "packed path", "text"])
def test_all_sources(tmp_path, kind):
    proto = perceptron()
    data = proto.SerializeToString()
    data = gzip.compress(data) if "packed" in kind else data
    path = tmp_path / ("net.onnx.gz" if "packed" in kind else "net.onnx")
    path.write_bytes(data)
    source = {"proto": proto, "path": path, "packed path": path, "text": str(path)}.get(kind, data)
    model = jb_onnx.load(source)
    x = normal(5, 3, seed=1)
    np.testing.assert_allclose(
        model.apply(model.variables, x), expected(0, x), rtol=1e-5, atol=1e-6
    )


def test_inputs_and_outputs_are_described():
    model = jb_onnx.load(perceptron())
    assert model.inputs == (jb_onnx.Value("x", ("n", 3), np.dtype(np.float32)),)
    assert model.outputs == (jb_onnx.Value("y", ("n", 2), np.dtype(np.float32)),)
    assert set(model.variables) == {"Gemm_0.1", "Gemm_0.2", "MatMul_0.1"}
    assert model.names == {"Gemm_0.1": "w", "Gemm_0.2": "b", "MatMul_0.1": "v"}


def test_an_input_of_another_shape_is_refused():
    model = jb_onnx.load(perceptron())
    for shape in ((5, 4), (3,), (1, 5, 3)):
        with pytest.raises(jb_onnx.OnnxError, match="input 0 has shape"):
            model.apply(model.variables, np.zeros(shape, np.float32))
    with pytest.raises(jb_onnx.OnnxError, match="1 inputs, got 2"):
        model.apply(model.variables, *2 * [np.zeros((1, 3), np.float32)])


def test_sizes_of_one_name_are_equal():
    model = jb_onnx.load(parsed("net (float[n] x, float[n] y) => (float[n] z) { z = Add(x, y) }"))
    model.apply(model.variables, np.zeros(3), np.zeros(3))
    with pytest.raises(jb_onnx.OnnxError, match="input 1 has shape"):
        model.apply(model.variables, np.zeros(3), np.zeros(1))


def test_several_outputs_are_a_tuple():
    graph = "net (float[2] x) => (float[2] y, float[2] z, int64[1] s) { y = Neg(x) z = Abs(x) s = Shape(x) }"
    model = jb_onnx.load(parsed(graph))
    y, z, size = model.apply(model.variables, jnp.array([1.0, -2.0]))
    assert (y.tolist(), z.tolist(), size.tolist()) == ([-1, 2], [1, 2], [2])


def test_networks_of_one_shape_share_a_compilation():
    """Whatever their values, and the axis without a size, are called."""
    models = [
        jb_onnx.load(perceptron(seed, prefix)) for seed, prefix in enumerate(("", "a_", "b_"))
    ]
    count = 0

    @jax.jit
    def plain(variables, x):
        nonlocal count
        count += 1
        return models[0].apply(variables, x)

    x = normal(2, 3)
    for seed, model in enumerate(models):
        assert model.apply is models[0].apply
        np.testing.assert_allclose(
            plain(model.variables, x), expected(seed, x), rtol=1e-5, atol=1e-6
        )
    assert count == 1


def test_other_programs_are_not_shared():
    first = jb_onnx.load(
        parsed("net (float[2] x) => (float[2] y) { y = LeakyRelu <alpha=0.1> (x) }")
    )
    second = jb_onnx.load(
        parsed("net (float[2] x) => (float[2] y) { y = LeakyRelu <alpha=0.2> (x) }")
    )
    assert first.apply is not second.apply


def test_what_shapes_and_weights_determine_is_computed_first():
    graph = """net (float[n, 2, 3] x) => (float[n, 6] y) {
      t = Transpose <perm=[1, 0]> (w)
      sizes = Shape(x)  first = Constant <value_ints=[0]> ()
      n = Gather(sizes, first)  minus = Constant <value_ints=[-1]> ()
      shape = Concat <axis=0> (n, minus)  flat = Reshape(x, shape)
      two = Constant <value_float=2.0> ()  double = Mul(t, two)
      y = MatMul(flat, double)
    }"""
    model = jb_onnx.load(parsed(graph, w=normal(6, 6)))
    assert list(model.variables) == ["MatMul_0.1"]
    assert {node.op for node in model.apply.graph.nodes} <= {
        "Shape",
        "Gather",
        "Concat",
        "Reshape",
        "MatMul",
    }
    x = normal(4, 2, 3, seed=1)
    program = str(jax.make_jaxpr(model.apply)(model.variables, x))
    assert "gather" not in program and "concatenate" not in program
    np.testing.assert_allclose(
        model.apply(model.variables, x),
        x.reshape(4, 6) @ (2 * normal(6, 6).T),
        rtol=1e-5,
        atol=1e-5,
    )


def test_an_initialiser_among_the_inputs_is_a_weight():
    proto = perceptron()
    proto.graph.input.append(oh.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (3, 4)))
    assert [value.name for value in jb_onnx.load(proto).inputs] == ["x"]


def test_nested_functions():
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
    net (float[2] x) => (float[2] y) { y = own.twice <slope=0.5> (x) }
    <domain: "own", opset_import: ["": 17, "own": 1]>
    twice <slope> (x) => (y) { h = own.once <slope=@slope> (x)  y = own.once <slope=@slope> (h) }
    <domain: "own", opset_import: ["": 17]>
    once <slope> (x) => (y) { y = LeakyRelu <alpha: float=@slope> (x) }"""
    text = text.replace("<slope=@slope>", "<slope: float=@slope>")
    model = jb_onnx.load(onnx.parser.parse_model(text))
    assert model.apply(model.variables, jnp.array([4.0, -4.0])).tolist() == [4.0, -1.0]


def test_branches_and_loops_that_constants_decide():
    graph = """net (float[2] x) => (float[2] y, float[3, 2] all) {
      truth = Constant <value = bool {1}> ()
      h = If (truth) <
        then_branch = a () => (float[2] p) { p = Mul(x, w) },
        else_branch = b () => (float[2] q) { q = Neg(x) }
      >
      count = Constant <value = int64 {3}> ()
      y, all = Loop (count, truth, h) <
        body = c (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] u) {
          on = Identity(go)  t = Add(s, w)  u = Identity(s)
        }
      >
    }"""
    w = np.float32([2, 3])
    model = jb_onnx.load(parsed(graph, w=w))
    assert [name for name, value in model.names.items() if value == "w"]
    y, steps = model.apply(model.variables, jnp.array([1.0, -1.0]))
    start = np.array([2.0, -3.0])
    np.testing.assert_array_equal(y, start + 3 * w)
    np.testing.assert_array_equal(steps, [start, start + w, start + 2 * w])


def test_what_depends_on_the_inputs_is_refused_by_name():
    graph = """net (float[2] x) => (float y) {
      zero = Constant <value_float=0.0> ()  sum = ReduceSum <keepdims=0> (x)  c = Greater(sum, zero)
      y = If (c) <then_branch = a () => (float p) { p = Neg(sum) },
                  else_branch = b () => (float q) { q = Abs(sum) }>
    }"""
    model = jb_onnx.load(parsed(graph))
    with pytest.raises(
        jb_onnx.OnnxError, match=r"node 'y' \(If\): a condition .* depends on the inputs"
    ):
        model.apply(model.variables, jnp.ones(2))
    graph = "net (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }"
    model = jb_onnx.load(parsed(graph))
    with pytest.raises(
        jb_onnx.OnnxError, match=r"node 'y' \(Reshape\): a shape, .* depends on the inputs"
    ):
        model.apply(model.variables, jnp.ones(2), jnp.ones(1, int))


def external(folder, location, **entries) -> str:
    proto = perceptron()
    (tensor,) = (t for t in proto.graph.initializer if t.name == "w")
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return data


def test_external_data(tmp_path):
    data = external(tmp_path, "sub/w.bin", offset=8, length=48)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"12345678" + data + b"rest")
    model = jb_onnx.load(tmp_path / "net.onnx")
    x = normal(5, 3, seed=1)
    np.testing.assert_allclose(
        model.apply(model.variables, x), expected(0, x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "location, entries, reason",
    [
        ("w.bin", {}, "is missing"),
        ("../w.bin", {}, "outside"),
        ("/etc/passwd", {}, "outside"),
        ("link.bin", {}, "outside"),
        ("", {}, "is missing"),
        ("short.bin", {"length": 48}, "too short"),
        ("short.bin", {"offset": 10**15}, "too short"),
        ("short.bin", {"offset": -4}, "too short"),
        ("short.bin", {"length": "x"}, "not numbers"),
        ("short.bin", {}, "not valid"),
    ],
)
def test_external_data_stays_in_the_folder(tmp_path, location, entries, reason):
    folder = tmp_path / "models"
    folder.mkdir()
    data = external(folder, location, **entries)
    (tmp_path / "w.bin").write_bytes(data)
    (folder / "short.bin").write_bytes(data[:10])
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(jb_onnx.OnnxError, match=reason):
        jb_onnx.load(folder / "net.onnx")


def test_external_data_needs_a_folder(tmp_path):
    external(tmp_path, "w.bin")
    with pytest.raises(jb_onnx.OnnxError, match="load the model from a path"):
        jb_onnx.load((tmp_path / "net.onnx").read_bytes())


def test_all_that_is_unsupported_is_listed():
    graph = """net (float[2, 2] x) => (float[2, 2] y) {
      a = Det(x)  [second] b = Foo(x)  c = other.Bar(x)
      d = LpNormalization <p=1> (x)
      h = Resize <mode="what"> (x, , s)
      y, mask = MaxPool <kernel_shape=[1]> (h)
    }"""
    graph = graph.replace("[second] ", "")
    proto = parsed(graph, s=np.ones(2, np.float32))
    proto.graph.node[1].name = "second"
    proto.opset_import.append(oh.make_opsetid("other", 1))
    with pytest.raises(jb_onnx.UnsupportedOnnxError) as caught:
        jb_onnx.load(proto)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "node 'a' (Det)",
        "node 'second' (Foo)",
        "node 'c' (Bar)",
        "node 'h' (Resize)",
        "node 'y' (MaxPool)",
    ]


@pytest.mark.parametrize("opset", [6, 99])
def test_other_opsets_are_refused(opset):
    proto = perceptron()
    proto.opset_import[0].version = opset
    with pytest.raises(jb_onnx.UnsupportedOnnxError, match=f"opset {opset}"):
        jb_onnx.load(proto)


def changed(change) -> onnx.ModelProto:
    proto = perceptron()
    change(proto.graph)
    return proto


def tensor_of(graph, name="w"):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def grown(graph):
    """A shape of 2**50 elements, which nothing must make."""
    graph.initializer.append(from_array(np.array([2**25, 2**25], np.int64), "size"))
    graph.node.append(oh.make_node("ConstantOfShape", ["size"], ["big"]))
    graph.output.append(oh.make_tensor_value_info("big", onnx.TensorProto.FLOAT, (2**25, 2**25)))


def deep() -> bytes:
    """Branches within branches, 2,000 of them, as bytes: the format's library does not write it."""

    def field(number: int, data: bytes) -> bytes:
        size, length = [], len(data)
        while length > 127:
            size, length = [*size, length % 128 + 128], length // 128
        return bytes([8 * number + 2, *size, length]) + data

    data = b""
    for _ in range(2000):
        data = field(1, field(5, field(6, data)))  # a node of an attribute of a graph
    return field(7, data)


WRONG = {
    "empty": b"",
    "not a model": b"hello, world",
    "pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08",
    "not packed": b"\x1f\x8bhello",
    "packed and cut off": gzip.compress(perceptron().SerializeToString())[:-20],
    "zeros": bytes(10_000),
    "cycle": changed(lambda g: g.node[0].input.__setitem__(0, "y")),
    "not in order": changed(lambda g: g.node.reverse()),
    "duplicate name": changed(lambda g: g.node[1].output.__setitem__(0, "h")),
    "duplicate weight": changed(lambda g: g.initializer.append(g.initializer[0])),
    "unknown value": changed(lambda g: g.node[0].input.__setitem__(1, "nothing")),
    "unknown output": changed(lambda g: setattr(g.output[0], "name", "nothing")),
    "too few inputs": changed(lambda g: g.node[2].input.pop()),
    "too many inputs": changed(lambda g: g.node[1].input.append("w")),
    "unknown attribute": changed(
        lambda g: g.node[1].attribute.append(oh.make_attribute("speed", 2))
    ),
    "wrong attribute type": changed(
        lambda g: g.node[0].attribute.append(oh.make_attribute("alpha", "x"))
    ),
    "shapes contradict": changed(lambda g: tensor_of(g).CopyFrom(from_array(normal(5, 4), "w"))),
    "types contradict": changed(
        lambda g: tensor_of(g).CopyFrom(from_array(np.ones((3, 4), int), "w"))
    ),
    "output contradicts": changed(
        lambda g: setattr(g.output[0].type.tensor_type.shape.dim[1], "dim_value", 7)
    ),
    "data too short": changed(lambda g: setattr(tensor_of(g), "raw_data", b"1234")),
    "no data": changed(lambda g: tensor_of(g).ClearField("raw_data")),
    "huge weight": changed(lambda g: tensor_of(g).dims.__setitem__(0, 2**40)),
    "negative size": changed(lambda g: tensor_of(g).dims.__setitem__(0, -3)),
    "unknown type": changed(lambda g: setattr(tensor_of(g), "data_type", 99)),
    "texts": changed(
        lambda g: setattr(g.input[0].type.tensor_type, "elem_type", onnx.TensorProto.STRING)
    ),
    "sequence": changed(
        lambda g: g.input[0].type.sequence_type.elem_type.tensor_type.SetInParent()
    ),
    "no graph": onnx.ModelProto(),
    "no version": onnx.ModelProto(graph=perceptron().graph, ir_version=8),
    "two versions": onnx.ModelProto(
        graph=perceptron().graph, ir_version=8, opset_import=2 * [oh.make_opsetid("", 17)]
    ),
    "too large": changed(grown),
    "deep": deep(),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_at_once(name):
    started = time.process_time()
    with pytest.raises(jb_onnx.OnnxError):
        jb_onnx.load(WRONG[name])
    assert time.process_time() - started < 5


def test_truncated_and_altered_files_raise_our_error_or_load():
    data = perceptron().SerializeToString()
    random = np.random.default_rng(0)
    failed = 0
    for i in range(200):
        broken = bytearray(data[: random.integers(len(data))] if i % 2 else data)
        for place in random.integers(len(broken), size=3) if len(broken) else []:
            broken[place] = random.integers(256)
        try:
            jb_onnx.load(bytes(broken))
        except jb_onnx.OnnxError:
            failed += 1
    assert failed > 100


def test_functions_that_call_themselves_are_refused():
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
    net (float[2] x) => (float[2] y) { y = own.f (x) }
    <domain: "own", opset_import: ["": 17, "own": 1]>
    f (x) => (y) { y = own.f (x) }"""
    with pytest.raises(jb_onnx.OnnxError):
        jb_onnx.load(onnx.parser.parse_model(text))


LAYERS = {
    "PRelu": ("PRelu(x, w)", {"w": np.float32([0.1, 0.2, -0.3, 2.0])}),
    "Softmax": ("Softmax(x)", {}),
    "Pow": ("Pow(x, w)", {"w": np.float32(2)}),
    "LpNormalization": ("LpNormalization(x)", {}),
    "Clip": ("Clip(x, w, v)", {"w": np.float32(-0.3), "v": np.float32(0.5)}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bounds_hold_and_are_finite(name):
    call, weights = LAYERS[name]
    graph = f"net (float[1, 4] x0) => (float[1, m] y) {{ x = MatMul(x0, m0)  y = {call} }}"
    model = jb_onnx.load(parsed(graph, m0=normal(4, 4, seed=3), **weights))
    center = normal(1, 4, seed=5)
    region = jb.linf_ball(jnp.asarray(center), 0.2)
    points = center + np.random.default_rng(0).uniform(-0.2, 0.2, (500, 1, 4)).astype(np.float32)
    values = np.asarray(jax.vmap(model.apply, (None, 0))(model.variables, points))
    found = jb.crown(model.apply, model.variables, region)
    lower, upper = np.asarray(found.lower), np.asarray(found.upper)
    assert (lower - 1e-5 <= values).all() and (values <= upper + 1e-5).all()
    assert np.isfinite(lower).all() and np.isfinite(upper).all()


def test_a_property_of_a_network():
    model = jb_onnx.load(perceptron())
    names = [f"X_{i}" for i in range(3)]
    text = "".join(
        f"(declare-const {n} Real)(assert (<= -0.1 {n}))(assert (<= {n} 0.1))" for n in names
    )
    text += "(declare-const Y_0 Real)(declare-const Y_1 Real)"
    corners = np.array(list(itertools.product([-0.1, 0.1], repeat=3)), np.float32)
    values = expected(0, corners)[:, 0]
    beyond, inside = values.max() + 0.5, values.mean()
    found = vnnlib.verify(model, vnnlib.loads(f"{text}(assert (>= Y_0 {beyond:.6f}))"))
    assert found.status == "verified"
    prop = vnnlib.loads(f"{text}(assert (>= Y_0 {inside:.6f}))")
    found = vnnlib.verify(model, prop)
    assert found.status == "falsified" and found.witness.shape == (1, 3)
    assert prop.violated(found.witness, model.apply(model.variables, found.witness))


def test_the_package_does_not_import_it():
    code = "import sys, jaxbound, jaxbound.vnnlib; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_cast_to_the_type_that_a_value_has_is_none():
    """Also where the model is computed in float64, as to decide a property; other casts stay."""
    text = """
    net (float[1, 1, 3, 3] x) => (float[1, 1, 2, 2] y, int32[1, 1, 2, 2] z)
    <float[1, 1, 2, 2] w = {1, 2, 3, 4}, bool c = {1}> {
      f = Cast <to = 1> (x)
      h = If (c) <then_branch = one () => (float[1, 1, 3, 3] a) { a = Cast <to = 1> (f) },
                  else_branch = two () => (float[1, 1, 3, 3] b) { b = Identity (f) }>
      y = Conv (h, w)
      z = Cast <to = 6> (y)
    }"""
    model = jb_onnx.load(onnx.parser.parse_model(HEAD + text))
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda w: w.astype(jnp.float64), model.variables)
        x = jnp.full((1, 1, 3, 3), 1 + 1e-12)
        y, z = model.apply(variables, x)
    assert y.dtype == jnp.float64 and (np.asarray(y) > 10).all() and z.dtype == jnp.int32
