"""Products of matrices in float8, with a scale for each matrix or each row.

The scheme is that of "FP8 Formats for Deep Learning" (Micikevicius et al., 2022,
arXiv:2209.05433): the largest value of a matrix, or of a row, is scaled to the largest
of the type, and products are summed in higher precision. The scale is that of the
values at hand: nothing is remembered from step to step.
"""

from __future__ import annotations

from lumina.ops.float8.linear import linear
from lumina.ops.float8.rows import grouped_linear_by_rows, linear_by_rows

__all__ = ["grouped_linear_by_rows", "linear", "linear_by_rows"]
