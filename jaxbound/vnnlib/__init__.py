"""Reads VNN-LIB properties, boxes of inputs and the outputs that are unsafe there, and decides them.

Version 1.0 of the language is read, and with the extra `jaxbound[vnnlib]` version 2.0. `import jaxbound` leaves it out.
"""

from jaxbound.vnnlib._expressions import VnnLibError as VnnLibError
from jaxbound.vnnlib._property import Case as Case
from jaxbound.vnnlib._property import Property as Property
from jaxbound.vnnlib._property import load as load
from jaxbound.vnnlib._property import loads as loads
from jaxbound.vnnlib._verify import verify as verify
