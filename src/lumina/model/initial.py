"""First values of weights and buffers: each a function of (seed, name) alone.

The declaration of a tensor names a rule (`lumina.model.tensors.Rule`); here is what the
rules compute.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from lumina.model.tensors import Declared, Shape

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of a standard normal that is cut at +-2."""


def initial_value(declared: Declared, seed: int) -> Tensor:
    """The value a parameter or buffer starts with.

    Drawn on the CPU by a generator of its own, so that neither the device, nor
    sharding, nor the order in which tensors are drawn matters.

    Args:
        declared: the tensor.
        seed: of the run.

    Returns:
        float32 on the CPU, of the shape of the whole tensor.
    """
    first = declared.first
    generator = generator_of(0 if first.fixed else seed, declared.name)
    return RULES[first.name](declared.shape, generator, *first.arguments)


def generator_of(seed: int, name: str) -> torch.Generator:
    """The random numbers of one tensor: they depend on the seed and its name alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _constant(shape: Shape, generator: torch.Generator, value: float) -> Tensor:
    return torch.full(shape, float(value))


def _last(shape: Shape, generator: torch.Generator, count: int, value: float) -> Tensor:
    values = torch.zeros(shape)
    if count:
        values[-count:] = value
    return values


def _normal(shape: Shape, generator: torch.Generator, std: float) -> Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _uniform(shape: Shape, generator: torch.Generator, bound: float) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _orthogonal(shape: Shape, generator: torch.Generator, std: float) -> Tensor:
    """Rows of length std * sqrt(D) at right angles, D of them at a time.

    Random rows differ in length and lean to each other: of a router's, the longer draw
    more tokens before anything is learned.
    """
    rows, width = shape
    blocks = []
    for begin in range(0, rows, width):
        square = torch.empty(width, width, dtype=torch.float64)
        square.normal_(0.0, 1.0, generator=generator)
        blocks.append(torch.linalg.qr(square).Q.T[: rows - begin])
    return (torch.cat(blocks) * std * math.sqrt(width)).float()


def _truncated(shape: Shape, generator: torch.Generator, std: float) -> Tensor:
    """Normal, cut at two of its own standard deviations; `std` is what is left of it.

    Cut at +-2, a standard normal keeps a standard deviation of 0.8796.
    """
    edge = math.erf(2 / math.sqrt(2))
    uniform = torch.empty(shape, dtype=torch.float64)
    uniform.uniform_(-edge, edge, generator=generator)
    return (uniform.erfinv() * (math.sqrt(2) * std / TRUNCATED_STD)).float()


def _made(
    shape: Shape,
    generator: torch.Generator,
    make: Callable[[Shape, torch.Generator], Tensor],
) -> Tensor:
    return make(shape, generator)


RULES: dict[str, Callable[..., Tensor]] = {
    "constant": _constant,
    "last": _last,
    "normal": _normal,
    "uniform": _uniform,
    "orthogonal": _orthogonal,
    "truncated": _truncated,
    "made": _made,
}
"""Name of a rule -> value of a shape, from a generator and the rule's arguments."""
