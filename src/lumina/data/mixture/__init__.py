"""Several sources of text as one sequence of rows, in shares that hold at any time."""
