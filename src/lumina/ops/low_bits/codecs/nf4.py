"""NF4 (Dettmers et al., 2023, arXiv:2305.14314) with float32 scales."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Parts, Shape, register_codec
from lumina.ops.low_bits.fast import DecodedAtOnce

BLOCK = 64
"""Numbers of a row that share a scale."""

CODES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The value of each code, as bitsandbytes has them: spread as those of a normal
distribution are."""


@register_codec
class Nf4(DecodedAtOnce):
    """Blocks of 64 numbers of a row, each with its largest value as a scale.

    `values` [..., out, bytes] holds two codes a byte, the first in the high bits; a row
    is filled up to whole blocks. `scale` [..., out, blocks] is float32. Codes and
    scales are those of bitsandbytes where rows are multiples of a block.
    """

    name, bits, kernel = "nf4", 4, "nf4_into"
    summary = "4-bit normal floats in blocks of 64, a float32 scale each (4.5 bits)"

    def parts(self, shape: Shape) -> Parts:
        """The codes and the scales."""
        blocks = -(-shape[-1] // BLOCK)
        return {
            "values": ((*shape[:-1], blocks * BLOCK // 2), torch.uint8),
            "scale": ((*shape[:-1], blocks), torch.float32),
        }

    def encode_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The nearest code of each number."""
        blocks = blocks_of(rows)
        scale = blocks.abs().amax(dim=-1)
        return {"values": codes_of(blocks, scale), "scale": scale}

    def decode(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> Tensor:
        """Codes times scales."""
        return widened(tensors["values"], tensors["scale"], shape[-1], dtype)


def blocks_of(matrix: Tensor) -> Tensor:
    """[..., out, blocks, 64] of a matrix [..., out, in], filled up with zeros."""
    filled = F.pad(matrix, (0, -matrix.shape[-1] % BLOCK))
    blocks: Tensor = filled.unflatten(-1, (-1, BLOCK))
    return blocks


def codes_of(blocks: Tensor, scale: Tensor) -> Tensor:
    """The nearest codes, two a byte.

    Args:
        blocks: [..., blocks, 64] float32.
        scale: [..., blocks] float32; a block whose scale is 0 becomes zeros.
    """
    unit = blocks / torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    codes = blocks.new_tensor(CODES)
    found = torch.bucketize(unit, (codes[1:] + codes[:-1]) / 2).to(torch.uint8)
    pairs: Tensor = found.flatten(-2).unflatten(-1, (-1, 2))
    return pairs[..., 0] * 16 + pairs[..., 1]


def widened(values: Tensor, scale: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """[..., out, columns] in `dtype`, of codes and scales as in `Nf4`."""
    codes = torch.tensor(CODES, dtype=dtype, device=values.device)
    pairs = torch.stack([values >> 4, values & 15], dim=-1)
    blocks: Tensor = codes[pairs.flatten(-2).int()].unflatten(-1, (-1, BLOCK))
    return (blocks * scale.to(dtype).unsqueeze(-1)).flatten(-2)[..., :columns]
