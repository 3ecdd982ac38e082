"""Decides whether a function is positive on its regions: attack, bounds, and branch and bound."""
