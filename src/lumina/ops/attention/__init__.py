"""Causal attention over documents: a reference and its fast versions."""
