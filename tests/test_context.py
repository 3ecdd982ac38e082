"""What is known when a value is bounded does not change; rows on their way back may be added to."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy
from oracle import assert_contains, once, samples, values

import jaxbound as jb
from jaxbound._methods.prepare import Options, outputs, prepare
from jaxbound._methods.recipes import CROWN, CROWN_LBP, Recipe, backward, forward_output
from jaxbound._walks.rows import (
    apart,
    by_rows,
    concretized,
    from_inputs,
    through_linear_bounds,
    together,
)

RNG = np.random.default_rng(3)
W1, W2, W3 = (RNG.normal(size=shape).astype("float32") for shape in ((3, 5), (5, 5), (5, 2)))


def net(x):
    return jnp.tanh(jax.nn.relu(x @ W1) @ W2) @ W3


def box(radius=0.7):
    return jb.linf_ball(jnp.array([0.3, -0.2, 0.1]), radius)


@pytest.mark.parametrize("recipe", [CROWN, CROWN_LBP], ids=["crown", "crown_lbp"])
def test_relaxations_do_not_depend_on_when_they_are_asked_for(recipe):
    """Those of an early value's context are those of the end, and a context never learns of later values."""
    seen = []

    def note(context, var):
        seen.append((context, var, set(context.env), set(context.lines)))

    fn = lambda x: jnp.exp(jax.nn.relu(net(jax.nn.relu(net(x) @ W1[:2])[:3])))
    last = prepare(recipe, fn, (box(),), Options(), before=note)
    assert len(seen) >= 4
    for context, var, known, relaxed in seen:
        assert set(context.env) == known and set(context.lines) == relaxed
        assert known < set(last.env) and var in known
        for out, relaxation in context.lines.items():
            assert relaxation is last.lines[out]
        # The walk goes on from copies: what a method does to a context stays there.
        context.env.clear()


def test_a_method_is_a_recipe():
    """Operands by rows, the output by forward linear bounds: sound, and inside of what the intervals say."""
    recipe = Recipe("crown_forward", backward(together), forward_output, through_linear_bounds)

    def method(region):
        context = prepare(recipe, net, (region,), Options())
        return outputs(context, lambda var: recipe.output(context, var), None)

    region = box(0.1)
    found, cheap = by_numpy(method)(region), once(jb.ibp)(net, region)
    assert_contains(found, values(net, samples(region, 4000)), 1e-5)
    assert (found.lower >= cheap.lower).all() and (found.upper <= cheap.upper).all()
    assert (found.upper - found.lower < 0.9 * (cheap.upper - cheap.lower)).all()


MULTIPLIERS = np.array([0.0, 0.1, 0.3, 1.0, 2.0], "float32")


def constrained(fn, region):
    """Lower bounds ``[element, sign, multiplier]`` under constraints ``sign z[element] >= 0`` on the first operand."""
    context = prepare(CROWN, fn, (region,), Options(published=True))
    (out,) = context.graph.outputs
    (operand,) = next(
        eqn.moving.values() for eqn in context.graph.equations if eqn.outputs[0] in context.lines
    )

    def bound(element, sign, multiplier):
        def step(eqn, rows, offset):
            if operand in eqn.outputs:
                added = jnp.zeros((len(offset), *operand.shape))
                added = added.at[:, element].add(-sign * multiplier)
                rows = rows | {operand: rows.get(operand, 0) + added}
            return rows, offset

        there = dataclasses.replace(context, step=step)
        return concretized(by_rows(from_inputs, there, out, apart), out).lower

    for axis in (2, 1, 0):
        bound = jax.vmap(bound, [0 if i == axis else None for i in range(3)])
    return bound(jnp.arange(operand.size), jnp.array([1.0, -1.0]), jnp.array(MULTIPLIERS))


def test_multipliers_of_a_constraint():
    """Each one's bound holds wherever the constraint does; 0 is crown's own, and others are better than that."""
    fn, region = lambda x: net(x)[0], box()
    found = np.asarray(by_numpy(lambda region: constrained(fn, region))(region))
    published = once(jb.crown, published=True)(fn, region)
    np.testing.assert_allclose(found[..., 0], published.lower, rtol=1e-5)
    points = samples(region, 4000)
    results, operands = values(lambda x: (fn(x), x @ W1), points)
    for element, sign in itertools.product(range(5), (1, -1)):
        here = sign * operands[:, element] >= 0
        assert here.any() and not here.all()
        lower = found[element, 0 if sign > 0 else 1]
        assert (lower <= results[here].min() + 1e-5).all()
    assert (found.max(-1) > published.lower + 1e-3).sum() >= 3
