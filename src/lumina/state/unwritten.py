"""Why a checkpoint was not written, as the user is to see it."""

from __future__ import annotations

from lumina.durable import free_bytes, write_error
from lumina.errors import LuminaError
from lumina.state.writer import Writing, bytes_needed


def check_space(writing: Writing) -> None:
    """Refuse a checkpoint that does not fit the disk, before any of it is written.

    Raises:
        LuminaError: E204.
    """
    folder = writing.final.parent
    needed = bytes_needed(writing.state, writing.state_json)
    free = free_bytes(folder)
    if needed > free:
        raise LuminaError(
            "E204",
            f"a checkpoint takes {needed:,} bytes and {folder} has {free:,}",
            "free some disk space or lower --save-total-limit; the checkpoints "
            "that were there are untouched",
        )


def coded(error: Exception, writing: Writing) -> LuminaError:
    """The coded form of what went wrong with a checkpoint."""
    if isinstance(error, OSError):
        return write_error(error, writing.temporary)
    if isinstance(error, LuminaError):
        return error
    return LuminaError(
        "E303",
        f"{writing.final.name} was not written: {type(error).__name__}: {error}",
        "the checkpoints that were there are untouched",
    )
