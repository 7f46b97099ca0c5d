"""Integers of 2 to 4 bits in groups of a row, each with a scale and a zero point."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Codec, Parts, Shape

GROUP = 128
"""Numbers of a row that share a scale and a zero point."""


class GroupedIntegers(Codec):
    """w = scale * (q - zero), with q and zero from 0 to 2^bits - 1.

    `values` [..., out, bytes] are the codes of a row in the order of its numbers, the
    first in the lowest bits, filled up to whole groups; `scale` [..., out, groups] is
    float32, `zero` [..., out, groups] uint8. The range of a group includes 0, which is
    therefore held exactly.
    """

    def parts(self, shape: Shape) -> Parts:
        """The codes, the scales and the zero points."""
        groups = -(-shape[-1] // GROUP)
        return {
            "values": ((*shape[:-1], groups * GROUP * self.bits // 8), torch.uint8),
            "scale": ((*shape[:-1], groups), torch.float32),
            "zero": ((*shape[:-1], groups), torch.uint8),
        }

    def encode_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The nearest steps between each group's least and largest value."""
        groups = groups_of(rows)
        scale, zero = self.steps(groups)
        codes = self.nearest(groups, scale.unsqueeze(-1), zero.unsqueeze(-1))
        return {
            "values": joined(codes.flatten(-2), self.bits),
            "scale": scale,
            "zero": zero.to(torch.uint8),
        }

    def steps(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point [...], both float32, of groups [..., 128]."""
        least = groups.amin(dim=-1).clamp(max=0.0)
        span = groups.amax(dim=-1).clamp(min=0.0) - least
        scale = torch.where(span > 0, span / (2**self.bits - 1), 1.0)
        return scale, (-least / scale).round()

    def nearest(self, numbers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The codes of numbers, uint8."""
        codes = (numbers / scale).round() + zero
        found: Tensor = codes.clamp(0, 2**self.bits - 1).to(torch.uint8)
        return found

    def decode(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> Tensor:
        """Codes less zero points, times scales."""
        codes = separated(tensors["values"], self.bits).unflatten(-1, (-1, GROUP))
        steps = codes.to(torch.int16) - tensors["zero"].to(torch.int16).unsqueeze(-1)
        wide = steps.to(dtype) * tensors["scale"].to(dtype).unsqueeze(-1)
        matrix: Tensor = wide.flatten(-2)[..., : shape[-1]]
        return matrix


def groups_of(matrix: Tensor) -> Tensor:
    """[..., out, groups, 128] of a matrix, filled up with zeros."""
    filled = F.pad(matrix, (0, -matrix.shape[-1] % GROUP))
    groups: Tensor = filled.unflatten(-1, (-1, GROUP))
    return groups


def joined(codes: Tensor, bits: int) -> Tensor:
    """Codes [..., n] uint8, n * bits a multiple of 64, as bytes [..., n * bits / 8].

    Eight codes become `bits` bytes, the first code in the lowest bits.
    """
    eight = codes.unflatten(-1, (-1, 8)).to(torch.int64)
    shifts = torch.arange(8, device=codes.device) * bits
    words: Tensor = (eight << shifts).sum(dim=-1, keepdim=True)
    places = torch.arange(bits, device=codes.device) * 8
    return ((words >> places) & 255).to(torch.uint8).flatten(-2)


def separated(values: Tensor, bits: int) -> Tensor:
    """The inverse of `joined`."""
    if bits == 4:  # without words of 64 bits, for it is the one used in training
        return torch.stack([values & 15, values >> 4], dim=-1).flatten(-2)
    parts = values.unflatten(-1, (-1, bits)).to(torch.int64)
    places = torch.arange(bits, device=values.device) * 8
    words = (parts << places).sum(dim=-1, keepdim=True)
    shifts = torch.arange(8, device=values.device) * bits
    codes: Tensor = ((words >> shifts) & (2**bits - 1)).to(torch.uint8)
    return codes.flatten(-2)
