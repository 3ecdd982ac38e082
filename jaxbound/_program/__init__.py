"""Traces a function to one flat graph of primitives, and simplifies it."""
