"""Reads VNN-LIB properties, boxes of inputs and the outputs that are unsafe there, and decides them.

Only version 1.0 of the language is read. `import jaxbound` does not import this package.
"""

from jaxbound.vnnlib._property import Case as Case
from jaxbound.vnnlib._property import Property as Property
from jaxbound.vnnlib._property import load as load
from jaxbound.vnnlib._property import loads as loads
from jaxbound.vnnlib._reader import VnnLibError as VnnLibError
from jaxbound.vnnlib._verify import verify as verify
