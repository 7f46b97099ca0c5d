"""`--cuda-ids`: which GPUs a process sees. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lumina.errors import LuminaError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What the CUDA driver reads once, when a process first uses a GPU."""

CHOSEN = "LUMINA_CUDA_IDS"
"""Set beside it: the numbers that were chosen. Processes that are started with it are
not restricted a second time."""


def use_cuda_ids(ids: Sequence[int]) -> None:
    """Let this process, and those that it starts, see these GPUs alone.

    Where `CUDA_VISIBLE_DEVICES` is set already, the numbers count the GPUs that it
    names, as for every other CUDA program.

    Args:
        ids: numbers of the GPUs; () for all.

    Raises:
        LuminaError: E003 where a number is not among the visible GPUs, or where this
            process has used a GPU already.
    """
    words = ",".join(map(str, ids))
    if not ids or os.environ.get(CHOSEN) == words:
        return
    named = os.environ.get(VISIBLE)
    before = None if named is None else [one.strip() for one in named.split(",")]
    if before is not None and max(ids) >= len(before):
        raise LuminaError(
            "E003",
            f"cuda_ids {words}: {VISIBLE} is {named!r}, which leaves "
            f"{len(before)} GPUs",
            f"count the GPUs that it names, or unset {VISIBLE}",
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise LuminaError(
            "E003",
            f"cuda_ids {words}: this process has used a GPU already",
            f"set {VISIBLE}={words} before Python starts",
        )
    os.environ[VISIBLE] = words if before is None else ",".join(before[i] for i in ids)
    os.environ[CHOSEN] = words
