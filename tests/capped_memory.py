"""A cap on the bytes of live tensors, as a device's allocator enforces one."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CappedMemory(TorchDispatchMode):
    """Operations end as on a full GPU when live tensors would exceed a cap.

    Counts the storages that operations make while it is active, until they are freed.

    Attributes:
        cap: bytes; None: no cap.
        live: bytes that are taken.
        peak: the most that were taken.
        failures: operations that had no room.
    """

    def __init__(self, cap: int | None = None) -> None:
        super().__init__()
        self.cap = cap
        self.live = self.peak = self.failures = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        if self.cap is not None and self.live > self.cap:
            made = sum(
                one.untyped_storage().nbytes()
                for one in tree_leaves(out)
                if isinstance(one, torch.Tensor)
            )
            del out
            self.failures += 1
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {made} bytes. Simulated: "
                f"{self.live} of {self.cap} bytes are taken"
            )
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
