"""Integers in groups: what both versions make of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Between which numbers can be chosen.

    Attributes:
        bits: of a code.
        group: inputs that share a scale and a zero point; the last group may be
            smaller.
        scale_dtype: of the scales as they are stored.
        symmetric: the range of a group reaches as far below 0 as above it, so that its
            zero point is the middle code whatever its numbers are.
    """

    bits: int
    group: int = 128
    scale_dtype: torch.dtype = torch.float16
    symmetric: bool = False

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def steps(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point [...] of groups [..., inputs], in the type of these.

        The range includes 0, which is held exactly. A zero point is 1 at least, since
        the first format of GPTQ's folders stores it less 1. A symmetric range has one
        code more below 0 than above it, so the number that is farthest above 0 is held
        half a step too near.
        """
        least = numbers.amin(dim=-1).clamp(max=0.0)
        span = numbers.amax(dim=-1).clamp(min=0.0) - least
        if self.symmetric:
            span = 2 * numbers.abs().amax(dim=-1)
        scale = span / self.top
        tiny = torch.finfo(self.scale_dtype).tiny
        scale = torch.where(span > 0, scale.clamp(min=tiny), 1.0)
        scale = scale.to(self.scale_dtype).to(numbers.dtype)
        if self.symmetric:
            return scale, torch.full_like(scale, (self.top + 1) // 2)
        return scale, (-least / scale).round().clamp(1, self.top)

    def codes(self, numbers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The nearest codes of numbers, in their type."""
        return ((numbers / scale).round() + zero).clamp(0, self.top)


@dataclass(frozen=True)
class Coded:
    """A matrix [..., out, in], w = scale * (code - zero).

    Attributes:
        codes: [..., out, in] uint8.
        scale: [..., out, groups].
        zero: [..., out, groups] uint8.
        group_of: [..., in] int64, the group of each input.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group_of: Tensor

    def wide(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix in `dtype`."""
        index = self.group_of.unsqueeze(-2).expand(self.codes.shape)
        scale = self.scale.to(dtype).gather(-1, index)
        zero = self.zero.to(dtype).gather(-1, index)
        return scale * (self.codes.to(dtype) - zero)

    def rows(self, begin: int, end: int) -> Coded:
        """Some of its outputs."""
        return Coded(
            self.codes[..., begin:end, :],
            self.scale[..., begin:end, :],
            self.zero[..., begin:end, :],
            self.group_of,
        )

    def expert(self, index: int) -> Coded:
        """The matrix of one expert."""
        return Coded(
            self.codes[index], self.scale[index], self.zero[index], self.group_of[index]
        )


def nearest(weight: Tensor, grid: Grid) -> Coded:
    """Every number rounded by itself, whatever the inputs are.

    Args:
        weight: [..., out, in].
        grid: to round to.
    """
    width = weight.shape[-1]
    parts = weight.split(grid.group, dim=-1)
    steps = [grid.steps(part) for part in parts]
    codes = [
        grid.codes(part, scale[..., None], zero[..., None])
        for part, (scale, zero) in zip(parts, steps, strict=True)
    ]
    scale, zero = (torch.stack(one, dim=-1) for one in zip(*steps, strict=True))
    group_of = torch.arange(width, device=weight.device) // grid.group
    return Coded(
        torch.cat(codes, dim=-1).to(torch.uint8),
        scale,
        zero.to(torch.uint8),
        group_of.expand(*weight.shape[:-2], width),
    )


def prepared(hessian: Tensor, damping: float) -> Tensor:
    """[..., in, in] that can be inverted: damped, and 1 where an input never acts."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    silent = (diagonal <= 0).to(hessian.dtype)
    whole = hessian + torch.diag_embed(silent)
    mean = whole.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    share = (damping * mean)[..., None].expand(diagonal.shape)
    return whole + torch.diag_embed(share)


def output_error(weight: Tensor, coded: Tensor, hessian: Tensor) -> Tensor:
    """How far outputs are on the inputs of the Hessian, relative; [...].

    Args:
        weight: [..., out, in].
        coded: the same in few bits, widened.
        hessian: [..., in, in], the sum of x x^T over inputs.

    Returns:
        Root mean square of the change of outputs over that of the outputs; 0 where
        there were none.
    """

    def power(matrix: Tensor) -> Tensor:
        return ((matrix @ hessian) * matrix).sum(dim=(-2, -1)).clamp(min=0)

    before = power(weight)
    return torch.where(before > 0, power(coded - weight) / before, 0.0).sqrt()
