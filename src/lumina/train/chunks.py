"""Chunked training: a long row in chunks, with the loss and gradient of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.model.earlier_keys import EarlierKeys

_CHUNK = 1_000_003
"""Sets apart the random draws of the chunks of a step."""


class Pass(NamedTuple):
    """A forward and backward of a micro-batch, or of one chunk of it.

    Attributes:
        batch: what it learns from, on the device.
        earlier: keys of the chunks before it; None for a whole micro-batch.
        last: no other pass of the micro-batch follows.
    """

    batch: Batch
    earlier: EarlierKeys | None = None
    last: bool = True


def passes(program: Program, batch: Batch, seed: int) -> Iterator[Pass]:
    """The passes of a micro-batch, in the order in which they are taken.

    Every pass is to go forward and backward before the next one is asked for.

    Args:
        program: what trains.
        batch: on the device.
        seed: of the micro-batch's random draws, where it is divided.
    """
    length, size = batch.input_ids.shape[1], program.plan.chunk_size
    if not size or size >= length:
        yield Pass(batch)
        return
    plan = program.plan
    latent = bool(plan.spec.mla_kv_rank)
    earlier = EarlierKeys(batch, host=plan.chunk_offload, whole=latent)
    chunks = [
        (begin, min(begin + size, length), batch.columns(begin, begin + size))
        for begin in range(0, length, size)
    ]
    with torch.no_grad():
        for number, (begin, end, chunk) in enumerate(chunks[:-1]):
            torch.manual_seed((seed + number * _CHUNK) % 2**63)
            earlier.turn(begin, end, learns=False)
            program.network.backbone(chunk, cache=earlier)
    for number in reversed(range(len(chunks))):
        begin, end, chunk = chunks[number]
        torch.manual_seed((seed + number * _CHUNK) % 2**63)
        earlier.turn(begin, end, learns=True)
        yield Pass(chunk, earlier, last=number == 0)
