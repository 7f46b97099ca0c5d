"""Numbers of a few bits, with one scale for each block of a row.

A block lies within the last axis, so rows can be divided, moved and taken out with
their codes and scales, and nothing is rounded anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from lumina.optim.declared import Shape

BLOCK = 256
"""Elements of a row that share a scale."""


@cache
def linear_map(bits: int) -> tuple[float, ...]:
    """Evenly spread values up to 1, without 0, as Li et al., 2023, arXiv:2309.01507."""
    return tuple((k + 1) / 2**bits for k in range(2**bits))


@dataclass(frozen=True)
class Code:
    """How float32 rows become codes and scales, and back.

    Attributes:
        values: what the codes 0, 1, 2, ... stand for, times the scale.
        bits: of a code: 8, or 4 with two codes in a byte.
        never_zero: whether what is not 0 gets a code that is not 0, so that it can
            stand below a fraction bar.
    """

    values: tuple[float, ...]
    bits: int
    never_zero: bool = False

    def codes_shape(self, shape: Shape, pieces: int = 1) -> Shape:
        """The shape of the codes of a tensor."""
        return (*shape[:-1], -(-shape[-1] * self.bits // 8))

    @staticmethod
    def scales_shape(shape: Shape, pieces: int = 1) -> Shape:
        """The shape of the scales of a tensor."""
        return (*shape[:-1], -(-shape[-1] // BLOCK))

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What codes stand for, and where the nearest code changes, on a device.

        The first call brings them there; later steps do not wait for it.
        """
        return _table(self.values, device), _edges(self.values, device)

    def decoded(self, codes: Tensor, scales: Tensor, columns: int) -> Tensor:
        """[R, columns] float32 of codes and scales [R, ...]."""
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(1)
        numbers = _table(self.values, codes.device)[codes[:, :columns].int()]
        return _blocks(numbers).mul_(scales[..., None]).flatten(1)[:, :columns]

    def encoded(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of [R, columns]; each code is the nearest value's."""
        blocks = _blocks(numbers)
        scales = blocks.abs().amax(-1)
        scaled = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
        found = torch.bucketize(
            scaled.flatten(1)[:, : numbers.shape[1]].contiguous(),
            _edges(self.values, numbers.device),
            out_int32=True,
        )
        if self.never_zero:
            found = torch.where((found == 0) & (numbers > 0), 1, found)
        codes = found.to(torch.uint8)
        if self.bits == 4:
            even = pad(codes, (0, codes.shape[1] % 2))
            codes = even[:, 0::2] | (even[:, 1::2] << 4)
        return codes, scales


def _blocks(rows: Tensor) -> Tensor:
    """[R, B, BLOCK] of [R, columns], with zeros behind the last column."""
    whole = math.ceil(rows.shape[1] / BLOCK) * BLOCK
    padded = pad(rows, (0, whole - rows.shape[1]))
    return padded.view(rows.shape[0], -1, BLOCK)


@cache
def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


@cache
def _edges(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Where the nearest value changes."""
    table = torch.tensor(values, dtype=torch.float64)
    return ((table[1:] + table[:-1]) / 2).float().to(device)
