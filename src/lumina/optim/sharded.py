"""Tensors of which each rank holds some rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, without loading that module for those that are not."""
    return hasattr(tensor, "placements")


def whole(local: Tensor, like: Tensor, order: Tensor | None = None) -> Tensor:
    """The unsharded tensor whose local part is `local`; every rank must call this.

    Args:
        local: this rank's part (or all of it, if `like` is not sharded).
        like: a parameter with the same rows, which are shared out in the same way.
        order: the number that each stored row has in the whole tensor; None: its own.
    """
    if not is_sharded(like):
        return local
    from torch.distributed.tensor import DTensor

    shape = torch.Size([like.shape[0], *local.shape[1:]])
    sharded = DTensor.from_local(
        local.to(like.to_local().device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )
    full: Tensor = sharded.full_tensor()
    return full if order is None else torch.empty_like(full).index_copy_(0, order, full)


def rows_here(like: Tensor) -> slice:
    """Which rows of the first axis of a parameter lie on this rank."""
    rows = like.shape[0]
    if not is_sharded(like):
        return slice(0, rows)
    # As torch.chunk divides them: all parts but the last ones are equally long.
    size = -(-rows // like.device_mesh.size())
    first = min(like.device_mesh.get_local_rank() * size, rows)
    return slice(first, min(first + size, rows))
