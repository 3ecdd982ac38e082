"""Defines what each primitive does to an interval, where it is affine, and between which affine functions it lies.

A family of primitives is a file, which enters what it knows of them in the tables: here they are all imported.
"""

from jaxbound._rules import angles as angles
from jaxbound._rules import choices as choices
from jaxbound._rules import divisions as divisions
from jaxbound._rules import integers as integers
from jaxbound._rules import lookups as lookups
from jaxbound._rules import maxima as maxima
from jaxbound._rules import powers as powers
from jaxbound._rules import products as products
from jaxbound._rules import reductions as reductions
