"""Where data of a size is best kept."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lumina.data.sources.find import find_sources
from lumina.quantities import byte_size

SMALL, LARGE = 10**9, 50 * 10**9
"""Bytes of files: below the first, memory holds everything; from the second on, no
ordinary disk reads it in a reasonable time."""

TOKEN_BYTES = 4
"""Bytes of text that a token has in most languages."""


def storage_advice(paths: Sequence[str | os.PathLike[str]]) -> str:
    """What to keep data on, by the size of its files, and what its tokens will need.

    Raises:
        LuminaError: E104 to E106 for paths.
    """
    size = sum(source.size for source in find_sources(paths))
    tokens = f"about {byte_size(size / TOKEN_BYTES * 2)} to {byte_size(size)} of tokens"
    if size < SMALL:
        return (
            f"{byte_size(size)} of files, under 1 GB: any disk will do, and {tokens} "
            "fit into memory"
        )
    if size <= LARGE:
        return (
            f"{byte_size(size)} of files, 1 to 50 GB: keep them and the cache "
            f"(LUMINA_CACHE, {tokens}) on a local SSD"
        )
    return (
        f"{byte_size(size)} of files, over 50 GB: keep them on fast local disks "
        f"(NVMe), or train with --data-loading streaming, which keeps no tokens; a "
        f"store would have {tokens}"
    )
