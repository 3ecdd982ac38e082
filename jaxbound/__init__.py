"""Propagates bounds through any JAX function: intervals, and linear bounds of its inputs."""

from jaxbound._bounds.balls import LpBall as LpBall
from jaxbound._bounds.balls import linf_ball as linf_ball
from jaxbound._bounds.balls import lp_ball as lp_ball
from jaxbound._bounds.halfspaces import Halfspaces as Halfspaces
from jaxbound._bounds.halfspaces import halfspaces as halfspaces
from jaxbound._bounds.interval import Interval as Interval
from jaxbound._bounds.interval import intersect as intersect
from jaxbound._bounds.linear import LinearBounds as LinearBounds
from jaxbound._bounds.linear import concretize as concretize
from jaxbound._bounds.polytopes import Polytope as Polytope
from jaxbound._bounds.polytopes import polytope as polytope
from jaxbound._bounds.regions import Region as Region
from jaxbound._cache import keep_compiled_programs as keep_compiled_programs
from jaxbound._decide.question import Verdict as Verdict
from jaxbound._decide.verify import verify as verify
from jaxbound._methods.capacity import capacities as capacities
from jaxbound._methods.capacity import undecided as undecided
from jaxbound._methods.inspection import alphas as alphas
from jaxbound._methods.inspection import intermediate_bounds as intermediate_bounds
from jaxbound._methods.inspection import linear_bounds as linear_bounds
from jaxbound._methods.margins import margins as margins
from jaxbound._methods.margins import verified as verified
from jaxbound._methods.published import alpha_crown as alpha_crown
from jaxbound._methods.published import crown as crown
from jaxbound._methods.published import crown_ibp as crown_ibp
from jaxbound._methods.published import crown_lbp as crown_lbp
from jaxbound._methods.published import ibp as ibp
from jaxbound._methods.published import lbp as lbp
from jaxbound._methods.radius import certified_radius as certified_radius
from jaxbound._methods.single_prop import Propagated as Propagated
from jaxbound._methods.single_prop import single_prop as single_prop
from jaxbound._program.activations import param_ramp as param_ramp
from jaxbound._program.graph import Graph as Graph
from jaxbound._program.trace import trace as trace
from jaxbound._rules.errors import UnsupportedPrimitiveError as UnsupportedPrimitiveError
from jaxbound._rules.interval_rules import register_interval_rule as register_interval_rule
from jaxbound._rules.linear_rules import register_linear_rule as register_linear_rule
from jaxbound._rules.register import register_elementwise as register_elementwise
from jaxbound._rules.relaxations import Relaxation as Relaxation
from jaxbound._rules.relaxations import register_relaxation as register_relaxation

__version__ = "0.1.0"
