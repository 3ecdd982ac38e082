"""Defines the public methods: how each bounds the operands of non-linear equations, and the output."""
