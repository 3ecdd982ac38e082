"""Finds windows: the part of a value that an element depends on, or that it reaches. For speed alone."""
