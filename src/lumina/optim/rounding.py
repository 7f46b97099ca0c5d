"""Stochastic rounding to 16 bits that depends on what is rounded, not on where."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
"""The lowest 32 bits, in which the numbers are mixed."""

_STEP, _HIGH = 0x1E3779B1, 0x05EBCA6B


def _mixed(x: Tensor) -> Tensor:
    """32 bits of int64 numbers, mixed so that each depends on all (lowbias32).

    https://nullprogram.com/blog/2018/07/31/. The second factor is written as a negative
    number below 2**31, so that no product leaves int64.
    """
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & LOW
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - 2**32)) & LOW
    return x ^ (x >> 16)


def name_key(name: str) -> int:
    """32 bits that tell a tensor from others."""
    return zlib.crc32(name.encode())


def random_bits(name: str, step: Tensor, first: int, count: int) -> Tensor:
    """[count] int64: 32 random bits for elements of a tensor, in one step.

    The same on every device and any number of ranks, and after a resume.

    Args:
        name: of the tensor.
        step: [] number of the step, on the device.
        first: the first element's place in the whole tensor.
        count: how many elements.
    """
    place = torch.arange(first, first + count, device=step.device)
    key = _mixed((step.long() * _STEP + name_key(name)) & LOW)
    return _mixed(_mixed((place ^ key) & LOW) ^ ((place >> 32) * _HIGH + key & LOW))


def rounded(values: Tensor, bits: Tensor) -> Tensor:
    """Float32 values as bfloat16: up or down, so that the mean is the value.

    Args:
        values: finite float32.
        bits: int64 of the same shape, of which the lowest 16 bits are random.
    """
    raw = values.view(torch.int32)
    raised = raw + (bits & 0xFFFF).int()
    return (raised & -0x10000).view(torch.float32).bfloat16()


SMALLEST_NORMAL = 2.0**-14
"""Of float16: below it, all values are as far apart as its smallest."""


def rounded_to_float16(values: Tensor, bits: Tensor) -> Tensor:
    """Float32 values as float16: up or down, so that the mean is the value.

    Args:
        values: finite float32; beyond the range of float16 they become its largest.
        bits: integers of the same shape, of which the lowest 13 bits are random.
    """
    random = bits & 0x1FFF
    raised = values.contiguous().view(torch.int32) + random.int()
    normal = (raised & -0x2000).view(torch.float32)
    steps = torch.floor(values * 2.0**24 + random / 2.0**13) * 2.0**-24
    found = torch.where(values.abs() >= SMALLEST_NORMAL, normal, steps)
    most = torch.finfo(torch.float16).max
    return found.clamp(-most, most).half()


def rounded_to(values: Tensor, bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 values in a type of 16 bits, up or down at random.

    Args:
        values: finite float32.
        bits: integers of the same shape, of which the lowest 16 bits are random.
        dtype: torch.bfloat16 or torch.float16.
    """
    if dtype == torch.float16:
        return rounded_to_float16(values, bits)
    return rounded(values.contiguous(), bits)
