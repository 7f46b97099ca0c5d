"""Optimizers and their table, groups of tensors, the finite gate, weight averaging."""
