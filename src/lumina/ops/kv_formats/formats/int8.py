"""Keys and values as 8-bit integers, with a scale for each vector."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.kv_formats.table import Format, Piece, register_format

LARGEST = 127


class Int8(Format):
    """The largest value of a vector becomes 127; a value is off by half a step."""

    name = "int8"
    summary = "8-bit integers, one scale a vector"

    def pieces(self, width: int, dtype: torch.dtype) -> tuple[Piece, ...]:
        """The values, and their scale."""
        return (width, torch.int8), (1, torch.float32)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Values over the scale, rounded to the nearest."""
        values = x.float()
        scale = values.abs().amax(-1, keepdim=True) / LARGEST
        steps = values / torch.where(scale > 0, scale, 1.0)
        return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8), scale

    def decode(
        self, pieces: tuple[Tensor, ...], width: int, dtype: torch.dtype
    ) -> Tensor:
        """Values times their scale."""
        values, scale = pieces
        return (values * scale).to(dtype)


register_format(Int8())
