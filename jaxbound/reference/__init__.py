"""Computes exact references for small piecewise-linear networks, by linear and mixed-integer programs.

Values are float64 NumPy arrays, so none of it runs under `jax.jit`. `import jaxbound` does not import
this module. Results are exact up to the tolerances of the solver, SciPy's HiGHS (1e-7 for constraints,
1e-6 for integers and the gap, and coefficients below 1e-9 are 0): to compare with, no certificate.
"""

from jaxbound.reference._encoding import KINKS as KINKS
from jaxbound.reference._encoding import lp as lp
from jaxbound.reference._encoding import milp as milp
