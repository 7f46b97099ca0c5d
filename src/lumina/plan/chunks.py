"""Whether rows are trained in chunks, and how long these are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lumina.config.provenance import Source
from lumina.model.spec import ModelSpec
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config

BY_LENGTH = ((100_000, 512), (65_536, 1024), (32_768, 2048), (4096, 4096))
"""Rows of at least this many tokens -> tokens of a chunk. Shorter chunks keep less and
read the keys of earlier chunks more often."""

SHORTEST = 256
"""No chunk is made shorter than this for want of memory."""

Fits = Callable[["Config"], bool]
"""Whether a run with some settings finds room on the machine."""


def decide_chunks(
    config: Config, spec: ModelSpec, device: str, decisions: Decisions, fits: Fits
) -> None:
    """The fields `chunk_size` and `chunk_offload` of a Plan.

    Args:
        config: what was asked for.
        spec: the model's shape.
        device: what trains.
        decisions: takes the fields, and advice.
        fits: asked for chunks that no option names.
    """
    section = config.long_rows
    if not section.use_chunked_training:
        decisions.decide("chunk_offload", bool(section.chunk_offload), "rows are whole")
        decisions.decide("chunk_size", 0, "rows are whole")
        return
    length = spec.seq_length
    offload, why = _offload(config, spec, device, fits)
    decisions.decide("chunk_offload", offload, why)
    config = config.override({"chunk_offload": offload}, Source("decided", why))
    size, why = section.chunk_size, source_of(config, "chunk_size")
    if size is None:
        size, why = _by_length(config, length, fits)
    if size >= length:
        decisions.warn(
            f"use_chunked_training divides nothing: a chunk of {size:,} tokens holds a "
            f"row of {length:,}"
        )
    decisions.decide("chunk_size", size, why)


def _offload(
    config: Config, spec: ModelSpec, device: str, fits: Fits
) -> tuple[bool, str]:
    """Whether keys of chunks lie in host memory, and why.

    Where no option says it, they do on a GPU that has room for the shortest chunk
    with them there, and none with them on the device.
    """
    asked = config.long_rows.chunk_offload
    if asked is not None:
        return asked, source_of(config, "chunk_offload")
    if device != "cuda" or spec.mla_kv_rank:
        return False, "default"
    size = min(config.long_rows.chunk_size or SHORTEST, spec.seq_length)

    def room(offload: bool) -> bool:
        trial = {"chunk_size": size, "chunk_offload": offload}
        return fits(config.override(trial, Source("decided", "tried")))

    if room(False) or not room(True):
        return False, "default"
    return True, f"keys and values of {spec.seq_length:,} tokens have no room beside"


def _by_length(config: Config, length: int, fits: Fits) -> tuple[int, str]:
    """The tokens of a chunk that no option names, and why."""
    shortest, _ = BY_LENGTH[-1]
    if length < shortest:
        return length, f"rows under {shortest:,} tokens need no chunks"
    size = next(size for least, size in BY_LENGTH if length >= least)
    why = f"rows of {length:,} tokens"
    while size > SHORTEST:
        named = Source("decided", why)
        if fits(config.override({"chunk_size": size}, named)):
            break
        why = f"rows of {length:,} tokens; chunks of {size:,} do not fit"
        size //= 2
    return size, why
