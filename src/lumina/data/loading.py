"""How the text of a run is loaded: held in memory, mapped from disk, or streamed.

`memory` and `sharded` make the same token store and so the same run. Of the first, all
tokens are read into memory when the run begins; the second leaves them on disk, and the
pages that a step touches are read as it needs them. `streaming` makes no store.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lumina.data.sources.find import find_sources
from lumina.errors import LuminaError
from lumina.host_memory import host_memory_bytes
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config.settings import Settings
    from lumina.data.store import TokenStore

MEMORY_BYTES = 500 * 10**6
"""Files below this are held in memory: as tokens, which are fewer bytes than text."""


@dataclass(frozen=True)
class Loading:
    """How text is loaded.

    Attributes:
        way: the way itself.
        why: where it comes from, or the size that decided it.
    """

    way: Literal["memory", "sharded", "streaming"]
    why: str

    def __str__(self) -> str:
        """For the plan and the banner."""
        return f"{self.way} ({self.why})"


def choose_loading(settings: Settings, paths: Sequence[str] | None = None) -> Loading:
    """How the text that the settings name is loaded.

    Args:
        settings: say the way, or the size from which on text is streamed.
        paths: the text; None: `train_data`.

    Raises:
        LuminaError: E104 to E106 for paths, where the size of the files decides.
    """
    loading = settings.loading
    if loading.data_loading != "auto":
        return Loading(loading.data_loading, "asked for")
    sizes = {one: one.size for one in find_sources(paths or settings.data.train_data)}
    for source, known in sizes.items():
        if not known and source.path is None:
            return Loading("sharded", f"{source.name} does not say how large it is")
    size = sum(sizes.values())
    most = loading.streaming_threshold_gb * 1e9
    files = f"{in_bytes(size)} of files"
    if size > most:
        return Loading("streaming", f"{files}, over {in_bytes(most)}")
    if size < MEMORY_BYTES:
        return Loading("memory", f"{files}, under {in_bytes(MEMORY_BYTES)}")
    return Loading("sharded", f"{files}, up to {in_bytes(most)}")


def require_memory(stores: Sequence[TokenStore], loading: Loading) -> None:
    """Refuse to read token stores into memory that has no room for them.

    Args:
        stores: what would be held.
        loading: why it would.

    Raises:
        LuminaError: E202, before anything is read.
    """
    need = sum(store.bytes_in_memory for store in stores)
    have = host_memory_bytes()
    if need > have:
        raise LuminaError(
            "E202",
            f"the tokens of the data take {byte_size(need)} in memory, on every rank, "
            f"and this machine has {byte_size(have)}; data_loading is {loading}",
            "use --data-loading sharded, which leaves them on the disk",
        )


def encoding_threads(settings: Settings) -> int:
    """Threads that make tokens of text; 0: it is done where the text is read.

    As many as there are cores, or none where the run is on an Apple GPU, unless
    `num_workers` says otherwise.
    """
    import torch

    system = settings.system
    if system.num_workers is not None:
        return system.num_workers
    apple = system.device == "auto" and torch.backends.mps.is_available()
    return 0 if apple or system.device == "mps" else os.cpu_count() or 1


def in_bytes(size: float) -> str:
    """A size in words, in powers of a thousand as disks count."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"
