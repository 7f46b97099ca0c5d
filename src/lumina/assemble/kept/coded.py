"""Activations that wait for the backward pass in 8 or 4 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Codec, found_codec
from lumina.plan.costs.kept_bits import AT_A_TIME, CODECS, GROUP


@dataclass(frozen=True)
class Coded:
    """A tensor in few bits.

    Attributes:
        tensors: what the codec made of it, groups of `GROUP` numbers as rows.
        shape: of the tensor.
        dtype: of the tensor.
        bits: of a number.
    """

    tensors: Mapping[str, Tensor]
    shape: torch.Size
    dtype: torch.dtype
    bits: int


def coded(tensor: Tensor, bits: int) -> Coded:
    """The tensor in 8 or 4 bits: groups of numbers, each with a scale of its own.

    Numbers that are not finite stay so in 4 bits. No number leaves the device.
    """
    codec = _codec(bits)
    flat = tensor.detach().reshape(-1)
    rows = math.ceil(flat.numel() / GROUP)
    flat = torch.nn.functional.pad(flat, (0, rows * GROUP - flat.numel()))
    made = [
        codec.encode_rows(part.float())  # asks nothing of the device
        for part in flat.view(rows, GROUP).split(AT_A_TIME // GROUP)
    ]
    tensors = {name: torch.cat([one[name] for one in made]) for name in made[0]}
    return Coded(tensors, tensor.shape, tensor.dtype, bits)


def decoded(value: Coded) -> Tensor:
    """The tensor, contiguous and in its type, as near as its bits can say it."""
    codec, size = _codec(value.bits), math.prod(value.shape)
    names = list(value.tensors)
    parts = zip(
        *(value.tensors[name].split(AT_A_TIME // GROUP) for name in names), strict=True
    )
    flat = [
        codec.decode(
            dict(zip(names, part, strict=True)), (len(part[0]), GROUP), value.dtype
        )
        for part in parts
    ]
    whole = flat[0] if len(flat) == 1 else torch.cat(flat)
    return whole.view(-1)[:size].view(value.shape)


def _codec(bits: int) -> Codec:
    return found_codec(CODECS[bits])
