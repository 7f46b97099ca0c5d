"""NF4 whose scales are themselves in 8 bits: QLoRA's double quantisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Parts, Shape, found_codec, register_codec
from lumina.ops.low_bits.codecs.nf4 import BLOCK, widened
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.ops.low_bits.fast import DecodedAtOnce

SCALES = 256
"""Scales of a matrix, row after row, that share a scale of their own."""


@register_codec
class Nf4Double(DecodedAtOnce):
    """NF4, the scales of a matrix less their mean in 8 bits (4.13 bits a number).

    `values` as in `Nf4`. `scale` [..., out, blocks] uint8 are codes of the dynamic
    exponent map, `scale_scale` [..., ceil(out * blocks / 256)] float32 the largest
    value of each 256 of them, and `scale_mean` [..., 1] float32 their mean. All are
    those of bitsandbytes (`bnb_4bit_use_double_quant`) where rows are multiples of 64.
    """

    name, bits, kernel = "nf4_double", 4, "nf4_into"
    summary = "4-bit normal floats in blocks of 64, 8-bit scales (4.13 bits)"

    def parts(self, shape: Shape) -> Parts:
        """The codes, the codes of the scales, their scales and their mean."""
        *leading, rows, columns = shape
        blocks = -(-columns // BLOCK)
        groups = -(-rows * blocks // SCALES)
        return {
            "values": ((*leading, rows, blocks * BLOCK // 2), torch.uint8),
            "scale": ((*leading, rows, blocks), torch.uint8),
            "scale_scale": ((*leading, groups), torch.float32),
            "scale_mean": ((*leading, 1), torch.float32),
        }

    def encode(self, matrix: Tensor) -> dict[str, Tensor]:
        """The nearest code of each number by the exact scale, as there."""
        plain = found_codec("nf4").encode(matrix)
        exact = plain["scale"]
        flat = exact.flatten(-2)
        mean = flat.mean(dim=-1, keepdim=True)
        groups = _groups(flat - mean)
        largest = groups.abs().amax(dim=-1)
        unit = groups / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)
        table = exact.new_tensor(dynamic_map(8, signed=True))
        found = torch.bucketize(unit, (table[1:] + table[:-1]) / 2).to(torch.uint8)
        codes = found.flatten(-2)[..., : flat.shape[-1]].unflatten(-1, exact.shape[-2:])
        return {
            "values": plain["values"],
            "scale": codes.contiguous(),
            "scale_scale": largest,
            "scale_mean": mean,
        }

    def decode(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> Tensor:
        """Codes times the scales that their codes stand for."""
        codes = tensors["scale"]
        table = torch.tensor(
            dynamic_map(8, signed=True), dtype=torch.float32, device=codes.device
        )
        flat = table[codes.flatten(-2).int()]
        wide = _groups(flat) * tensors["scale_scale"].unsqueeze(-1)
        scale = wide.flatten(-2)[..., : flat.shape[-1]] + tensors["scale_mean"]
        scale = scale.unflatten(-1, codes.shape[-2:])
        return widened(tensors["values"], scale, shape[-1], dtype)


def _groups(flat: Tensor) -> Tensor:
    """[..., groups, 256] of [..., n], filled up with zeros."""
    filled = F.pad(flat, (0, -flat.shape[-1] % SCALES))
    groups: Tensor = filled.unflatten(-1, (-1, SCALES))
    return groups
