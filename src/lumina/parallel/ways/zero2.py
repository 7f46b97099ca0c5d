"""ZeRO-2: gradients and moments are divided, weights are gathered once a step."""

from __future__ import annotations

from contextlib import AbstractContextManager

from lumina.parallel.table import register_parallel
from lumina.parallel.way import Exchanged
from lumina.parallel.ways.fsdp2 import Sharded


@register_parallel("zero2")
class GatheredOnce(Sharded):
    """FSDP2 whose weights stay on every rank from the first use in a step to the last.

    Stage 2 of ZeRO (Rajbhandari et al., 2020, arXiv:1910.02054). Half the weights'
    communication of `fsdp2`, and with several micro-batches a fraction of it, for the
    memory of all weights in the compute type.
    """

    summary = "gradients and moments are divided, and weights gathered once a step"
    preference = 2
    stage = 2
    keeps_small = False

    @classmethod
    def communication_bytes(cls, what: Exchanged) -> int:
        """All weights, and the gradients of one block or the root on their way."""
        largest = max(what.block, what.root)
        return what.element * (what.blocks + what.root) + 4 * largest

    def wrap(self) -> None:
        """Shard in place."""
        from lumina.parallel.sharding import shard

        shard(self.place, stays_gathered=True)

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """As for `fsdp2`; weights are let go after the last backward."""
        from lumina.parallel.sharding import keep_gathered

        keep_gathered(self.place.network, wanted=not last)
        return super().sync(last)
