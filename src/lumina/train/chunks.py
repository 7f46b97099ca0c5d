"""Chunked training: a long row in chunks, with the loss and gradient of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.model.earlier_keys import EarlierKeys
from lumina.model.spec import ModelSpec
from lumina.ops.seeding import seed_generators

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

    def backward(self, loss: Tensor) -> None:
        """Go back from a loss, and from the states that later chunks have begun with.

        Args:
            loss: [], times the step's factor, which all passes share.
        """
        owed = None if self.earlier is None else self.earlier.handed_on()
        (loss if owed is None else loss + owed).backward()


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
    # Latent attention and registered parts make something of their own of all keys.
    whole = bool(plan.spec.mla_kv_rank) or plan.spec.parts is not None
    earlier = EarlierKeys(batch, host=plan.chunk_offload, whole=whole)
    chunks = [
        (begin, min(begin + size, length), batch.columns(begin, begin + size))
        for begin in range(0, length, size)
    ]
    with torch.no_grad():
        for number, (begin, end, chunk) in enumerate(chunks[:-1]):
            seed_generators((seed + number * _CHUNK) % 2**63)
            earlier.turn(begin, end, learns=False)
            program.network.backbone(chunk, cache=earlier)
            if number == 0:
                _check_handed_on(plan.spec, earlier)
    for number in reversed(range(len(chunks))):
        begin, end, chunk = chunks[number]
        seed_generators((seed + number * _CHUNK) % 2**63)
        earlier.turn(begin, end, learns=True)
        yield Pass(chunk, earlier, last=number == 0)


def _check_handed_on(spec: ModelSpec, earlier: EarlierKeys) -> None:
    """Refuse registered parts that keep to themselves what later tokens may need.

    Raises:
        LuminaError: E002.
    """
    if spec.parts is None:
        return
    for layer in range(spec.num_layers):
        for kind in ("block", "attention"):
            name = spec.parts.at(kind, layer)
            if name and layer not in earlier.layers:
                raise LuminaError(
                    "E002",
                    f"use_chunked_training takes rows chunk by chunk, and the {kind} "
                    f"{name} of layer {layer} hands nothing on to the next chunk",
                    "let it call context.cache.update or context.cache.remember, as "
                    "for generation, or leave --use-chunked-training out",
                )
