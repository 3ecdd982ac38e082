"""Defines the errors that reading a model may raise."""


class OnnxError(ValueError):
    """Tells what is wrong with a model, and in which node."""


class UnsupportedOnnxError(OnnxError):
    """Lists all nodes of a model that cannot be computed, and why."""
