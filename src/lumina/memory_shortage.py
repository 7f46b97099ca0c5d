"""Whether an exception says that memory ran out, whichever library raised it.

Exceptions are known by their names and texts, so that torch is not imported to look at
one that may not be torch's.
"""

from __future__ import annotations

import errno

_DEVICE = (
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "Cuda failure 2 'out of memory'",  # NCCL's
)
"""Texts of errors that mean: the device has no room."""

_HOST = (
    "DefaultCPUAllocator",
    "could not create a memory",  # oneDNN's
    "std::bad_alloc",
)
"""Texts of errors that mean: the host has no room."""


def shortage_code(error: BaseException) -> str | None:
    """E201 where a device's memory ran out, E202 where the host's did, else None."""
    kind, text = type(error), str(error)
    of_torch = kind.__module__.split(".")[0] == "torch"
    if of_torch and kind.__name__ in ("OutOfMemoryError", "CudaError"):
        return "E201" if "out of memory" in text.lower() else None
    if isinstance(error, MemoryError):
        return "E202"
    if isinstance(error, OSError):
        return "E202" if error.errno == errno.ENOMEM else None
    if not isinstance(error, RuntimeError):
        return None
    if any(words in text for words in _DEVICE):
        return "E201"
    return "E202" if any(words in text for words in _HOST) else None


def shortage_text(error: BaseException) -> str:
    """What the library says about it, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
