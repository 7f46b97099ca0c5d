"""FSDP2: weights, gradients and moments are divided over the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lumina.parallel.table import register_parallel
from lumina.parallel.way import Exchanged, Way


@register_parallel("fsdp2")
class Sharded(Way):
    """Each rank holds a part of every parameter and gathers a block to compute it.

    `lumina.parallel.sharding` is imported by a run that shards only: FSDP2 and DTensor
    take seconds to load.
    """

    summary = "weights, gradients and moments are divided over the processes"
    preference = 3
    stage = 3
    sharded = True
    keeps_small = True

    @classmethod
    def communication_bytes(cls, what: Exchanged) -> int:
        """Two gathered blocks and the root, and the gradients of one on their way.

        And those of the parameters that stay whole, in one message.
        """
        sent = max(what.block, what.root) + what.persistent
        return what.element * (2 * what.block + what.root) + 4 * sent

    def wrap(self) -> None:
        """Shard in place."""
        from lumina.parallel.sharding import shard

        shard(self.place)

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are reduced in the last backward, and add up locally before.

        Whole, so that all of them are on every rank until then; where messages are for
        `every_pass`, each backward reduces its own, and their parts add up. Those of
        parameters that stay whole are averaged after the last one.
        """
        from lumina.parallel.sharding import synchronise_gradients

        reduces = last or self.place.messages.every_pass
        synchronise_gradients(self.place.network, reduces)
        if last and self.place.messages.persistent:
            return self._averaging()
        return nullcontext()

    @contextmanager
    def _averaging(self) -> Iterator[None]:
        from lumina.parallel.sharding import average_whole

        yield
        average_whole(self.place)

    def after_evaluation(self) -> None:
        """Free weights that were kept for a backward pass that does not come."""
        from lumina.parallel.sharding import free_gathered

        free_gathered(self.place.network)

    def after_failure(self) -> None:
        """Free the weights of every unit that was gathered when a step broke off."""
        from lumina.parallel.sharding import forget_step

        forget_step(self.place.network)
