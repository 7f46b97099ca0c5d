"""Whether kernels in Triton can be built."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def has_triton() -> bool:
    """Whether Triton is installed; looked up once, because forwards ask."""
    return find_spec("triton") is not None
