"""Initial values of weights and buffers: each a function of (seed, name) alone.

Normal with `init_std`; the matrices that write into the residual stream are divided by
sqrt(2 * layers), so that the stream's variance does not grow with depth (Radford et
al., 2019); norms start at one, biases at zero; a routed layer's load is even.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from lumina.model.spec import ModelSpec

_INTO_RESIDUAL = (
    ".attention.out.weight",
    ".feedforward.down.weight",
    ".feedforward.down",
    ".feedforward.shared.down.weight",
)


def initial_value(
    name: str, shape: tuple[int, ...], spec: ModelSpec, seed: int
) -> Tensor:
    """The value a parameter or persistent buffer starts with.

    Drawn on the CPU by a generator of its own, so that neither device, sharding nor
    the order of asking matters.

    Args:
        name: as in `Network.named_parameters()`.
        shape: of the whole tensor.
        spec: for the spread and the depth.
        seed: of the run.

    Returns:
        `shape` float32 on the CPU.
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith(".load"):
        return torch.full(shape, 1.0 / shape[0])
    if name.endswith((".selection_bias", ".bias")):
        return torch.zeros(shape)
    if spec.moe is not None and not shape:
        from lumina.model.moe import live_value

        return torch.tensor(live_value(name.rpartition(".")[2], spec.moe))
    std = spec.init_std
    if name.endswith(_INTO_RESIDUAL):
        std /= math.sqrt(2 * spec.num_layers)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.empty(shape).normal_(0.0, std, generator=generator)
