"""8-bit integers with one scale for each row (LLM.int8's weights, arXiv:2208.07339)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Packed, Parts, Shape, register_codec
from lumina.ops.low_bits.fast import DecodedAtOnce

LARGEST = 127


@register_codec
class Int8(DecodedAtOnce):
    """w = scale * q, with q from -127 to 127 and a scale for each row.

    `values` [..., out, in] is int8, `scale` [..., out] float32: the row's largest value
    over 127.
    """

    name, bits, kernel = "int8", 8, "rows_into"
    summary = "8-bit integers, a float32 scale for each row"

    def parts(self, shape: Shape) -> Parts:
        """The values and the scales."""
        return {"values": (shape, torch.int8), "scale": (shape[:-1], torch.float32)}

    def encode_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The nearest integers."""
        return rounded(rows, torch.float32)

    def decode(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> Tensor:
        """Values times scales."""
        values, scale = tensors["values"], tensors["scale"]
        return values.to(dtype) * scale.to(dtype).unsqueeze(-1)

    def linear(self, x: Tensor, packed: Packed) -> Tensor:
        """The integers are exact in every type, so the scale comes after the sum."""
        y = F.linear(x, packed.tensors["values"].to(x.dtype))
        return y * packed.tensors["scale"].to(x.dtype)


def rounded(matrix: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that hold a matrix, its scales of `dtype`.

    The values are rounded by the scale as it is stored.
    """
    matrix = matrix.float()
    scale = matrix.abs().amax(dim=-1) / LARGEST
    scale = torch.where(scale > 0, scale, 1.0).to(dtype)
    values = (matrix / scale.float().unsqueeze(-1)).round().clamp(-LARGEST, LARGEST)
    return {"values": values.to(torch.int8), "scale": scale}
