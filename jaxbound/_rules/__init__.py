"""Defines what each primitive does to an interval, where it is affine, and between which affine functions it lies."""
