"""Rows walk back through the transpose of what an affine equation computes, whatever its parameters and indices."""

import jax
import jax.numpy as jnp
import numpy as np
from interpreter import by_numpy
from jax.ad_checkpoint import checkpoint_name
from test_indexing import INDEXED
from test_rules import SHAPED, chained

from jaxbound._program.graph import Graph, Var
from jaxbound._program.inline import flatten
from jaxbound._rules.linear_rules import linear_operands, linear_rules
from jaxbound._walks.backward import walk_back

RNG = np.random.default_rng(0)


def sides(eqn, moving, known, xs, values, rows):
    """``<p(x), r>`` and ``<x, transpose(r)> + <bias, r>``, and what enters these sums; finite values alone count."""
    env = dict(zip((*moving, *known), (*xs, *values), strict=True))
    found = eqn.evaluate(env)
    rows = {v: jnp.where(jnp.isfinite(found[v])[None], row, 0) for v, row in rows.items()}
    graph = Graph(moving, (eqn,), eqn.outputs, None)
    ends, offset = walk_back(graph, rows, jnp.zeros(1), env, None)
    forth = [jnp.where(row == 0, 0, found[v][None] * row).ravel() for v, row in rows.items()]
    back = [offset, *((env[v] * row[0]).ravel() for v, row in ends.items())]
    forth, back = jnp.concatenate(forth), jnp.concatenate(back)
    return forth.sum(), back.sum(), jnp.abs(forth).sum() + jnp.abs(back).sum()


def check_dual(eqn, env):
    moving = tuple(dict.fromkeys(eqn.moving.values()))
    known = tuple({a for a in eqn.inputs if isinstance(a, Var) and not a.uncertain})
    xs = [RNG.normal(size=v.shape).astype(v.dtype) for v in moving]
    rows = {v: RNG.normal(size=(1, *v.shape)).astype(v.dtype) for v in eqn.outputs}
    run = by_numpy(lambda xs, values: sides(eqn, moving, known, xs, values, rows))
    forth, back, size = run(xs, [env[a] for a in known])
    slack = 16 * max(float(jnp.finfo(v.dtype).eps) for v in rows) * max(size, 1e-9)
    assert abs(forth - back) <= slack, (eqn.primitive, eqn.params, forth, back)


def known_values(graph):
    env = {}
    for eqn in graph.equations:
        if not eqn.moving:
            env |= eqn.evaluate(env)
    return list(env.values())


def test_every_transpose_is_the_dual():
    """Of every linear rule, on some of its cases; of reads and writes in every mode, at any indices."""
    cases = [(chained(fn, shape), shape) for fn, shape in SHAPED.values()]
    cases += [(fn, (2, 4)) for fn in INDEXED.values()]
    cases += [(lambda x: checkpoint_name(jnp.array(x.astype("bfloat16"), copy=True), "x"), (2,))]
    seen = {primitive: set() for primitive in linear_rules}
    for fn, shape in cases:
        graph = flatten(fn, [jax.ShapeDtypeStruct(shape, "float32")], [True])
        chosen = []
        for eqn in graph.equations:
            if eqn.moving and linear_operands(eqn) is not None:
                at = eqn.primitive.name.startswith(("gather", "scatter", "dynamic"))
                kinds, kind = seen[eqn.primitive], (eqn.uncertain, repr(eqn.params), at and fn)
                if kind not in kinds and (at or len(kinds) < 2):
                    chosen.append(eqn)
                    kinds.add(kind)
        if chosen:
            known = [v for eqn in graph.equations if not eqn.moving for v in eqn.outputs]
            env = dict(zip(known, by_numpy(lambda graph=graph: known_values(graph))(), strict=True))
            for eqn in chosen:
                check_dual(eqn, env)
    assert {primitive for primitive, kinds in seen.items() if not kinds} == set()
