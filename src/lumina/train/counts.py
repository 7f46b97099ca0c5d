"""What a model counts in a step, as one flat vector and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def flatten_counts(
    aux: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> Tensor | None:
    """One flat vector of the counts; None where there are none."""
    if not shapes:
        return None
    return torch.cat([aux[key].detach().flatten() for key in shapes])


def divide_counts(
    values: Tensor, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The parts of one flat vector, by name; views of it."""
    begin = 0
    for key, shape in shapes.items():
        size = math.prod(shape)
        yield key, values[begin : begin + size].view(shape)
        begin += size
