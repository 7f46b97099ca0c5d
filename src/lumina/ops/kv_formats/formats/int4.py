"""Keys and values as 4-bit integers, with a range for each 32 values.

The values of a token's vector that share a range are neighbours, as in the groups of
FlexGen (Sheng et al., 2023, arXiv:2303.06865). KIVI (Liu et al., 2024,
arXiv:2402.02750) groups keys over tokens instead, which is more exact where single
channels are much larger than the others, and has to keep the newest tokens apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.kv_formats.table import Format, Piece, register_format

GROUP = 32
"""Values that share a range."""

LARGEST = 15
KIND = torch.bfloat16
"""Of a range's begin and step: it holds every value that a bfloat16 or float32 has."""


class Int4(Format):
    """Sixteen evenly spaced values from the smallest to the largest of a group."""

    name = "int4"
    summary = "4-bit integers, a range for each 32 values"

    def pieces(self, width: int, dtype: torch.dtype) -> tuple[Piece, ...]:
        """Two values a byte, and the begin and the step of each group."""
        groups, size = _groups(width)
        return (groups * size // 2, torch.uint8), (groups, KIND), (groups, KIND)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Steps from the group's begin, rounded to the nearest."""
        groups, size = _groups(x.shape[-1])
        missing = groups * size - x.shape[-1]
        # The last value again widens no range.
        filled = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], -1)
        values = filled.float().unflatten(-1, (groups, size))
        begin = values.amin(-1).to(KIND)
        reach = (values.amax(-1) - begin.float()).clamp(min=0)
        step = (reach / LARGEST).to(KIND)
        width = torch.where(step > 0, step, 1.0).float()
        steps = (values - begin.float().unsqueeze(-1)) / width.unsqueeze(-1)
        codes = steps.round().clamp(0, LARGEST).to(torch.uint8)
        pairs = codes.flatten(-2).unflatten(-1, (-1, 2))
        return pairs[..., 0] * 16 + pairs[..., 1], begin, step

    def decode(
        self, pieces: tuple[Tensor, ...], width: int, dtype: torch.dtype
    ) -> Tensor:
        """The group's begin and this many steps."""
        packed, begin, step = pieces
        codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(-2)
        values: Tensor = codes.unflatten(-1, (begin.shape[-1], -1)).float()
        values = values * step.float().unsqueeze(-1) + begin.float().unsqueeze(-1)
        return values.flatten(-2)[..., :width].to(dtype)


def _groups(width: int) -> tuple[int, int]:
    """(groups of a vector, values of a group, which is even)."""
    size = min(GROUP, width + width % 2)
    return -(-width // size), size


register_format(Int4())
