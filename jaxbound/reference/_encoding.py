"""Encodes neurons, regions and affine equations as constraints of linear and mixed-integer programs."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxbound._bounds.balls import LpBall
from jaxbound._bounds.halfspaces import Halfspaces
from jaxbound._bounds.interval import Interval
from jaxbound._bounds.numerics import concrete, in_double
from jaxbound._bounds.polytopes import Polytope
from jaxbound._bounds.regions import Region, arrays_of, is_region
from jaxbound._methods.inspection import intermediate_bounds
from jaxbound._methods.prepare import intervals_of, leaves_of, precision
from jaxbound._program.graph import Atom, Equation, Graph, Var, read
from jaxbound._program.trace import trace
from jaxbound._rules.elementwise import ELEMENTWISE, is_kinked
from jaxbound._rules.errors import describe
from jaxbound._rules.linear_rules import linear_operands
from jaxbound._walks.backward import unit_rows, walk_back
from jaxbound._walks.chunks import rows_at_once
from jaxbound._walks.operands import affine_ends, names_of
from jaxbound.reference._solver import Model, placed, zeros

# Gives the points where the straight pieces of a function meet, from its known operands and its parameters.
KINKS = {p: record.kinks for p, record in ELEMENTWISE.items() if record.kinks is not None}


def lp(fn, *args, intermediates=None):
    """Returns the exact range of ``fn`` over its triangle relaxation, on which no choice of lines can improve.

    Every neuron may be anywhere in the convex hull of its function's graph on its interval (on the
    graph itself, where that is one straight piece), jointly with all others and with the inputs. Solves
    one linear program for each end of each element of the output.

    Args:
      fn: function of one example, of affine operations and of abs, leaky_relu, `param_ramp`, clip, and
        maximum or minimum with a known value (relu).
      *args: pytrees. Every `Interval`, `LpBall` with p of 1 or inf, `Polytope` and `Halfspaces` is uncertain, all
        else is known.
      intermediates: optional dict from `intermediate_bounds`, the neurons' intervals, used as they are,
        with their rounding (so make them in float64); `crown` gives those that it lacks (by default all).

    Returns:
      `Interval`s of float64 NumPy arrays in the tree and shapes of ``fn``'s output; infinite where
      the output is unbounded, because a region is.

    Raises:
      ValueError: ``fn`` has another non-linear operation, or an argument is not valid.
      RuntimeError: the solver failed, or ``intermediates`` that do not hold left nothing to
        solve (others that do not hold give wrong ranges).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbound as jb
      >>> from jaxbound import reference
      >>> fn = lambda x: jax.nn.relu(x[0] + x[1]) + jax.nn.relu(x[0] - x[1])
      >>> box = jb.linf_ball(jnp.zeros(2), 1.0)
      >>> reference.lp(fn, box).upper.item(), reference.milp(fn, box).upper.item()
      (3.0, 2.0)

    References: Ehlers, arXiv 1705.01320; Salman et al., arXiv 1902.08722.
    """
    return _ranges(fn, args, intermediates, exact=False)


def milp(fn, *args, intermediates=None, time_limit: float = math.inf):
    """Returns the exact range of ``fn`` over the regions.

    As `lp`, with one binary variable for every kink inside of a neuron's interval. Each end is the
    bound that the search has proved: the exact value, or, where ``time_limit`` ends the search, a
    bound from outside that is no wider than by `lp`.

    Args:
      fn: as for `lp`.
      *args: as for `lp`.
      intermediates: as for `lp`; the tighter, the faster.
      time_limit: seconds of search for each end of each element of the output.

    Returns:
      As `lp`.

    Raises:
      ValueError, RuntimeError: as `lp`.

    References: Tjeng et al., arXiv 1711.07356.
    """
    if not time_limit > 0:
        raise ValueError(f"time_limit is {time_limit}; expected seconds > 0")
    return _ranges(fn, args, intermediates, exact=True, time_limit=time_limit)


def _ranges(fn, args, intermediates, exact: bool, time_limit: float = math.inf) -> Any:
    """Returns the range of every output, exact or of the relaxation."""
    with jax.enable_x64(True), precision():
        leaves, restore = arrays_of(args)
        args, intermediates = restore(in_double(leaves)), in_double(intermediates)
        if any(concrete(leaf) is None for leaf in jax.tree.leaves(leaves)):
            raise ValueError(
                "a reference is solved outside of JAX: call it without jax.jit and jax.vmap"
            )
        graph = trace(fn, *args)
        inputs = dict(zip(graph.inputs, leaves_of(args), strict=True))
        env = inputs | _intervals(graph, fn, args, intermediates)
        model, known = Model(), [eqn for eqn in graph.equations if not eqn.moving]
        for eqn in known:
            env.update(eqn.evaluate(env))
        affine = functools.partial(_affine, model, graph, env)
        for var, region in inputs.items():
            if is_region(region):
                _add_region(model, var, region)
        for eqn in _nonlinear(graph):
            _add_equation(model, eqn, [read(env, atom) for atom in eqn.inputs], affine, exact)

        def of(atom: Atom) -> Interval:
            if isinstance(atom, Var) and atom.uncertain:
                coeffs, offset = affine(atom, np.arange(atom.size))
                ends = (model.extremes(sign, coeffs, time_limit) + offset for sign in (1, -1))
                return Interval(*(end.reshape(atom.shape) for end in ends))
            value = np.asarray(read(env, atom))
            return Interval(value, value)

        return jax.tree.unflatten(graph.out_tree, [of(atom) for atom in graph.outputs])


def _intervals(graph: Graph, fn, args, intermediates) -> dict[Var, Interval]:
    """Returns the intervals of the operands of non-linear equations: as given, the others by `crown`."""
    given = intervals_of(graph, intermediates)
    if set(given) != set(names_of(graph).values()):
        by_crown = functools.partial(intermediate_bounds, fn, intermediates=intermediates)
        leaves, restore = arrays_of(args)
        found = jax.jit(lambda leaves: by_crown(*restore(leaves)))(leaves)
        given = intervals_of(graph, found) | given
    return given


def _nonlinear(graph: Graph) -> list[Equation]:
    """Returns the equations that are not affine; raises where one is not supported."""
    found = [eqn for eqn in graph.equations if eqn.moving and linear_operands(eqn) is None]
    other = [eqn for eqn in found if not is_kinked(eqn.primitive) or len(eqn.moving) > 1]
    if other:
        supported = ", ".join(str(p) for p in ELEMENTWISE if is_kinked(p))
        raise ValueError(
            "not piecewise linear, or of more than one uncertain operand:\n  "
            + "\n  ".join(dict.fromkeys(map(describe, other)))
            + f"\nSupported: {supported}, of one uncertain operand, and affine operations."
        )
    return found


# ---------------------------------------------------------------- what a graph asks of its variables


def _add_region(model: Model, var: Var, region: Region) -> None:
    """Adds an input as variables in its box, and what else its set demands of them."""
    before, box = model.size, region.box
    model.starts[var] = before
    model.add_variables(var.size, np.ravel(box.lower), np.ravel(box.upper))
    if not region.independent:
        _constrain(region, model, before, var.size)


@functools.singledispatch
def _constrain(region: Region, model: Model, before: int, size: int) -> None:
    """Adds the linear constraints of a set on the ``size`` variables after ``before``; raises where it has others."""
    raise ValueError(
        f"a {type(region).__name__} is not known as a polyhedron; expected an Interval"
    )


@_constrain.register
def _(region: LpBall, model: Model, before: int, size: int) -> None:
    if region.p == jnp.inf:  # its box says it all
        return
    if region.p != 1:
        raise ValueError(f"an LpBall has p={region.p}; expected an Interval, or p of 1 or inf")
    # x - center = a - b, and the sum of all a, b >= 0 is at most the radius.
    model.add_variables(2 * size, 0, region.radius)
    one: Any = sparse.eye_array(size)
    model.add_equal([zeros(size, before), one, -one, one], np.ravel(region.center))
    total = sparse.csr_array(np.ones((1, 2 * size)))
    model.add_at_most([zeros(1, before + size), total], np.ravel(region.radius))


@_constrain.register
def _(region: Polytope, model: Model, before: int, size: int) -> None:
    # x is a mean of the vertices, by weights >= 0 with the sum 1.
    vertices = np.asarray(region.vertices).reshape(-1, size)
    model.add_variables(len(vertices), 0, 1)
    one: Any = sparse.eye_array(size)
    model.add_equal([zeros(size, before), one, -sparse.csr_array(vertices.T)], np.zeros(size))
    total = sparse.csr_array(np.ones((1, len(vertices))))
    model.add_equal([zeros(1, before + size), total], np.ones(1))


@_constrain.register
def _(region: Halfspaces, model: Model, before: int, size: int) -> None:
    limits, normals = np.asarray(region.limits), np.asarray(region.normals).reshape(-1, size)
    model.add_at_most([zeros(len(limits), before), sparse.csr_array(normals)], limits)


def _add_equation(model: Model, eqn: Equation, operands, affine, exact: bool) -> None:
    """Adds ``y = fn(z)`` by steps along the graph of ``fn`` on the interval of z.

    From one breakpoint p_i to the next: ``z = p_0 + sum_i (p_i - p_(i-1)) t_i``, y by the rises of fn, and
    ``1 >= t_1 >= t_2 >= ... >= 0``. That is the convex hull; it is the graph if every t_i is 1 before
    t_(i+1) is more than 0, which a binary variable between them enforces.
    """
    (var,), (y,) = eqn.moving.values(), eqn.outputs
    at = np.broadcast_to(np.arange(var.size).reshape(var.shape), y.shape).ravel()
    coeffs, offset = affine(var, at)
    points, values = _breakpoints(eqn, operands)
    steps, rises = np.diff(points, axis=0), np.diff(values, axis=0)
    bent, width = (steps > 0).sum(0) > 1, points[-1] - points[0]
    slope = np.where(bent, 0, values[-1] - values[0]) / np.where(width > 0, width, 1)
    element, step = np.nonzero(((steps > 0) & bent).T)
    place, shape = (element, np.arange(element.size)), (y.size, element.size)
    along, rise = (
        sparse.csr_array((sizes[step, element], place), shape) for sizes in (steps, rises)
    )
    before, order = model.size, np.nonzero(np.diff(element) == 0)[0]
    model.add_variables(element.size, 0, 1)
    one: Any = sparse.eye_array(element.size, format="csr")
    nothing, zero = zeros(order.size, before), np.zeros(order.size)
    if exact:
        model.add_variables(order.size, 0, 1, integer=True)
        switch = sparse.eye_array(order.size)
        model.add_at_most([nothing, -one[order], switch], zero)
        model.add_at_most([nothing, one[order + 1], -switch], zero)
    else:
        model.add_at_most([nothing, one[order + 1] - one[order]], zero)
    model.starts[y] = model.size
    model.add_variables(y.size, values.min(0), values.max(0))

    model.add_equal([-coeffs[bent], along[bent]], (offset - points[0])[bent])
    straight = sparse.diags_array(slope) @ coeffs
    straight.eliminate_zeros()
    blocks = [straight, rise, zeros(y.size, exact * order.size), -sparse.eye_array(y.size)]
    model.add_equal(blocks, slope * (points[0] - offset) - values[0])


def _breakpoints(eqn: Equation, operands):
    """Returns the operand's ends with the kinks between them, and the values there: ``[n, y.size]``."""
    (y,), known = eqn.outputs, [op for op in operands if not isinstance(op, Interval)]
    (z,) = (op for op in operands if isinstance(op, Interval))
    l, u = (np.broadcast_to(end, y.shape) for end in (z.lower, z.upper))
    if not (np.isfinite(l).all() and np.isfinite(u).all()):
        raise ValueError(f"an operand has no finite interval: {describe(eqn)}")
    kinks_of: Any = ELEMENTWISE[eqn.primitive].kinks
    kinks = [np.clip(kink, l, u) for kink in kinks_of(*known, **eqn.params)]
    points = np.sort([l, *kinks, u], axis=0)
    fn = lambda z: eqn.bind(*(z if isinstance(op, Interval) else op for op in operands))[0]
    values = np.stack([fn(point) for point in points])
    return points.reshape(len(points), -1), values.reshape(len(points), -1)


def _affine(model: Model, graph: Graph, env, var: Var, indices) -> tuple[Any, Any]:
    """Returns elements of ``var`` at flat indices as coefficients ``[C, model.size]`` and offsets ``[C]``."""
    ends = affine_ends(graph, var)

    @jax.jit
    def rows(indices):
        start, rows, offset = unit_rows(graph, var, indices, env)
        found, offset = walk_back(graph, {start: rows}, offset, env, None)
        return [found[end].reshape(len(indices), end.size) for end in ends], offset

    blocks, offsets = [], []
    for chunk in np.array_split(indices, max(1, math.ceil(len(indices) / rows_at_once(graph, 1)))):
        found, offset = rows(chunk)
        pairs = zip(found, ends, strict=True)
        blocks.append(
            sum(placed(np.asarray(row), model.starts[end], model.size) for row, end in pairs)
        )
        offsets.append(offset)
    coeffs, offset = sparse.vstack(blocks, format="csr"), np.concatenate(offsets)
    if not (np.isfinite(coeffs.data).all() and np.isfinite(offset).all()):
        raise ValueError(f"weights or constants before {var.shape} values are not finite")
    return coeffs, offset
