"""The step of generation: one token for every row, in shapes that do not change."""
