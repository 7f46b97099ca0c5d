"""Products of matrices in float8, with a scale for each matrix.

The scheme is that of "FP8 Formats for Deep Learning" (Micikevicius et al., 2022,
arXiv:2209.05433): the largest value of a matrix is scaled to the largest of the type,
and products are summed in higher precision.
"""

from __future__ import annotations

from lumina.ops.float8.linear import linear

__all__ = ["linear"]
