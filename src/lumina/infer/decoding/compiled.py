"""Blocks whose work between two looks at the cache is compiled.

A block is two compiled functions: what comes before its attention (norm, product,
norms of heads, rotation), and its feed-forward with norm and residual. Attention and
the cache between them run as they are, so no graph depends on how keys are kept. Sizes
are symbolic: there is a graph for one row and one for several, for one token and for
several, and alike blocks share them. Latent attention runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.infer.decoding.settings import StepSettings
from lumina.model.attention import Attention
from lumina.model.block import Block
from lumina.model.context import BlockContext
from lumina.model.depth import DepthBlock
from lumina.model.network import Network
from lumina.model.styled import ShiftedBlock
from lumina.ops.triton_there import has_triton
from lumina.plan.environment import cpp_compiler

GRAPHS = 64
"""Most graphs of a function: rows and tokens, one or several, before recompiling ends.
Experts, depths and passes have some of their own."""


def why_not(network: Network) -> str:
    """Why the blocks of a network are not compiled here; "" where they are."""
    blocks = getattr(network.backbone, "blocks", ())
    for block in blocks:
        if type(block) not in (Block, ShiftedBlock, DepthBlock):
            return f"its blocks are {type(block).__name__}"
    return ""


def require(network: Network) -> None:
    """Refuse a network, or a machine, for which nothing can be compiled.

    Raises:
        LuminaError: E002 for a network whose blocks are of another kind, E003 without
            what builds kernels for its device.
    """
    if why := why_not(network):
        raise LuminaError(
            "E002",
            f"--compile takes apart blocks of a transformer, and {why}",
            "leave --compile out",
        )
    place = next(network.parameters()).device.type
    if place == "cuda" and not has_triton():
        raise LuminaError(
            "E003", "--compile needs Triton on CUDA", "install triton, or leave it out"
        )
    if place == "cpu" and cpp_compiler() is None:
        raise LuminaError(
            "E003",
            "--compile needs a C++ compiler, and none was found",
            "install g++ or clang++, or set CXX; or leave out --compile",
        )
    if place not in ("cpu", "cuda"):
        raise LuminaError(
            "E003",
            f"--compile builds no kernels for {place}",
            "leave --compile out, or use --device cpu",
        )


@contextmanager
def blocks_of(network: Network, settings: StepSettings) -> Iterator[None]:
    """Compiled blocks, where the settings want them; as they were afterwards."""
    if not settings.compile:
        yield
        return
    changed: list[tuple[Any, str]] = []
    try:
        for block in network.backbone.blocks:
            for name, function in _functions(block).items():
                object.__setattr__(block, name, function)
                changed.append((block, name))
        yield
    finally:
        for block, name in changed:
            object.__delattr__(block, name)


def _functions(block: Any) -> dict[str, Callable[..., Any]]:
    """What stands in for methods of a block."""
    fed = "feed" if type(block) is DepthBlock else "add_feed"
    found: dict[str, Callable[..., Any]] = {fed: partial(_compiled(_FED[fed]), block)}
    if isinstance(block.attention, Attention):
        found["attend"] = partial(_attend, block)
    return found


def _attend(block: Any, x_bsd: Tensor, context: BlockContext) -> Tensor:
    """As `Block.attend`."""
    if context.keys is not None:  # queries alone, to the keys of another pass
        return Block.attend(block, x_bsd, context)
    projected = _compiled(_before)(block, x_bsd, context)
    return block._drop(block.attention.look(*projected, context))  # type: ignore[no-any-return]


def _before(
    block: Any, x_bsd: Tensor, context: BlockContext
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block."""
    return block.attention.project(block.attention_norm(x_bsd), context)  # type: ignore[no-any-return]


_FED = {"feed": Block.feed, "add_feed": Block.add_feed}


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as torch.compile makes it, for sizes that it does not know."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, GRAPHS)
    limits.accumulated_recompile_limit = max(
        limits.accumulated_recompile_limit, 8 * GRAPHS
    )
    return torch.compile(function, dynamic=True)
