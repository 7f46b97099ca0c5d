"""Where values fall in an ascending row of numbers, for compiled blocks too."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("lumina::first_not_below", mutates_args=())
def first_not_below(ascending_n: Tensor, values_m: Tensor) -> Tensor:
    """For each value the place of the first number that is not smaller; [M] int32.

    `torch.searchsorted`, which torch 2.11 cannot compile for a GPU where the numbers
    are a view of others (NotImplementedError: View).
    """
    return torch.searchsorted(ascending_n, values_m, out_int32=True)


@first_not_below.register_fake
def _(ascending_n: Tensor, values_m: Tensor) -> Tensor:
    return torch.empty_like(values_m, dtype=torch.int32)
