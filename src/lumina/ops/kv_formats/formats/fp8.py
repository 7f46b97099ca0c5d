"""Keys and values in 8-bit floating point (e4m3), with a scale for each vector."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.kv_formats.table import Format, Piece, register_format

KIND = torch.float8_e4m3fn
HELD = torch.uint8
"""What the bits are held as: few operations move tensors of 8-bit floats."""

LARGEST = torch.finfo(KIND).max


class ScaledFloat8(Format):
    """The largest value of a vector becomes the largest of e4m3, 448."""

    name = "fp8"
    summary = "8-bit floating point (e4m3), one scale a vector"

    def pieces(self, width: int, dtype: torch.dtype) -> tuple[Piece, ...]:
        """The values, and their scale."""
        return (width, HELD), (1, torch.float32)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Values over the scale, rounded to the nearest."""
        values = x.float()
        scale = values.abs().amax(-1, keepdim=True) / LARGEST
        unit = values / torch.where(scale > 0, scale, 1.0)
        return unit.clamp(-LARGEST, LARGEST).to(KIND).view(HELD), scale

    def decode(
        self, pieces: tuple[Tensor, ...], width: int, dtype: torch.dtype
    ) -> Tensor:
        """Values times their scale."""
        values, scale = pieces
        return (values.view(KIND).float() * scale).to(dtype)


register_format(ScaledFloat8())
