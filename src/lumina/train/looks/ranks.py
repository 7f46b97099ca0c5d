"""What each rank does: how long it waits, computes and sends, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lumina.parallel.probe import WORDS, probe
from lumina.train.memory_figures import own_limit_bytes, used_bytes
from lumina.train.watch import Look, register_look

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches

KEYS = (
    "ranks.wait_seconds",
    "ranks.product_seconds",
    "ranks.link_seconds",
    "ranks.exchange_seconds",
    "ranks.memory_bytes",
    "ranks.memory_limit_bytes",
)


@register_look
class RanksApart(Look):
    """The figures of every rank, side by side; all ranks get the same ones.

    It works before the step, and the time of the step leaves it out.
    """

    name = "ranks"
    apart = True

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        everyone = program.mesh.everyone
        waits = sorted(everyone.waits)
        # The lower quartile: now and then any rank is late, and the others wait for it.
        waited = waits[len(waits) // 4] if waits else 0.0
        everyone.waits.clear()
        found = probe(everyone, program.device)
        trained = sum(slot.parameter.numel() for slot in program.optimizer.slots)
        device = program.device.type
        own = torch.tensor(
            [
                waited,
                found.product,
                found.link,
                found.exchange * trained / WORDS,
                float(used_bytes(device)),
                float(own_limit_bytes(device, program.ranks.local_size)),
            ],
            dtype=torch.float64,
        )
        own = own.to(program.device)
        self._figures: list[list[float]] = everyone.stack(own).T.tolist()

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """A list for each figure, with an entry for each rank."""
        return dict(zip(KEYS, self._figures, strict=True))
