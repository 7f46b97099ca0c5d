"""Page-locked memory of exactly the size that is asked for.

The allocator of torch rounds pinned memory up to a power of two, and keeps what is
freed: for a page of 1.4 GiB it takes 2.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.quantities import byte_size


class _Locked(mmap.mmap):
    """Memory of the system that a GPU may use; it goes back with the last tensor."""

    address = 0

    def __del__(self) -> None:
        if self.address:
            torch.cuda.cudart().cudaHostUnregister(self.address)


def locked(size: int) -> Tensor:
    """[size] uint8, zeros, in pages that stay in memory.

    Raises:
        LuminaError: E202 where the system has no such memory.
    """
    try:
        pages = _Locked(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise _no_room(size, str(error.strerror)) from error
    made = torch.frombuffer(pages, dtype=torch.uint8)
    code = int(torch.cuda.cudart().cudaHostRegister(made.data_ptr(), size, 0))
    if code:
        raise _no_room(size, f"CUDA refuses to lock it (error {code})")
    pages.address = made.data_ptr()
    return made


def _no_room(size: int, why: str) -> LuminaError:
    return LuminaError(
        "E202",
        f"no room for {byte_size(size)} of pinned memory of the host: {why}",
        "keep less beside the device: --optimizer-states-in, --weights-in and "
        "--activations-in have disk, too; in a container, look at its limits of memory "
        "and of locked memory (ulimit -l)",
    )
