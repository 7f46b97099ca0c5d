"""Whether kernels in Triton can be built."""

from __future__ import annotations

from functools import cache

from lumina.packages import installed


@cache
def has_triton() -> bool:
    """Whether Triton is installed; looked up once, because forwards ask."""
    return installed("triton")
