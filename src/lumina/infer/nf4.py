"""Matrices in 4 bits: NF4 of QLoRA (Dettmers et al., 2023, arXiv:2305.14314).

A row is cut into blocks of 64 numbers. A block has one float32 scale, its largest
value, and each number becomes the nearest of 16 values between -1 and 1, which are
spread as those of a normal distribution are. Codes and scales are those of bitsandbytes
without double quantisation, where rows are multiples of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward
from lumina.model.spec import ModelSpec
from lumina.state.weights import InMemory

BLOCK = 64
"""Numbers of a row that share a scale."""

CODES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The value of each code, as bitsandbytes has them."""


@dataclass(frozen=True)
class Nf4:
    """A matrix, or one for each expert.

    Attributes:
        values: [..., out, bytes] uint8, two codes each, the first in the high bits; a
            row is filled up to whole blocks.
        scale: [..., out, blocks] float32.
        columns: of the matrix.
    """

    values: Tensor
    scale: Tensor
    columns: int

    def dequantised(self) -> Tensor:
        """[..., out, columns] float32."""
        return widened(self.values, self.scale, self.columns, torch.float32)


def quantised4(weight: Tensor) -> Nf4:
    """The nearest matrix in NF4.

    Args:
        weight: [..., out, columns].
    """
    columns = weight.shape[-1]
    filled = F.pad(weight.float(), (0, -columns % BLOCK))
    blocks = filled.unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(dim=-1)
    unit = blocks / torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    codes = weight.new_tensor(CODES, dtype=torch.float32)
    found = torch.bucketize(unit, (codes[1:] + codes[:-1]) / 2).to(torch.uint8)
    pairs = found.flatten(-2).unflatten(-1, (-1, 2))
    return Nf4(pairs[..., 0] * 16 + pairs[..., 1], scale, columns)


def widened(values: Tensor, scale: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """[..., out, columns] in `dtype`; arguments as of `Nf4`."""
    codes = torch.tensor(CODES, dtype=dtype, device=values.device)
    pairs = torch.stack([values >> 4, values & 15], dim=-1)
    blocks: Tensor = codes[pairs.flatten(-2).int()].unflatten(-1, (-1, BLOCK))
    return (blocks * scale.to(dtype).unsqueeze(-1)).flatten(-2)[..., :columns]


def _room(shape: torch.Size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the values and the scales of a matrix, or of one for each expert."""
    blocks = -(-shape[-1] // BLOCK)
    return (*shape[:-1], blocks * BLOCK // 2), (*shape[:-1], blocks)


class Nf4Linear(nn.Module):
    """`lumina.model.layers.Linear` in NF4; it is widened as it runs."""

    weight: Tensor
    scale: Tensor

    def __init__(self, full: Linear) -> None:
        super().__init__()
        self.columns = full.weight.shape[1]
        values, scale = _room(full.weight.shape)
        self.register_buffer("weight", torch.empty(values, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(scale))
        self.bias = full.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        weight = widened(self.weight, self.scale, self.columns, x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


class Nf4Experts(MoeFeedForward):
    """A routed layer whose experts are in NF4."""

    gate_up_scale: Tensor
    down_scale: Tensor

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__(spec, layer_index)
        self.columns: dict[str, int] = {}
        for name in ("gate_up", "down"):
            shape = getattr(self, name).shape
            self.columns[name] = shape[-1]
            values, scale = _room(shape)
            delattr(self, name)
            self.register_buffer(name, torch.empty(values, dtype=torch.uint8))
            self.register_buffer(f"{name}_scale", torch.empty(scale))

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Of all experts, in `dtype`."""
        gate_up = widened(
            self.gate_up, self.gate_up_scale, self.columns["gate_up"], dtype
        )
        return gate_up, widened(self.down, self.down_scale, self.columns["down"], dtype)


@dataclass(frozen=True)
class Nf4Weights(InMemory):
    """Tensors in memory of which some are held in NF4."""

    nf4: dict[str, Nf4]

    def names(self) -> list[str]:
        """Logical names."""
        return [*self.tensors, *self.nf4]

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole, widened to float32."""
        return (
            self.nf4[name].dequantised() if name in self.nf4 else super().tensor(name)
        )

    def close(self) -> None:
        """Let go of the memory."""
        self.nf4.clear()
        super().close()
