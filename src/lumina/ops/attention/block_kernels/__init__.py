"""Kernels of attention that say what they summed: one file for each, see `table`."""
