"""Random programs by random methods: see tests/programs.py, which also runs for as long as one likes.

JAXBOUND_MINUTES=20 pytest tests/test_any_function.py runs new seeds for twenty minutes.
"""

import collections
import os
import time

import jax
import programs
import pytest
from random_programs.checks import check, draw_calls
from random_programs.drawing import draw_program
from random_programs.operations import UNARY
from random_programs.program import Draw, Program, Step
from random_programs.regions import draw_regions

import jaxbound as jb
from jaxbound._rules.interval_rules import interval_rules

MINUTES = float(os.environ.get("JAXBOUND_MINUTES", "0"))


@pytest.mark.parametrize("seed", range(4))
def test_random_programs(seed):
    """Samples, corners and ascents stay inside; bounds of affine programs are exact."""
    assert programs.run(seed, collections.Counter(), short=True) == ""


def test_most_operations_are_tried():
    """What has no rule is left out of a program: not so much that nothing would be tested."""
    unsupported: collections.Counter = collections.Counter()
    drawn: set[str] = set()
    for seed in range(20):
        drawn |= {step.name for step in draw_program(Draw(seed), unsupported).steps}
    assert len(drawn) > 30
    assert sum(unsupported.values()) < 40


def test_a_wrong_rule_is_found(monkeypatch):
    """The oracle itself: a tanh whose bound is cut short is found, and named."""
    rule = interval_rules[jax.lax.tanh_p]

    def short(x, **params):
        found = rule.bound(x, **params)
        return jb.Interval(0.9 * found.lower, 0.9 * found.upper)

    monkeypatch.setitem(interval_rules, jax.lax.tanh_p, rule._replace(bound=short))
    steps = tuple(Step(name, UNARY[name], (i,)) for i, name in enumerate(("arctan", "tanh", "abs")))
    program = Program((((2,), "box"),), steps, (3,))
    d = Draw(0)
    args, calls = draw_regions(d, program), draw_calls(d)
    alarms = check(program, args, calls, "float32", 0, "vmap")
    assert {alarm.call for alarm in alarms} >= {"ibp"}
    text = programs.shortest(program, args, calls, "float32", 0, alarms[0])
    assert "return v2" in text and "tanh" in text and "abs" not in text


@pytest.mark.skipif(not MINUTES, reason="JAXBOUND_MINUTES is not set")
def test_for_minutes():
    """New seeds, with every way of calling, for as long as JAXBOUND_MINUTES says."""
    unsupported: collections.Counter = collections.Counter()
    seed, end, found = int(time.time()), time.time() + 60 * MINUTES, []
    while time.time() < end:
        found.append(programs.run(seed, unsupported))
        seed += 1
        jax.clear_caches()
    assert not any(found), "\n\n".join(filter(None, found))
