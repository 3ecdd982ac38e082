"""Runs the command `jaxbound`, which docs/COMMAND.md describes. It uses public names alone."""

from jaxbound._command.start import main as main
from jaxbound._command.start import run as run
