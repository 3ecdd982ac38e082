"""The command: what it prints, writes and returns, and that a benchmark goes on whatever happens."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest

import jaxbound as jb
from jaxbound import _cache, _command
from jaxbound._command import answers, instances, results, start, witnesses
from jaxbound._command.compiling import Compiling

ROOT = Path(__file__).parent.parent
NET = """<ir_version: 8, opset_import: ["": 17]>
net ({type}[{batch}, 2] x) => ({type}[{batch}, 1] y) <{type}[2, 1] w = {{1, -1}}> {{
  h = Relu(x)  y = {op}(h, w)
}}"""
PROPERTY = """(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 0.1))
(assert (>= Y_0 {}))"""
MISSING = "unsat.vnnlib.missing"


def save(path, op="MatMul", dtype="float", batch="N"):
    model = onnx.parser.parse_model(NET.format(op=op, type=dtype, batch=batch))
    onnx.save(model, path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A network whose output is at most 1 on the box, and properties."""
    save(tmp_path / "net.onnx")
    for name, limit in (("unsat", 1.5), ("sat", 0.5)):
        (tmp_path / f"{name}.vnnlib").write_text(PROPERTY.format(limit))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verify(*arguments):
    return _command.main(["verify", *map(str, arguments)])


def test_a_property_that_holds_is_unsat(files, capsys):
    assert verify("net.onnx", "unsat.vnnlib", "--out", "new/result.txt") == 0
    assert capsys.readouterr().out == "unsat\n" == Path("new/result.txt").read_text()


def test_an_answer_is_not_lost_where_it_cannot_be_written(files, capsys):
    Path("file").touch()
    assert verify("net.onnx", "unsat.vnnlib", "--out", "file/result.txt") == 5
    shown = capsys.readouterr()
    assert shown.out == "unsat\n" and "file" in shown.err
    Path("instances.csv").write_text("net.onnx,sat.vnnlib,60\n")
    arguments = "--instances", "instances.csv", "--results", "results.csv"
    assert verify(*arguments, "--witnesses", "file") == 5
    assert not Path("results.csv").exists()  # said before anything is decided


def test_a_witness_is_written_with_its_outputs(files, capsys):
    assert verify("net.onnx", "sat.vnnlib", "--out", "result.txt", "--verbose") == 1
    shown = capsys.readouterr()
    assert shown.out == Path("result.txt").read_text()
    verdict, witness = shown.out.split("\n", 1)
    assert verdict == "sat" and witness.startswith("((X_0 ") and witness.endswith("))\n")
    words = witness.replace("(", " ").replace(")", " ").split()
    values = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    assert list(values) == ["X_0", "X_1", "Y_0"] and values["Y_0"] >= 0.5
    x = np.array([[values["X_0"], values["X_1"]]])
    assert (x == x.astype(np.float32)).all() and -1 <= x[0, 0] <= 1 and 0 <= x[0, 1] <= 0.1
    evaluator = onnx.reference.ReferenceEvaluator("net.onnx")
    assert evaluator.run(None, {"x": x.astype(np.float32)})[0].item() == values["Y_0"]
    assert "witness checked by onnx" in shown.err and "decided by attack 1" in shown.err


def test_a_witness_that_fails_the_check_is_not_printed(files, capsys, monkeypatch):
    other = lambda path: ("another", lambda names, given: [np.zeros((1, 1), np.float32)])
    monkeypatch.setattr(witnesses, "evaluator", other)
    assert verify("net.onnx", "sat.vnnlib") == 3
    assert capsys.readouterr().out == "unknown\n"


def test_a_network_computes_in_its_own_type(files, capsys):
    """A witness of float64: in float32 there is no such number."""
    save("double.onnx", dtype="double")
    limits = "(assert (>= X_0 0.1)) (assert (<= X_0 0.100000000001))"
    Path("fine.vnnlib").write_text(PROPERTY.format(0.0) + limits)
    assert verify("double.onnx", "fine.vnnlib") == 1
    first = capsys.readouterr().out.split()[2].strip(")")
    assert 0.1 <= float(first) <= 0.100000000001


def test_without_time_the_answer_is_timeout(files, capsys):
    assert verify("net.onnx", "unsat.vnnlib", "--timeout", "1e-9") == 4
    assert capsys.readouterr().out == "timeout\n"


