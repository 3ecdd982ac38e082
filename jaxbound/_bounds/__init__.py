"""Defines intervals, input sets and affine functions of the inputs."""
