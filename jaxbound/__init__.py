"""Functional bound propagation: intervals and linear bounds through any JAX function."""

from jaxbound._activations import param_ramp as param_ramp
from jaxbound._capacity import capacities as capacities
from jaxbound._capacity import undecided as undecided
from jaxbound._errors import UnsupportedPrimitiveError as UnsupportedPrimitiveError
from jaxbound._graph import trace as trace
from jaxbound._inner import alphas as alphas
from jaxbound._inner import intermediate_bounds as intermediate_bounds
from jaxbound._inner import linear_bounds as linear_bounds
from jaxbound._interval import Interval as Interval
from jaxbound._interval import intersect as intersect
from jaxbound._interval_rules import register_interval_rule as register_interval_rule
from jaxbound._linear import LinearBounds as LinearBounds
from jaxbound._linear import concretize as concretize
from jaxbound._linear_rules import register_linear_rule as register_linear_rule
from jaxbound._methods import alpha_crown as alpha_crown
from jaxbound._methods import crown as crown
from jaxbound._methods import crown_ibp as crown_ibp
from jaxbound._methods import crown_lbp as crown_lbp
from jaxbound._methods import ibp as ibp
from jaxbound._methods import lbp as lbp
from jaxbound._program import Graph as Graph
from jaxbound._radius import certified_radius as certified_radius
from jaxbound._regions import LpBall as LpBall
from jaxbound._regions import linf_ball as linf_ball
from jaxbound._regions import lp_ball as lp_ball
from jaxbound._relaxations import Relaxation as Relaxation
from jaxbound._relaxations import register_relaxation as register_relaxation
from jaxbound._single_prop import Propagated as Propagated
from jaxbound._single_prop import single_prop as single_prop
from jaxbound._specification import margins as margins
from jaxbound._specification import verified as verified

__version__ = "0.1.0"
