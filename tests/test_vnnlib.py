"""VNN-LIB properties: what is read, what is refused, and what counts as a witness."""

import gzip
import itertools
import sys
import time
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbound as jb
from jaxbound import vnnlib
from jaxbound.vnnlib._exact import rounded


def text(inputs: int, outputs: int, *asserts: str) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    declared = [f"(declare-const {name} Real)" for name in names]
    return "\n".join([*declared, *(f"(assert {formula})" for formula in asserts)])


def box(*ends: tuple[float, float]) -> list[str]:
    bounds = [(f"(>= X_{i} {low})", f"(<= X_{i} {high})") for i, (low, high) in enumerate(ends)]
    return list(itertools.chain(*bounds))


UNIT = box((0, 1))


def rows(prop: vnnlib.Property):
    """All boxes, each with its clauses of (coefficients, limit)."""
    return [
        (
            (np.asarray(case.box.lower).tolist(), np.asarray(case.box.upper).tolist()),
            [
                [(row.tolist(), limit.item()) for row, limit in zip(*clause, strict=True)]
                for clause in zip(
                    np.asarray(case.output_rows), np.asarray(case.limits), strict=True
                )
            ],
        )
        for case in prop.cases
    ]


def test_outputs_that_hold_together_are_rows_of_a_clause():
    prop = vnnlib.loads(text(1, 2, *UNIT, "(<= Y_0 Y_1)", "(>= Y_1 2.5)"))
    assert rows(prop) == [(([0.0], [1.0]), [[([1.0, -1.0], 0.0), ([0.0, -1.0], -2.5)]])]
    assert (prop.inputs, prop.outputs) == (1, 2)


def test_alternatives_are_clauses():
    prop = vnnlib.loads(text(1, 2, *UNIT, "(or (and (>= Y_0 Y_1)) (<= Y_1 3))"))
    assert rows(prop)[0][1] == [[([-1.0, 1.0], 0.0)], [([0.0, 1.0], 3.0)]]


def test_a_shorter_clause_repeats_its_last_row():
    prop = vnnlib.loads(text(1, 2, *UNIT, "(or (and (<= Y_0 1) (<= Y_1 2)) (<= Y_0 3))"))
    assert rows(prop)[0][1][1] == [([1.0, 0.0], 3.0), ([1.0, 0.0], 3.0)]


def test_several_or_blocks_are_multiplied_out():
    """A fault on record: the blocks were added up, so that one of them was enough."""
    prop = vnnlib.loads(
        text(1, 2, *UNIT, "(or (<= Y_0 1) (<= Y_0 2))", "(or (>= Y_1 3) (>= Y_1 4))")
    )
    limits = [[limit for _, limit in clause] for clause in rows(prop)[0][1]]
    assert limits == [[1, -3], [1, -4], [2, -3], [2, -4]]


def test_a_conjunct_before_an_or_is_kept():
    """A fault on record: what stood before an `or` was lost."""
    inner = "(and (<= Y_0 1) (or (<= Y_1 2) (<= Y_1 3)))"
    prop = vnnlib.loads(text(1, 2, *UNIT, inner))
    assert [[limit for _, limit in clause] for clause in rows(prop)[0][1]] == [[1, 2], [1, 3]]


def test_bounds_do_not_leak_between_alternatives():
    """A fault on record: a box of one alternative held in the next too."""
    parts = "(and (<= X_0 0.25) (<= Y_0 1))", "(and (>= X_0 0.5) (<= Y_0 2))", "(<= Y_0 3)"
    prop = vnnlib.loads(text(1, 1, *UNIT, f"(or {' '.join(parts)})"))
    assert rows(prop) == [
        (([0.0], [0.25]), [[([1.0], 1.0)]]),
        (([0.5], [1.0]), [[([1.0], 2.0)]]),
        (([0.0], [1.0]), [[([1.0], 3.0)]]),
    ]


