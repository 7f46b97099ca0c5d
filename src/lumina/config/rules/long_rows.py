"""Long rows, in chunks or over processes: what they need, and what has no effect."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse attention that knows no keys of earlier chunks or of other processes.

    Raises:
        LuminaError: E002.
    """
    kernel = settings.system.attention
    if settings.long_rows.use_chunked_training and kernel not in ("auto", "blockwise"):
        refuse(
            f"use_chunked_training and attention {kernel} do not go together: a chunk "
            "attends to the keys of earlier chunks block by block",
            "use --attention blockwise, or leave it out",
        )
    if (settings.long_rows.context_parallel or 1) == 1:
        return
    if kernel not in ("auto", "blockwise"):
        refuse(
            f"context_parallel and attention {kernel} do not go together: a process "
            "attends to the keys of the others block by block, with the kernel that "
            "blockwise attention has here",
            "use --attention blockwise, or leave it out",
        )
    if settings.model.attention_dilation:
        refuse(
            "context_parallel and attention_dilation do not go together: keys at fixed "
            "distances are in no blocks that processes could exchange",
            "leave attention_dilation out, or --context-parallel",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of chunks without effect, and why."""
    if settings.long_rows.use_chunked_training:
        return {}
    why = "use_chunked_training is off, so rows are whole"
    return {"chunk_size": why, "chunk_offload": why}


RULE = Rule(check=check, without_effect=without_effect)
