"""Between what a Program holds (fused, sharded, in parts) and logical tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lumina.model.tensors import FusedPieces
from lumina.optim.sharded import is_sharded


def split_fused(
    name: str, tensor: Tensor, pieces: dict[str, FusedPieces]
) -> dict[str, Tensor]:
    """The logical tensors that the (whole) parameter `name` is made of."""
    if name not in pieces:
        return {name: tensor}
    spec = pieces[name]
    split = tensor.split(list(spec.sizes), dim=spec.dim)
    return dict(zip(spec.names, split, strict=True))


def logical_names(name: str, pieces: dict[str, FusedPieces]) -> tuple[str, ...]:
    """The logical names that the parameter `name` holds."""
    return tuple(pieces[name].names) if name in pieces else (name,)


def join_fused(
    name: str, pieces: dict[str, FusedPieces], read: Callable[[str], Tensor]
) -> Tensor:
    """The whole parameter `name`, from its logical tensors."""
    if name not in pieces:
        return read(name)
    spec = pieces[name]
    return torch.cat([read(piece) for piece in spec.names], dim=spec.dim)


def fill(
    target: Tensor, like: Tensor, value: Tensor, order: Tensor | None = None
) -> None:
    """Copy this rank's part of the whole tensor `value` into local `target`.

    Args:
        target: local.
        like: the parameter whose rows are shared out in the same way.
        value: whole.
        order: which row of it each stored row is; None: they stand in their order.
    """
    if order is not None:
        value = value.index_select(0, order.to(value.device))
    if is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(
            value.to(target.device),
            like.device_mesh,
            like.placements,
            src_data_rank=None,
        ).to_local()
    with torch.no_grad():
        target.copy_(value)


def share_out(sizes: Iterable[tuple[str, int]], ranks: int) -> dict[str, int]:
    """Which rank writes which tensor: greedy by size, the same on every rank."""
    loads = [0] * ranks
    owner = {}
    for name, size in sorted(sizes, key=lambda item: (-item[1], item[0])):
        rank = loads.index(min(loads))
        owner[name] = rank
        loads[rank] += size
    return owner
