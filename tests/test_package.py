"""What holds for the package as a whole: layers, sizes, public names, documentation."""

import ast
import graphlib
import inspect
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import onnx
import onnx.parser
import pytest

import jaxbound as jb

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxbound"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports from its own folder and from those before it; within a folder, never in a circle.
FOLDERS = [
    "_deprecation",
    "_cache",
    "_bounds",
    "_program",
    "_rules",
    "_locality",
    "_walks",
    "_methods",
    "reference",
    "_decide",
]
APPLIED = {"_command", "__main__", "networks", "onnx", "training", "vnnlib"}  # use public names
APART = {"_walks/intervals", "_walks/forward", "_walks/backward"}  # the interpreters

# What a docstring may begin with: a new verb is added deliberately.
VERBS = """
Adds Announces Appends Applies Attacks Bounds Brings Broadcasts Builds Calls Casts Checks Clips Combines Compiles
Computes Concretizes Convolves Counts Cuts Decides Declares Defines Demands Derives Describes Divides Draws Drops
Embeds Encodes Evaluates Exchanges Exits Finds Flattens Follows Freezes Gives Halves Holds Inserts Interleaves
Intersects Joins Keeps Limits Lists Looks Makes Maps Matches Measures Merges Moves Multiplies Normalises Notes
Optimises Prepares Prints Projects Propagates Pulls Puts Raises Reads Recognises Registers Removes Repeats Replaces
Reports Represents Reshapes Resizes Returns Runs Scales Scores Searches Sets Shows Signals Solves Splits Stacks Starts
Sums Takes Tells Traces Transposes Turns Unrolls Walks Writes Yields
"""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)

MAX_FILE, MAX_FUNCTION = 300, 40


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Every module or name that is imported anywhere in a file, in full."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def internal(tree: ast.AST) -> set[str]:
    """The files of the core that a file imports, `public` for its front door."""
    inside = (name.split(".")[1:3] for name in imported(tree) if name.split(".")[0] == "jaxbound")
    return {"/".join(parts) if parts and parts[0] in FOLDERS else "public" for parts in inside}


def of_core() -> dict[str, set[str]]:
    """The files of the core, and what they import."""
    names = {name_of(path): path for path in FILES}
    return {
        name: internal(ast.parse(path.read_text()))
        for name, path in names.items()
        if name.split("/")[0] in FOLDERS
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    name, names = name_of(path), internal(ast.parse(path.read_text()))
    folder = name.split("/")[0]
    if name == "__init__":
        assert "public" not in names
    elif folder in APPLIED:
        assert names <= {"public"}, f"{name} goes past the public functions: {names}"
    else:
        known = FOLDERS[: FOLDERS.index(folder) + 1]
        above = {other for other in names if other.split("/")[0] not in known}
        assert not above, f"{name} must not import {above}"
        assert name not in APART or not names & APART, f"{name} knows another interpreter"


def test_no_circle_of_imports():
    graphlib.TopologicalSorter(of_core()).prepare()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_networks_import_flax(path):
    roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    assert name_of(path).startswith("networks/") or "flax" not in roots


def test_import_is_light():
    code = "import sys, jaxbound; print([m for m in ('flax', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path):
    """A budget, not a law: raise it deliberately, in a commit of its own."""
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node) <= MAX_FUNCTION, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_say_what_is_returned(path):
    """Functions of files and classes; those inside of a function are read with it."""
    tree = ast.parse(path.read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    names = {
        n.name.strip("_")
        for c in [tree, *classes]
        for n in c.body
        if isinstance(n, ast.FunctionDef)
    }
    assert not names & {"at", "of", "one", "both", "some"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings_start_with_a_verb(path):
    verbs = set(re.findall(r"\w+", VERBS))
    for node in ast.walk(ast.parse(path.read_text())):
        text = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        assert text is None or text.split()[0].strip(".,:") in verbs, text


def code_lines(node: ast.FunctionDef) -> int:
    """The lines of a function without its docstring."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_import_hides_in_a_function(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert not imported(node), f"{path.name}: {node.name}"


def public(module: types.ModuleType) -> dict[str, object]:
    """What ``module/__init__.py`` exports as ``from x import X as X``."""
    nodes = ast.parse(Path(module.__file__).read_text()).body
    aliases = [a for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names]
    return {a.name: getattr(module, a.name) for a in aliases if a.asname == a.name}


def test_exports_are_explicit():
    visible = {n for n in vars(jb) if not n.startswith("_")}
    modules = {n for n in visible if inspect.ismodule(getattr(jb, n))}
    assert visible - modules == set(public(jb))


@pytest.mark.parametrize("name", public(jb))
def test_public_names_are_documented(name):
    value = public(jb)[name]
    if not callable(value):
        return
    doc = inspect.getdoc(value) or ""
    assert doc, f"{name} has no docstring"
    if inspect.isfunction(value):
        assert "Example" in doc or "arXiv" in doc, f"{name}: show it, or say where it comes from"


@pytest.mark.parametrize("name", ["ibp", "lbp", "crown_ibp", "crown_lbp", "crown", "alpha_crown"])
def test_methods_name_their_paper(name):
    found = re.search(r"arXiv[: ](\d{4}\.\d{5})", inspect.getdoc(getattr(jb, name)))
    assert found
    assert found[1] in (ROOT / "README.md").read_text()


def test_readme_runs(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    first, second, decided, files = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope = {}
    for example, shape in ((first, (16, 9)), (second, (9,))):
        exec(compile(example, "README.md", "exec"), scope)
        assert scope["bounds"].lower.shape == shape
        assert (scope["bounds"].lower <= scope["bounds"].upper).all()
    exec(compile(decided, "README.md", "exec"), scope)
    assert scope["verdict"].status in ("verified", "falsified")
    monkeypatch.chdir(tmp_path)
    net = '<ir_version: 8, opset_import: ["": 17]> net (float[1, 3] x) => (float[1, 3] y) {y = Relu(x)}'
    onnx.save(onnx.parser.parse_model(net), "net.onnx")
    names = [f"X_{i}" for i in range(3)]
    lines = [f"(declare-const {name} Real)" for name in [*names, "Y_0", "Y_1", "Y_2"]]
    lines += [f"(assert (<= -1 {name})) (assert (<= {name} 1))" for name in names]
    Path("property.vnnlib").write_text("\n".join([*lines, "(assert (<= Y_0 -0.5))"]))
    exec(compile(files, "README.md", "exec"), scope)
    assert scope["bounds"].upper.shape == (1, 3) and scope["verdict"].status == "verified"


def test_a_wheel_holds_all_of_it(tmp_path):
    """An editable install would hide a folder that is missing in what users get."""
    source, built = tmp_path / "source", tmp_path / "built"
    shutil.copytree(PACKAGE, source / "jaxbound", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", built, source]
    subprocess.run(build, check=True)
    (wheel,) = built.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("jaxbound/")}
    files = {path for path in (source / "jaxbound").rglob("*") if path.is_file()}
    assert shipped == {path.relative_to(source).as_posix() for path in files}


def test_set_up_lives_in_one_place():
    lines = (ROOT / "setup.cfg").read_text().splitlines()
    assert all(line.startswith("#") for line in lines if line)
