"""Chunked training: what does nothing without it, and what it needs."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse kernels of attention that know no keys of earlier chunks.

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


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of chunks without effect, and why."""
    if settings.long_rows.use_chunked_training:
        return {}
    why = "use_chunked_training is off, so rows are whole"
    return {"chunk_size": why, "chunk_offload": why}


RULE = Rule(check=check, without_effect=without_effect)