def test_strict_signs_are_refused():
    """A fault on record: `>` was read as its opposite."""
    for sign in "<>":
        with pytest.raises(vnnlib.VnnLibError, match=r"line 5: .* strict"):
            vnnlib.loads(text(1, 1, *UNIT, f"({sign} Y_0 1)"))


def test_alternatives_on_the_same_box_are_one_case():
    prop = vnnlib.loads(
        text(2, 1, *box((0, 1), (0, 2)), "(or (and (<= X_0 1) (<= Y_0 1)) (>= Y_0 5))")
    )
    assert [case.limits.shape for case in prop.cases] == [(2, 1)]


def test_an_empty_box_asks_for_nothing():
    prop = vnnlib.loads(text(1, 1, *UNIT, "(or (and (>= X_0 2) (<= Y_0 1)) (<= Y_0 3))"))
    assert rows(prop) == [(([0.0], [1.0]), [[([1.0], 3.0)]])]
    assert not vnnlib.loads(text(1, 1, *UNIT, "(>= X_0 2)", "(<= Y_0 1)")).cases


def test_no_condition_on_outputs_is_unsafe_everywhere():
    (case,) = vnnlib.loads(text(1, 1, *UNIT)).cases
    assert (case.violation(jnp.array([1e30])) == 0).all()
    assert vnnlib.loads(text(1, 1, *UNIT)).violated([0.5], [1e30])


@pytest.mark.parametrize(
    "number, value",
    {
        "1": 1,
        "-1": -1,
        "+2.5": 2.5,
        ".5": 0.5,
        "5.": 5,
        "1e-3": Fraction(1, 1000),
        "1E2": 100,
        "(- 3)": -3,
        "(/ 1 8)": Fraction(1, 8),
        "(+ 1 2 3)": 6,
        "(* 2 (- 3 1))": 4,
        "-0.0": 0,
    }.items(),
)
def test_numbers_in_every_notation(number, value):
    prop = vnnlib.loads(text(1, 1, *UNIT, f"(<= Y_0 {number})"))
    (clause,) = prop.exact[0].clauses
    assert clause[0].bound == value


def test_terms_on_both_sides():
    formula = "(<= (+ (* 2 Y_0) (- Y_1) 1) (- (* Y_0 0.5) (+ Y_1 3) (/ Y_1 2)))"
    prop = vnnlib.loads(text(1, 2, *UNIT, formula))
    assert rows(prop)[0][1] == [[([1.5, 0.5], -4.0)]]


def test_a_bound_on_a_multiple_is_a_bound():
    prop = vnnlib.loads(text(1, 1, "(<= (* 4 X_0) 1)", "(<= (* -2 X_0) 3)", "(<= Y_0 0)"))
    assert rows(prop)[0][0] == ([-1.5], [0.25])


def test_linear_constraints_of_inputs_are_rows():
    prop = vnnlib.loads(text(2, 1, *box((0, 1), (0, 1)), "(<= (+ X_0 X_1) 1)", "(<= Y_0 X_0)"))
    (case,) = prop.cases
    inside, outside = jnp.array([0.25, 0.5]), jnp.array([0.75, 0.5])
    np.testing.assert_allclose(case.violation(jnp.array([0.0]), inside), [[-0.25, -0.25]])
    np.testing.assert_allclose(case.violation(jnp.array([0.0]), outside), [[0.25, -0.75]])
    # A witness has to satisfy them.
    assert prop.violated(inside, [0.0]) and not prop.violated(outside, [0.0])
    with pytest.raises(ValueError, match="inputs"):
        case.violation(jnp.array([0.0]))


def test_comments_and_commands_without_effect():
    source = (
        "; (assert\n(set-logic QF_LRA)\n" + text(1, 1, *UNIT, "(<= Y_0 ; (\n0)") + "\n(check-sat)"
    )
    assert len(vnnlib.loads(source).cases) == 1


