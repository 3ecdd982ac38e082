"""Defines the interpreters: forward with intervals, forward with linear bounds, backward with rows."""