def test_imports_count(files, monkeypatch):
    """The time of a process counts from its start."""
    given = []
    stop = lambda *args, **options: given.append(args[3]) or answers.Answer("unknown", "", *[0] * 5)
    monkeypatch.setattr("jaxbound._command.verify.answer", stop)
    monkeypatch.setattr(start, "age", lambda: 7.0)
    monkeypatch.setattr(sys, "argv", ["jaxbound", "verify", "net.onnx", "unsat.vnnlib"])
    assert _command.run() == 3
    assert 52 < given[0] <= 53


def test_age_is_that_of_the_process():
    code = (
        "import time; from jaxbound._command.start import age; time.sleep(.2); print(age());"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen, spent = map(float, done.stdout.split())
    assert seen > 0.2 and seen > spent - 0.05


WRONG = {
    "no file": (["none.onnx", "unsat.vnnlib"], "No such file or directory: none.onnx"),
    "no network": (["unsat.vnnlib", "unsat.vnnlib"], "not an ONNX file"),
    "no property": (["net.onnx", "net.onnx"], "net.onnx"),
    "operator": (["op.onnx", "unsat.vnnlib"], "these nodes cannot be computed: node 'y' (Det)"),
    "inputs": (["net.onnx", "one.vnnlib"], "the property has 1 inputs, the network 2"),
    "device": (["net.onnx", "unsat.vnnlib", "--device", "tpu"], "--device is tpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_is_a_line(files, capsys, name):
    arguments, reason = WRONG[name]
    net = """<ir_version: 8, opset_import: ["": 17]>
    net (float[2, 2] x) => (float y) { y = Det(x) }"""
    onnx.save(onnx.parser.parse_model(net), "op.onnx")
    Path("one.vnnlib").write_text(
        "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (>= X_0 0)) (assert (<= X_0 1))"
    )
    chosen = jax.config.jax_platforms
    try:
        assert verify(*arguments, "--out", "result.txt") == 5
    finally:
        jax.config.update("jax_platforms", chosen)
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("jaxbound: ") and reason in shown.err
    if name != "device":
        assert Path("result.txt").read_text() == "error\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["verify"],
        ["verify", "net.onnx"],
        ["verify", "net.onnx", "p.vnnlib", "--timeout", "0"],
        ["verify", "net.onnx", "p.vnnlib", "--timeout", "soon"],
        ["verify", "net.onnx", "p.vnnlib", "--results", "r.csv"],
        ["verify", "net.onnx", "p.vnnlib", "--instances", "i.csv", "--results", "r.csv"],
        ["verify", "--instances", "i.csv"],
        ["verify", "--instances", "i.csv", "--results", "r.csv", "--only", "("],
        ["bounds", "net.onnx", "--eps", "1"],
        ["bounds", "net.onnx", "--center", "x.npy", "--eps", "-1"],
        ["bounds", "net.onnx", "--center", "x.npy", "--eps", "inf"],
        ["bounds", "net.onnx", "--center", "x.npy", "--eps", "1", "--p", "0.5"],
        ["bounds", "net.onnx", "--center", "x.npy", "--eps", "1", "--clip", "nan", "1"],
        ["bounds", "net.onnx", "--center", "x.npy", "--eps", "1", "--method", "none"],
    ],
)
def test_wrong_arguments_are_named(arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        _command.main(arguments)
    assert exited.value.code == 2
    assert "error: " in capsys.readouterr().err


def rows():
    with open("results.csv", newline="") as file:
        return list(csv.DictReader(file))


def benchmark(*lines, arguments=()):
    Path("instances.csv").write_text("\n".join(lines))
    return verify("--instances", "instances.csv", "--results", "results.csv", *arguments)


LINES = ["net.onnx,unsat.vnnlib,60", "./net.onnx,sat.vnnlib,60"]


def test_a_benchmark_is_run_and_continued(files, capsys, monkeypatch):
    """One line for each instance; files may be packed, more columns are ignored, names relative to the list."""
    Path("unsat.vnnlib.gz").write_bytes(gzip.compress(Path("unsat.vnnlib").read_bytes()))
    os.remove("unsat.vnnlib")
    names, first, second = "onnx,vnnlib,timeout_s,verdict,more", f"{LINES[0]},unsat,1", LINES[1]
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    Path("../instances.csv").write_text("\n".join([names, first, second, first]))
    call = "--instances", "../instances.csv", "--results", "../results.csv", "--witnesses", "../sat"
    assert verify(*call) == 0
    monkeypatch.chdir(files)
    found = rows()
    assert [row["verdict"] for row in found] == ["unsat", "sat"]
    assert list(found[0]) == list(results.COLUMNS)
    assert float(found[0]["seconds"]) > float(found[0]["compile_seconds"]) >= 0
    assert found[0]["method"] and found[0]["nodes"].isdigit()
    assert Path("sat/._net.onnx__sat.vnnlib.txt").read_text().startswith("sat\n((X_0 ")
    assert "unsat.vnnlib: unsat in " in capsys.readouterr().err

    text = Path("results.csv").read_text()
    Path("results.csv").write_text(text[:-9])  # as after a crash
    assert benchmark(*LINES) == 0
    assert rows()[0] == found[0] and rows()[1]["verdict"] == "sat"
    assert capsys.readouterr().err.count("\n") == 1  # one instance
    text = Path("results.csv").read_text()
    assert benchmark(*LINES) == 0 and Path("results.csv").read_text() == text


def test_an_error_is_a_line_of_the_results(files, capsys, monkeypatch):
    monkeypatch.setattr(answers, "KEPT", 1)
    save("other.onnx", op="Div")
    save("full.onnx")
    load = answers.onnx.load
    full = MemoryError("no memory left\nat all")

    def failing(path):
        if path.name == "full.onnx":
            raise full
        return load(path)

    monkeypatch.setattr(answers.onnx, "load", failing)
    wrong = ["none.onnx,sat.vnnlib,60", "full.onnx,sat.vnnlib,60", "other.onnx,none.vnnlib,60"]
    assert benchmark(*wrong, *LINES) == 5
    assert [row["verdict"] for row in rows()] == ["error"] * 3 + ["unsat", "sat"]
    notes = [row["note"] for row in rows()]
    assert "none.onnx is missing, and none.onnx.gz too" in notes[0] and notes[3:] == ["", ""]
    assert notes[1] == "MemoryError: no memory left; at all"
    # Errors are tried again, in the lines of the chosen instances.
    monkeypatch.setattr(answers.onnx, "load", load)
    assert benchmark(*wrong, arguments=["--only", "full"]) == 0
    assert [row["verdict"] for row in rows()] == ["error", "error", "unsat", "sat", "sat"]


def test_only_and_timeout(files):
    assert benchmark(*LINES, arguments=["--only", r"onnx \.?/?s", "--timeout", "1e-9"]) == 0
    ((_, vnnlib, timeout, verdict, *_),) = [tuple(row.values()) for row in rows()]
    assert (vnnlib, timeout, verdict) == ("sat.vnnlib", "1e-09", "timeout")
    # In another time it is decided again.
    assert benchmark(LINES[1]) == 0 and rows()[1]["verdict"] == "sat"


@pytest.mark.parametrize("text", ["", "onnx,vnnl", results.HEADER])
def test_a_torn_beginning_is_repaired(files, text):
    Path("results.csv").write_text(text)
    assert benchmark("none.onnx,sat.vnnlib,60") == 5
    assert len(rows()) == 1


@pytest.mark.parametrize("text", ["my notes", "a,b\n1,2\n", results.HEADER + "a,b\n"])
def test_other_files_are_not_overwritten(files, capsys, text):
    Path("results.csv").write_text(text)
    assert benchmark(*LINES) == 5
    assert Path("results.csv").read_text() == text
    assert "results.csv" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["net.onnx,unsat.vnnlib", "net.onnx,unsat.vnnlib,soon", "a,b,-1"])
def test_a_wrong_list_names_the_line(files, capsys, line):
    assert benchmark(LINES[0], line) == 5
    assert "instances.csv, line 2: expected onnx,vnnlib,timeout" in capsys.readouterr().err
    assert not Path("results.csv").exists()


def test_an_interrupt_ends_a_run(files, monkeypatch, capsys):
    """`verify` itself takes it for the end of its time: no answer is noted then."""

    def interrupted(*args, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            return answers.Answer("unknown", "unknown\n", 0.0, 0, 0, "", "")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(instances, "answer", interrupted)
    assert benchmark(*LINES) == 130
    assert rows() == [] and "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_networks_of_one_structure_share_programs(files):
    save("other.onnx")
    networks = answers.Networks()
    first, second = (networks.load(Path(name)) for name in ("net.onnx", "other.onnx"))
    assert first.apply is second.apply and len(networks.programs) == 1


def test_compiling_is_measured():
    with Compiling() as compiling:
        jax.jit(lambda x: x + 5.125)(1.0)
    seconds = compiling.seconds
    assert seconds > 0
    jax.jit(lambda x: x + 6.125)(1.0)
    assert compiling.seconds == seconds


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_bounds(files, capsys, method):
    np.save("x.npy", np.array([0.5, 0.25]))
    near = ["bounds", "net.onnx", "--center", "x.npy", "--eps", "0.25", "--method", method]
    assert _command.main([*near, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (output,) = report["outputs"]
    assert output["name"] == "y" and output["shape"] == [1, 1]
    assert (output["value"], output["lower"], output["upper"]) == ([0.25], [-0.25], [0.75])
    assert report["method"] == method and report["seconds"] > 0

    assert _command.main([*near, "--clip", "0.5", "1", "--float64"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["output", "lower", "upper", "at", "the", "center"]
    assert line.split() == ["y[0,", "0]", "0", "0.25", "0.25"]


def test_bounds_that_are_infinite_are_null(files, capsys):
    net = """<ir_version: 8, opset_import: ["": 17]>
    net (float[1] x) => (float[1] y) { y = Reciprocal(x) }"""
    onnx.save(onnx.parser.parse_model(net), "net.onnx")
    np.save("x.npy", np.ones(1))
    assert _command.main(["bounds", "net.onnx", "--center", "x.npy", "--eps", "1.5", "--json"]) == 0
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert output["lower"] == output["upper"] == [None]


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.zeros(3), "has shape (3,); the network takes ('N', 2)"),
        (np.array([np.nan, 0]), "not finite"),
        (np.array(["a", "b"]), "no array of numbers"),
        (np.array([{}, {}]), "x.npy holds no array that NumPy saved"),
    ],
)
def test_wrong_centers_are_named(files, capsys, array, reason):
    np.save("x.npy", array)
    assert _command.main(["bounds", "net.onnx", "--center", "x.npy", "--eps", "1"]) == 5
    assert reason in capsys.readouterr().err
    assert _command.main(["bounds", "net.onnx", "--center", "x.npy", "x.npy", "--eps", "1"]) == 5
    assert "expected one for each of ['x']" in capsys.readouterr().err


def test_the_extra_is_named(files, capsys, monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith(("jaxbound.onnx", "jaxbound._command."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(jb, "onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert verify("net.onnx", "unsat.vnnlib") == 5
    assert 'pip install "jaxbound[onnx]"' in capsys.readouterr().err


def test_old_programs_are_removed(tmp_path):
    for i, name in enumerate(("a-cache", "b-cache", "c-cache", "other")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (i, i))
    _cache.remove_oldest(tmp_path, 150)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c-cache", "other"]
    _cache.remove_oldest(tmp_path / "none", 0)


def test_compiled_programs_are_kept(monkeypatch, tmp_path):
    """In the user's cache, unless another one is chosen."""
    chosen = jax.config.jax_compilation_cache_dir
    assert jb.keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir == chosen is not None
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jb.keep_compiled_programs() == tmp_path / "jaxbound"
    assert found["jax_compilation_cache_dir"] == str(tmp_path / "jaxbound")


@pytest.mark.skipif(sys.platform == "win32", reason="scripts of bash")
def test_the_scripts_of_the_competition(files):
    scripts, environment = ROOT / "benchmarks" / "vnncomp", os.environ | {"PYTHON": sys.executable}

    def call(name, *arguments):
        done = subprocess.run([scripts / name, *arguments], env=environment, capture_output=True)
        return done.returncode

    Path("sat.vnnlib.gz").write_bytes(gzip.compress(Path("sat.vnnlib").read_bytes()))
    os.remove("sat.vnnlib")
    instance = "v1", "small", "net.onnx", "sat.vnnlib"
    assert call("prepare_instance.sh", *instance) == 0
    assert call("prepare_instance.sh", *instance[:3], "none.vnnlib") != 0
    assert call("run_instance.sh", *instance, "result.txt", "60") == 0
    assert Path("result.txt").read_text().startswith("sat\n((X_0 ")
    for wrong in (instance, ("v2", *instance[1:], "result.txt", "60")):
        assert call("run_instance.sh", *wrong) != 0
    assert call("install_tool.sh", "v2") != 0
