"""Pages in the memory of the host."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lumina.optim.paging.home import Home, memory, register_home


@register_home
class HostMemory(Home):
    """Pinned memory, which a GPU reads and writes beside its computing."""

    staged: ClassVar[bool] = False

    def __init__(self, size: int, folder: Path, *, pinned: bool) -> None:
        self.rest = memory(size, pinned=pinned)

    def read(self, into: Tensor | None) -> Tensor:
        """The bytes, where they are."""
        return self.rest

    def target(self, staging: Tensor | None) -> Tensor:
        """The bytes, where they are."""
        return self.rest

    def write(self, content: Tensor) -> None:
        """Nothing: the content is where it belongs."""
