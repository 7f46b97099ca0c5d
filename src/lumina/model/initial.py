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

HALTING_BIAS = -5.0
"""Logits of the halting head at first: almost surely wrong, whatever is done."""

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of a standard normal that is cut at +-2."""


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
    if spec.hrm is not None:
        return _recurrent_value(name, shape, spec, seed)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith(".load"):
        return torch.full(shape, 1.0 / shape[0])
    if name.endswith(".predictor.bias") and spec.mod is not None:
        # Start at logit(capacity): as many tokens are chosen as later.
        share = min(max(spec.mod.capacity, 0.01), 0.99)
        return torch.full(shape, math.log(share / (1 - share)))
    if name.endswith((".selection_bias", ".bias")):
        return torch.zeros(shape)
    if spec.moe is not None and name.endswith(".routing_bias"):
        from lumina.model.moe import named_bias

        return named_bias(spec.moe)
    if spec.moe is not None and not shape:
        from lumina.model.moe import live_value

        return torch.tensor(live_value(name.rpartition(".")[2], spec.moe))
    generator = generator_of(seed, name)
    if spec.use_stable_embedding and name == "backbone.embedding.weight":
        bound = math.sqrt(6 / sum(shape))  # Glorot and Bengio, 2010
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)
    if spec.moe is not None and name.endswith(".feedforward.router.weight"):
        std = spec.moe.router_init_std or spec.init_std
        if spec.moe.router_init == "orthogonal":
            return _orthogonal_rows(shape, std, generator)
        return torch.empty(shape).normal_(0.0, std, generator=generator)
    std = spec.init_std
    if name.endswith(_INTO_RESIDUAL):
        std /= math.sqrt(2 * spec.num_layers)
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def generator_of(seed: int, name: str) -> torch.Generator:
    """The random numbers of one tensor: of nothing but the seed and its name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _orthogonal_rows(
    shape: tuple[int, ...], std: float, generator: torch.Generator
) -> Tensor:
    """Rows of length std * sqrt(D) at right angles, D of them at a time.

    Random rows differ in length and lean to each other: the longer draw more tokens
    before anything is learned.
    """
    rows, width = shape
    blocks = []
    for begin in range(0, rows, width):
        square = torch.empty(width, width, dtype=torch.float64)
        square.normal_(0.0, 1.0, generator=generator)
        blocks.append(torch.linalg.qr(square).Q.T[: rows - begin])
    return (torch.cat(blocks) * std * math.sqrt(width)).float()


def _recurrent_value(
    name: str, shape: tuple[int, ...], spec: ModelSpec, seed: int
) -> Tensor:
    """Truncated LeCun: variance 1 / inputs; the halting head starts by going on."""
    if name.endswith("puzzle_embedding.weight") or name.endswith("halting.weight"):
        return torch.zeros(shape)
    if name.endswith("halting.bias"):
        return torch.full(shape, HALTING_BIAS)
    if name.endswith(("h_init", "l_init")):  # constants: no run has others
        return _truncated(shape, 1.0, generator_of(0, name))
    inputs = spec.hidden_size if name.endswith("embedding.weight") else shape[-1]
    return _truncated(shape, inputs**-0.5, generator_of(seed, name))


def _truncated(
    shape: tuple[int, ...], std: float, generator: torch.Generator
) -> Tensor:
    """Normal, cut at two of its own standard deviations; `std` is what is left of it.

    Cut at +-2, a standard normal keeps a standard deviation of 0.8796.
    """
    edge = math.erf(2 / math.sqrt(2))
    uniform = torch.empty(shape, dtype=torch.float64)
    uniform.uniform_(-edge, edge, generator=generator)
    return (uniform.erfinv() * (math.sqrt(2) * std / TRUNCATED_STD)).float()