WRONG = {
    "unbounded above": (text(1, 1, "(>= X_0 0)", "(<= Y_0 0)"), "X_0 has no upper bound"),
    "unbounded below": (text(2, 1, *UNIT, "(<= X_1 0)", "(<= Y_0 0)"), "X_1 has no lower bound"),
    "unknown symbol": (text(1, 1, *UNIT, "(<= Z_0 0)"), "line 5: 'Z_0' is neither"),
    "undeclared": (text(1, 1, *UNIT, "(<= Y_3 0)"), "line 5: Y_3 is not declared"),
    "product": (text(1, 2, *UNIT, "(<= (* Y_0 Y_1) 0)"), "line 6: a product of two variables"),
    "quotient": (text(1, 1, *UNIT, "(<= (/ 1 Y_0) 0)"), "product of two|divided"),
    "divided by 0": (text(1, 1, *UNIT, "(<= (/ Y_0 0) 0)"), "divided"),
    "no operator": (text(1, 1, *UNIT, "(= Y_0 0)"), "line 5: '=' is not an operator"),
    "negation": (text(1, 1, *UNIT, "(not (<= Y_0 0))"), "'not' is not an operator"),
    "unknown function": (
        text(1, 1, *UNIT, "(<= (max Y_0 1) 0)"),
        "'max' is not an operator of terms",
    ),
    "command": ("(define-fun f () Real 1)", "'define-fun' is not a command"),
    "declared twice": (
        text(1, 1, *UNIT) + "\n(declare-const X_0 Real)",
        "line 5: X_0 is declared twice",
    ),
    "gap": (
        "(declare-const X_1 Real)(declare-const Y_0 Real)(assert (<= Y_0 0))",
        "X_0 is not declared",
    ),
    "no outputs": ("(declare-const X_0 Real)\n(assert (<= X_0 0))", "Y_0 is not declared"),
    "other name": ("(declare-const W Real)", "neither an input"),
    "leading zeros": ("(declare-const X_007 Real)", "neither an input"),
    "other type": ("(declare-const X_0 Int)", "expected"),
    "empty": ("", "Y_0 is not declared|X_0 is not declared"),
    "asserts nothing": (text(1, 1), "asserts nothing"),
    "truncated": (text(1, 1, *UNIT)[:-1], "line 4: this bracket is never closed"),
    "closed twice": (text(1, 1, *UNIT) + ")", "outside of all brackets"),
    "stray": ("hello", "outside of all brackets"),
    "three terms": (text(1, 1, *UNIT, "(<= 0 Y_0 1)"), "two terms"),
    "one term": (text(1, 1, *UNIT, "(<= Y_0)"), "two terms"),
    "assert without formula": (text(1, 1) + "(assert)", "one formula"),
    "or of names": (text(1, 1, *UNIT, "(or Y_0)"), "formulas in brackets"),
    "empty term": (text(1, 1, *UNIT, "(<= () 1)"), "not an operator of terms"),
    "code": (text(1, 1, *UNIT, "(<= Y_0 __import__)"), "neither declared nor a number"),
    "nan": (text(1, 1, *UNIT, "(<= Y_0 nan)"), "neither declared nor a number"),
    "infinity": (text(1, 1, *UNIT, "(<= Y_0 Infinity)"), "neither declared nor a number"),
    "underscores": (text(1, 1, *UNIT, "(<= Y_0 1_000)"), "neither declared nor a number"),
    "huge exponent": (text(1, 1, *UNIT, "(<= Y_0 1e999999999)"), "too large"),
    "tiny exponent": (text(1, 1, *UNIT, "(<= Y_0 1e-999999999)"), "too small"),
    "endless number": (text(1, 1, *UNIT, f"(<= Y_0 {'9' * 10**6})"), "too long"),
    "beyond float32": (text(1, 1, *UNIT, "(<= Y_0 1e39)"), "too large for float32"),
    "too many digits": (text(1, 2, *UNIT, "(<= (+ (* 1.0000000001 Y_0) Y_1) 0)"), "more digits"),
    "nested": (text(1, 1) + "(assert " + "(and " * 100_000 + ")" * 100_001, "brackets within"),
    "open": ("(" * 100_000, "brackets within"),
    "explosion": (text(1, 1, *UNIT, *["(or (<= Y_0 1) (<= Y_0 2))"] * 40), "combinations"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_at_once(name):
    source, reason = WRONG[name]
    started = time.process_time()
    with pytest.raises(vnnlib.VnnLibError, match=reason):
        vnnlib.loads(source)
    assert time.process_time() - started < 5


# The archive holds no time: workers have to collect the same tests.
@pytest.mark.parametrize(
    "data",
    [b"\x00\xff\xfe", b"\x1f\x8bnot gzip", gzip.compress(b"(assert", mtime=0)[:-6]],
    ids=["no text", "no archive", "cut off"],
)
def test_a_damaged_file_names_itself(tmp_path, data):
    path = tmp_path / "damaged.vnnlib"
    path.write_bytes(data)
    with pytest.raises(vnnlib.VnnLibError, match=r"damaged\.vnnlib"):
        vnnlib.load(path)


@pytest.mark.parametrize("packed", [False, True])
def test_files_may_be_packed(tmp_path, packed):
    data = text(1, 1, *UNIT, "(<= Y_0 0)").encode()
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert vnnlib.load(path).inputs == 1


@pytest.mark.parametrize("number", ["0.1", "-0.1", "1e-40", "-1e-50", "3", "16777217", "1e-38"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_are_rounded_outward(number, dtype):
    value = Fraction(number)
    low, high = (rounded(value, dtype, up) for up in (False, True))
    assert low.dtype == high.dtype == dtype
    assert Fraction(float(low)) <= value <= Fraction(float(high))
    tiny = np.finfo(dtype).tiny
    assert all(end == 0 or abs(end) >= tiny for end in (low, high))  # none is flushed to 0
    if abs(value) >= tiny:
        assert high <= np.nextafter(low, dtype(np.inf))
    prop = vnnlib.loads(text(1, 1, *box((number, number)), f"(<= Y_0 {number})"))
    with jax.enable_x64(dtype == np.float64):
        (case,) = prop.astype(dtype).cases
        assert (case.box.lower, case.box.upper) == (low, high)
        assert case.limits == high  # a row > 0 is then one of the exact limit


def test_float64_has_to_be_allowed():
    with pytest.raises(ValueError, match="float64"):
        vnnlib.loads(text(1, 1, *UNIT, "(<= Y_0 0)"), dtype=np.float64)


def test_coefficients_that_are_no_numbers_of_the_type_are_multiplied():
    prop = vnnlib.loads(text(1, 2, *UNIT, "(<= (+ (* 0.1 Y_0) (* 0.25 Y_1)) 0.3)"))
    assert rows(prop)[0][1] == [[([2.0, 5.0], 6.0)]]


def test_witnesses_lie_in_the_decimal_box():
    """Where it has no number of the type, those next to it count."""
    prop = vnnlib.loads(text(2, 1, *box(("0.1", "0.5"), ("0.1", "0.1")), "(<= Y_0 0)"))
    tenth = np.float32(0.1)  # above 0.1
    below = np.nextafter(tenth, np.float32(0))
    zero = [0.0]
    for first, second, counts in [
        (tenth, tenth, True),
        (tenth, below, True),
        (below, tenth, False),
        (np.float32(0.5), below, True),
        (np.nextafter(np.float32(0.5), np.float32(1)), tenth, False),
        (tenth, np.nextafter(below, np.float32(0)), False),
        (tenth, np.nextafter(tenth, np.float32(1)), False),
        (np.float32(np.nan), tenth, False),
    ]:
        assert prop.violated(np.array([first, second]), zero) is counts
    (case,) = prop.cases
    np.testing.assert_array_equal(case.witnesses.lower, np.array([tenth, below]))
    np.testing.assert_array_equal(case.witnesses.upper, np.array([0.5, tenth], np.float32))
    np.testing.assert_array_equal(case.box.lower, np.array([below, below]))


def test_outputs_are_compared_exactly():
    prop = vnnlib.loads(text(1, 2, *UNIT, "(<= Y_0 0.1)"))
    tenth = np.float32(0.1)
    assert not prop.violated([0.5], np.array([tenth, 0]))  # a little more than 0.1
    assert prop.violated([0.5], np.array([np.nextafter(tenth, np.float32(0)), 0]))
    assert not prop.violated([0.5], np.array([np.nan, 0]))
    with pytest.raises(ValueError, match="expected 1 inputs and 2 outputs"):
        prop.violated([0.5], [1.0])


def test_properties_of_the_same_shape_share_a_compilation():
    count = 0

    @jax.jit
    def check(case, outputs):
        nonlocal count
        count += 1
        return case.violation(outputs)

    for limit in (1, 2, 3):
        (case,) = vnnlib.loads(text(1, 2, *UNIT, f"(<= Y_0 {limit})")).cases
        assert check(case, jnp.array([5.0, 0.0])).item() == 5 - limit
    assert count == 1


def test_a_tuple_of_outputs_is_taken_one_after_the_other():
    (case,) = vnnlib.loads(text(1, 3, *UNIT, "(<= Y_2 1)")).cases
    assert case.violation((jnp.zeros((1, 2)), jnp.array([4.0]))).item() == 3
    with pytest.raises(ValueError, match="3 values"):
        case.violation(jnp.zeros(2))


class Network:
    """What `vnnlib.verify` asks of a model."""

    variables = {"w": jnp.array([1.0, -1.0])}

    def __init__(self, shape=("n", 2), dtype=np.float32):
        self.inputs = (type("Value", (), {"name": "x", "shape": shape, "dtype": np.dtype(dtype)}),)

    @staticmethod
    def apply(variables, x):
        return jax.nn.relu(x.reshape(1, 2) * variables["w"][None]).sum(-1, keepdims=True)


SQUARE = box((0, 1), (-1, 1))


@pytest.mark.parametrize(
    "formulas, status",
    {
        ("(>= Y_0 2.001)",): "verified",
        ("(>= Y_0 1.9)",): "falsified",
        ("(or (>= Y_0 3) (<= Y_0 -0.5))",): "verified",
        ("(or (>= Y_0 3) (and (<= Y_0 0.5) (>= Y_0 0.25)))",): "falsified",
        ("(or (and (<= X_0 0.5) (>= Y_0 1.6)) (and (>= X_0 0.5) (>= Y_0 2.1)))",): "verified",
        ("(or (and (<= X_0 0.5) (>= Y_0 1.6)) (and (>= X_0 0.5) (>= Y_0 1.9)))",): "falsified",
        # The constraint of the inputs excludes what is unsafe, or leaves some of it.
        ("(<= (- X_0 X_1) 0.5)", "(>= Y_0 1.1)"): "verified",
        ("(<= (- X_0 X_1) 1.5)", "(>= Y_0 1.4)"): "falsified",
        ("(>= X_0 2)", "(>= Y_0 0)"): "verified",
    }.items(),
)
def test_verify(formulas, status):
    prop = vnnlib.loads(text(2, 1, *SQUARE, *formulas))
    network = Network()
    found = vnnlib.verify(network, prop)
    assert found.status == status
    if status == "falsified":
        assert found.witness.shape == (1, 2) and found.witness.dtype == np.float32
        output = network.apply(network.variables, jnp.asarray(found.witness))
        assert prop.violated(found.witness, output)
    else:
        assert found.witness is None


def test_a_witness_that_does_not_count_is_none():
    """Only the end that is rounded outward is unsafe: the decimal box is not."""
    prop = vnnlib.loads(text(2, 1, *box((0, "0.1"), (0, 0)), "(>= Y_0 0.1000000001)"))
    assert vnnlib.verify(Network(), prop).status in ("unknown", "verified")


def spied(monkeypatch, first=None):
    """The boxes and limits that `jb.verify` is asked about; the first answer may be given."""
    asked, decide = [], jb.verify

    def verify(fn, variables, rows, box, **options):
        asked.append((box, np.asarray(rows["limits"])))
        if first is not None and len(asked) == 1:
            nothing = np.array([-np.inf]), np.array(["attack"]), 0, 0, 0.0
            return jb.Verdict("falsified", (variables, rows, first), *nothing)
        return decide(fn, variables, rows, box, **options)

    monkeypatch.setattr(jb, "verify", verify)
    return asked


def test_a_witness_that_misses_the_decimal_box_is_sought_inside(monkeypatch):
    """The number above the end 0.1 is unsafe, the next one below is not; far inside there is another."""
    prop = vnnlib.loads(
        text(2, 1, *box((0, "0.1"), (0, 0)), "(or (>= Y_0 0.1000000001) (<= Y_0 0.01))")
    )
    (case,) = prop.cases
    asked = spied(monkeypatch, np.array([case.box.upper[0], 0], np.float32))
    found = vnnlib.verify(Network(), prop)
    assert found.status == "falsified" and 0 <= found.witness[0, 0] <= 0.01
    np.testing.assert_array_equal(asked[1][0].upper, case.witnesses.upper)
    np.testing.assert_array_equal(asked[1][1], asked[0][1])


def test_a_witness_that_misses_by_rounding_is_sought_further(monkeypatch):
    """What evaluates the network may round otherwise, here by a tenth: the middle of the box is not unsafe then."""
    asked, network, seen = spied(monkeypatch), Network(), []

    def evaluate(x):
        seen.append(np.asarray(x))
        return np.asarray(network.apply(network.variables, x)) - np.float32(0.1)

    prop = vnnlib.loads(text(2, 1, *box((0, 1), (0, 0)), "(>= Y_0 0.5)"))
    found = vnnlib.verify(network, prop, evaluate=evaluate, attack=False)
    assert found.status == "falsified" and found.witness[0, 0] >= 0.6
    assert seen[0][0, 0] == 0.5 and len(asked) == 2
    # Nothing is further than the greatest value.
    prop = vnnlib.loads(text(2, 1, *box((0, 1), (0, 0)), "(>= Y_0 0.95)"))
    assert vnnlib.verify(network, prop, evaluate=evaluate).status == "unknown"


def test_a_point_is_decided_in_float64():
    """The triple of a rounded third is a little above 1, which float32 does not show."""

    class Triple(Network):
        apply = staticmethod(lambda variables, x: x.reshape(1, 2)[:, :1] * 3.0)

    third = np.float32(1) / np.float32(3)
    assert third * np.float32(3) == 1 < 1.00000001 < 3 * float(third)
    for formula, status, stage in (
        ("(>= Y_0 1.1)", "verified", "ibp"),
        ("(>= Y_0 1)", "falsified", "attack"),
        ("(>= Y_0 1.00000001)", "unknown", ""),
    ):
        prop = vnnlib.loads(text(2, 1, *box((Decimal(float(third)),) * 2, (0, 0)), formula))
        found = vnnlib.verify(Triple(), prop)
        assert (found.status, found.decided.tolist()) == (status, [stage])
        assert (found.lower > 0) == (status == "verified") and found.open == (status == "unknown")


def test_verify_of_a_point():
    for limit, status in (("0.75", "falsified"), ("0.8", "verified")):
        prop = vnnlib.loads(text(2, 1, *box((0.5, 0.5), (-0.25, -0.25)), f"(>= Y_0 {limit})"))
        assert vnnlib.verify(Network(), prop).status == status


def test_verify_checks_the_network():
    prop = vnnlib.loads(text(2, 1, *SQUARE, "(>= Y_0 2.001)"))
    with pytest.raises(ValueError, match="2 inputs, the network 3"):
        vnnlib.verify(Network((1, 3)), prop)
    with pytest.raises(ValueError, match="no shape"):
        vnnlib.verify(Network(None), prop)


def test_without_time_nothing_is_claimed():
    prop = vnnlib.loads(text(2, 1, *SQUARE, "(>= Y_0 1.9)"))
    assert vnnlib.verify(Network(), prop, timeout=1e-9).status == "unknown"


SECOND = """(vnnlib-version <2.0>)
(declare-network net (declare-input X float32 [1, 2]) (declare-input Z float32 []) (declare-output Y {} [2, 2]))
(assert (and (>= X[0,0] -0.1) (<= X[0,0] 0.1) (<= X[0,1] 1.0) (>= X[0,1] (- 1.0)))) ; a box
(assert (and (<= Z 0.5) (>= Z 0.25)))
(assert {})
"""


def second(formula: str, kind: str = "real", text: str = SECOND) -> vnnlib.Property:
    pytest.importorskip("vnnlib")
    return vnnlib.loads(text.format(kind, formula))


def test_the_second_version_is_read():
    """Arrays are flat, one after the other; numbers are exact."""
    prop = second("(or (<= Y[1,0] (+ Y[0,1] (* 2.5 Y[1,1]) -3.0)) (== (- Y[0,0] 0.25) 1.0))")
    assert (prop.inputs, prop.outputs) == (3, 4)
    (exact,) = prop.exact
    assert exact.upper == [Fraction(1, 10), 1, Fraction(1, 2)]
    assert exact.lower == [Fraction(-1, 10), -1, Fraction(1, 4)]
    assert rows(prop)[0][1] == [
        [([0, -1, 1, -2.5], -3), ([0, -1, 1, -2.5], -3)],
        [([1, 0, 0, 0], 1.25), ([-1, 0, 0, 0], -1.25)],
    ]


@pytest.mark.parametrize(
    "formula, kind, reason",
    [
        ("(< Y[0,0] 1.0)", "real", "line 5: '<' is not an operator"),
        ("(!= Y[0,0] 1.0)", "real", "line 5: '!=' is not an operator"),
        ("(<= (* Y[0,0] Y[0,1]) 1.0)", "real", "line 5: a product of two variables"),
        ("(<= Y[0,2] 1.0)", "real", "line 5: Index out of bounds"),
        ("(<= Y[0,0] 1)", "int64", "Y has elements of I64"),
        ("(<= Y[0,0]", "real", "line 5: this bracket is never closed"),
        ("(<= W 1.0)", "real", "line 5: "),
        ("(<= Y[0,0] 1.0 +)", "real", "syntax error"),
        ("(and " * 100_000 + ")" * 100_000, "real", "brackets within"),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_second_version_is_said(formula, kind, reason):
    with pytest.raises(vnnlib.VnnLibError, match=reason):
        second(formula, kind)


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("<2.0>", "<3.0>", "line 1: Incompatible VNNLib version"),
        (" (declare-output", ' (declare-hidden H real [1] "h") (declare-output', "declare-hidden"),
        (
            "(assert (and (>=",
            "(declare-network o (declare-input A real []) (declare-output B real []))\n(assert (and (>=",
            "2 networks",
        ),
        ("[1, 2]", "[2000000000, 2]", "X_2 has no lower"),
    ],
)
def test_what_is_not_supported_of_the_second_version_is_said(old, new, reason):
    assert old in SECOND
    with pytest.raises(vnnlib.VnnLibError, match=reason):
        second("(<= Y[0,0] 1.0)", text=SECOND.replace(old, new, 1))


def test_the_second_version_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(vnnlib.VnnLibError, match=r"jaxbound\[vnnlib\]"):
        vnnlib.loads(SECOND.format("real", "(<= Y[0,0] 1.0)"))
