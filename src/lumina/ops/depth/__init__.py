"""Choosing some tokens of every row, gathering them, and adding back what they became.

`reference` is plain indexing and the oracle; `selection` has fixed shapes, gathers in
both directions and never synchronises.
"""
