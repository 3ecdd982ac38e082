"""Runs the command as `python -m jaxbound`."""

import sys

from jaxbound._command import run

if __name__ == "__main__":
    sys.exit(run())
