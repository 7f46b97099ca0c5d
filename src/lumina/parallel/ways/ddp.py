"""DDP: whole weights on every rank, gradients averaged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from lumina.parallel.table import register_parallel
from lumina.parallel.way import Conditions, Place, Way

if TYPE_CHECKING:
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from lumina.parallel.averaging import Averaging


@register_parallel("ddp")
class Replicated(Way):
    """Every rank holds the model; PyTorch's wrapper averages the gradients.

    Those that are exchanged as products of narrow matrices stay as the backward pass
    leaves them, and are exchanged after it.

    Under expert parallelism (`mesh.expert` of more than one rank) each rank holds its
    share of the routed experts, which the wrapper leaves alone, and all of the rest.
    """

    summary = "every process holds the model, gradients are averaged"
    preference = 1
    buckets = True
    takes_apart = True
    divides_experts = True
    _wrapper: DistributedDataParallel
    _averaging: Averaging | None = None

    @classmethod
    def refuses(cls, conditions: Conditions) -> str | None:
        """Errors of gradients whose scale changes, beside what no process can share."""
        if conditions.low_rank and conditions.compute_dtype == "float16":
            return (
                "would add errors of one loss scale to gradients of another, with "
                "gradient_compression powersgd in float16"
            )
        if conditions.low_rank and conditions.sizes.expert > 1:
            return (
                "would take apart gradients of experts that other processes hold, with "
                "gradient_compression powersgd and expert_parallel_size"
            )
        return super().refuses(conditions)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._experts: dict[str, nn.Parameter] = {}

    def wrap(self) -> None:
        """Leave this rank its share of the experts, where they are divided."""
        if self.place.mesh.expert.size > 1:
            from lumina.parallel.experts import divide

            self._experts = divide(self.place)

    def settle(self) -> nn.Module:
        """The network inside the wrapper, which sends rank 0's values to all."""
        from torch.nn.parallel import DistributedDataParallel

        place = self.place
        if self._experts:
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                place.network, list(self._experts)
            )
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
        if place.messages.low_rank:
            self._take_apart()
        return self._wrapper

    def _take_apart(self) -> None:
        from lumina.parallel.averaging import Averaging, averaged
        from lumina.parallel.low_rank import LowRank

        place = self.place
        trained = {
            name: parameter
            for name, parameter in place.network.named_parameters()
            if parameter.requires_grad and parameter not in place.whole
        }
        tokens = place.mesh.tokens
        self.low_rank = LowRank(trained, tokens, place.messages.low_rank)
        self._averaging = Averaging(tokens)
        self._wrapper.register_comm_hook(self._averaging, averaged)

    def begin(self, step: int, learns: bool) -> None:
        """From a step on, what a step learns from is taken apart.

        A run that goes on does not stop it, though that step be put off. Gradients of a
        step without labels are thrown away, and would take errors with
        them.
        """
        if self._averaging is not None and self.low_rank is not None:
            late = step >= self.place.messages.low_rank_from or self.low_rank.begun
            self._averaging.elsewhere = late and learns

    @contextmanager
    def sync(self, last: bool) -> Iterator[None]:
        """Gradients are averaged in the last backward, and add up locally before."""
        with nullcontext() if last else self._wrapper.no_sync():
            yield
        if last and self._averaging is not None and self._averaging.elsewhere:
            assert self.low_rank is not None
            self.low_rank.exchange()

        if last and self._experts:
            from lumina.parallel.experts import average_gradients

            average_gradients(list(self._experts.values()), self.place.mesh)

    def close(self) -> None:
        """Let go of errors, factors and experts."""
        self.low_rank = self._averaging = None
        self._experts.clear()
