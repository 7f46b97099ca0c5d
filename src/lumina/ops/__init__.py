"""Numeric hot spots: one folder an op, a plain reference beside fast versions."""
