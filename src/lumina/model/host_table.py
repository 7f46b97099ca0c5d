"""A frozen table of token vectors in host memory: the rows of a batch alone travel.

The table of a model of 8 billion parameters with 128,256 tokens takes 1 GiB in 16
bits, and a forward pass reads one row of it for each token. Where it does not train,
it stays in page-locked memory; its rows are gathered there and copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.errors import LuminaError
from lumina.model.layers import Embedding

if TYPE_CHECKING:
    from lumina.model.network import Network

ROWS = 4096
"""Rows that are gathered at a time; two buffers of this many are page-locked."""


class HostTable(Embedding):
    """An embedding whose weight stays in host memory wherever the network is moved."""

    def __init__(self, weight: nn.Parameter) -> None:
        nn.Module.__init__(self)
        self.weight = weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, S] int64 to [B, S, D] on the device of the tokens."""
        return gathered(self.weight, input_ids)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Take a new type, or memory where there was none, but no other device."""
        old = self.weight.data
        made = fn(torch.empty(0, dtype=old.dtype, device=old.device))
        if made.device.type == "meta":
            new = old.to(made.dtype)
        elif old.device.type == "meta":
            new = torch.empty(
                old.shape, dtype=made.dtype, pin_memory=made.device.type == "cuda"
            )
        else:
            new = old.to(made.dtype)
        self.weight = nn.Parameter(new, requires_grad=False)
        return self


def gathered(weight_vd: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table in host memory, on the device of the tokens.

    Args:
        weight_vd: [V, D] on the host.
        ids: [...] int64. On a GPU they are read back, for which the host waits.

    Returns:
        [..., D], without a gradient.
    """
    if not ids.is_cuda:
        return F.embedding(ids, weight_vd)
    wanted = ids.flatten().cpu()
    width = weight_vd.shape[1]
    out = torch.empty((len(wanted), width), dtype=weight_vd.dtype, device=ids.device)
    size = min(ROWS, len(wanted))
    buffers = [
        torch.empty((size, width), dtype=weight_vd.dtype, pin_memory=True)
        for _ in range(2)
    ]
    copied = [torch.cuda.Event(), torch.cuda.Event()]
    for number, part in enumerate(wanted.split(ROWS)):
        if number > 1:
            copied[number % 2].synchronize()  # before its buffer is written again
        rows = buffers[number % 2][: len(part)]
        torch.index_select(weight_vd.detach(), 0, part, out=rows)
        begin = number * ROWS
        out[begin : begin + len(part)].copy_(rows, non_blocking=True)
        copied[number % 2].record()
    return out.view(*ids.shape, width)


def keep_table_in_host_memory(network: Network, plan: Any) -> None:
    """Put a `HostTable` in the place of the embedding; the build of a feature.

    Raises:
        LuminaError: E002 where the embedding trains.
    """
    backbone = cast(Any, network.backbone)
    if backbone.embedding.weight.requires_grad:
        raise LuminaError(
            "E002",
            "embedding_in host is for an embedding that is frozen, and this one trains",
            "leave --embedding-in host out, or the embedding out of the adapters",
        )
    backbone.embedding = HostTable(backbone.embedding.weight)


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes: where its parameters are, but for those beside it.

    Those are of a `HostTable`, or of blocks whose weights are streamed.
    """
    aside = {id(tensor) for tensor in beside_the_device(network)}
    return next(p.device for p in network.parameters() if id(p) not in aside)


def beside_the_device(network: nn.Module) -> list[Tensor]:
    """The tensors of a network that live in memory of the host or on disk.

    They are those of a `HostTable`, and what a module lists that has `streamed`.
    """
    found: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, HostTable):
            found += module.parameters()
        streamed = getattr(module, "streamed", None)
        if streamed is not None:
            found += streamed.tensors()
    return found
