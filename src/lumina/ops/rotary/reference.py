"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864).

The halves of a head rotate against each other, as in Llama: channel i goes with
channel i + head_dim / 2. Frequencies and tables are float32 throughout. They are
computed anew in every forward pass rather than kept in a buffer: it is a handful of
tiny operations, and there is no state that meta-device building could lose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETA_FAST, BETA_SLOW = 32.0, 1.0
"""Rotations over the trained length between which YaRN blends (its defaults)."""


def frequencies(
    head_dim: int,
    theta: float,
    *,
    scaling: str = "none",
    factor: float = 1.0,
    original_length: int | None = None,
    low_freq_factor: float | None = None,
    high_freq_factor: float | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, float]:
    """Angle per position of every channel pair, and a factor for the tables.

    Args:
        head_dim: width of a head, even.
        theta: base of the geometric series.
        scaling: "none"; "linear" (positions divided by `factor`, Chen et al.,
            arXiv:2306.15595); "ntk" (the base raised once and for all, so that the
            slowest channel turns `factor` times slower); "yarn" (Peng et al.,
            arXiv:2309.00071, as transformers computes it); "llama3" (Llama 3.1,
            arXiv:2407.21783: slow channels divided by `factor`, fast ones kept).
        factor: context extension.
        original_length: the length trained with, before extension; yarn and llama3
            need it.
        low_freq_factor: llama3: channels that turn less often than this over the
            original length are slow; as often as `high_freq_factor`, fast.

    Returns:
        [head_dim / 2] float32, and the factor on cos and sin (1 but for yarn).
    """
    if scaling == "ntk":
        theta = theta * factor ** (head_dim / (head_dim - 2))
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float()
    inverse = 1.0 / (theta ** (exponents / head_dim))
    if scaling in ("none", "ntk"):
        return inverse, 1.0
    if scaling == "linear":
        return inverse / factor, 1.0
    if scaling == "yarn":
        if original_length is None:
            raise ValueError("yarn needs the length trained with")
        keep = _yarn_keep(head_dim, theta, original_length, device)
        inverse = inverse / factor * (1 - keep) + inverse * keep
        return inverse, 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    if scaling == "llama3":
        if original_length is None or not low_freq_factor or not high_freq_factor:
            raise ValueError("llama3 needs the length trained with and both factors")
        turns = inverse * (original_length / (2 * math.pi))
        keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        keep = keep.clamp(0, 1)
        return inverse / factor * (1 - keep) + inverse * keep, 1.0
    raise ValueError(f"unknown rope scaling {scaling!r}")


def _yarn_keep(
    head_dim: int, theta: float, length: int, device: torch.device | str | None
) -> Tensor:
    """Share of the unscaled frequency each channel pair keeps, [head_dim / 2]."""

    def channel_turning(rotations: float) -> float:
        turns = math.log(length / (rotations * 2 * math.pi))
        return head_dim * turns / (2 * math.log(theta))

    low = max(math.floor(channel_turning(BETA_FAST)), 0)
    high = float(min(math.ceil(channel_turning(BETA_SLOW)), head_dim - 1))
    if low == high:
        high += 0.001
    channels = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
    return 1 - ((channels - low) / (high - low)).clamp(0, 1)


def tables(
    position_ids: Tensor, inverse: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles.

    Args:
        position_ids: [B, S] int64.
        inverse: [head_dim / 2] float32.
        factor: multiplies both.

    Returns:
        Two float32 tensors [B, S, 1, head_dim / 2]; the 1 stands for the heads.
    """
    angles = position_ids[:, :, None, None].float() * inverse
    return angles.cos() * factor, angles.sin() * factor


def rotate(x_bshd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs of queries or keys.

    Args:
        x_bshd: [B, S, heads, head_dim].
        cos: [B, S, 1, head_dim / 2] float32, as `sin`.

    Returns:
        The shape and type of `x_bshd`; the arithmetic is float32.
    """
    first, second = x_bshd.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_bshd.dtype)
