"""DDP: whole weights on every rank, gradients averaged."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from lumina.parallel.table import register_parallel
from lumina.parallel.way import Way

if TYPE_CHECKING:
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel


@register_parallel("ddp")
class Replicated(Way):
    """Every rank holds the model; PyTorch's wrapper averages the gradients."""

    summary = "every process holds the model, gradients are averaged"
    preference = 1
    buckets = True
    _wrapper: DistributedDataParallel

    def settle(self) -> nn.Module:
        """The network inside the wrapper, which sends rank 0's values to all."""
        from torch.nn.parallel import DistributedDataParallel

        place = self.place
        with warnings.catch_warnings():
            # torch 2.13 renames the last option; 2.11 has only this name.
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapper = DistributedDataParallel(
                place.network,
                device_ids=[place.device] if place.device.type == "cuda" else None,
                process_group=place.mesh.tokens.group,
                bucket_cap_mb=place.bucket_mb,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
            )
        return self._wrapper

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged in the last backward, and add up locally before."""
        return nullcontext() if last else self._wrapper.no_sync()
