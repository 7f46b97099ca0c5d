"""8-bit floats (e4m3) with one scale for each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Parts, Shape, register_codec
from lumina.ops.low_bits.fast import DecodedAtOnce

TYPE = torch.float8_e4m3fn
"""Three bits of mantissa (Micikevicius et al., 2022, arXiv:2209.05433)."""

LARGEST = torch.finfo(TYPE).max


@register_codec
class Fp8(DecodedAtOnce):
    """w = scale * q, where the largest q of a row is e4m3's largest value, 448.

    `values` [..., out, in] is float8_e4m3fn, `scale` [..., out] float32. Small values
    of a row keep three bits of mantissa, where int8 keeps a fixed step.
    """

    name, bits, kernel = "fp8", 8, "rows_into"
    summary = "8-bit floats (e4m3), a float32 scale for each row"

    def parts(self, shape: Shape) -> Parts:
        """The values and the scales."""
        return {"values": (shape, TYPE), "scale": (shape[:-1], torch.float32)}

    def encode_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The nearest float8."""
        scale = rows.abs().amax(dim=-1) / LARGEST
        scale = torch.where(scale > 0, scale, 1.0)
        unit = (rows / scale.unsqueeze(-1)).clamp(-LARGEST, LARGEST)
        return {"values": unit.to(TYPE), "scale": scale}

    def decode(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> Tensor:
        """Values times scales."""
        values, scale = tensors["values"], tensors["scale"]
        return values.to(dtype) * scale.to(dtype).unsqueeze(-1)
