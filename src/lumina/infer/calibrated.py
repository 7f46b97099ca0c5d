"""GPTQ of a whole model: block after block, on the inputs that earlier blocks leave.

Each block is run on all calibration rows as it is, its matrices are coded for the
inputs that they saw, and it is run again with the coded ones, which gives the inputs of
the next block (Frantar et al., 2022, arXiv:2210.17323). Memory holds one block's
Hessians, and the hidden states of all rows.

In true sequential order, which the authors added in their code, a block is run once for
each of its matrices: each is coded for the inputs that the coded ones before it in the
same block leave. Memory then holds one matrix's Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.model.context import BlockContext
from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.model.stored import storable
from lumina.ops.gptq.blocked import gptq
from lumina.ops.gptq.coded import Coded, Grid, nearest, output_error
from lumina.ops.moe import grouped

OnBlock = Callable[[int, int], None]
"""Called before each block with the blocks done, and the blocks in all."""


@dataclass
class Calibrated:
    """The matrices of a model in few bits.

    Attributes:
        matrices: logical name -> its codes, on the CPU.
        errors: parameter -> how far its outputs are on the calibration rows, relative.
        nearest_errors: the same of numbers rounded each by itself, in the same bits.
        tokens: that were read.
        untouched: matrices of experts that no token came to, which are rounded.
    """

    matrices: dict[str, Coded] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    nearest_errors: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    untouched: int = 0


class _CaughtError(Exception):
    """The backbone has come to its blocks."""


@torch.no_grad()
def calibrated(
    network: Network,
    batches: Sequence[Batch],
    grid: Grid,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    true_sequential: bool = False,
    on_block: OnBlock | None = None,
) -> Calibrated:
    """Code every matrix of the blocks; the network keeps what the codes stand for.

    Args:
        network: on its device, in evaluation mode; its blocks are passed once each.
        batches: calibration rows; padding does not count.
        grid: to round to.
        damping: as of `lumina.ops.gptq.blocked.gptq`.
        act_order: as there.
        true_sequential: code a block's matrices one after the other, each on the inputs
            that those before it leave once they are coded; as many runs of a block as
            it has matrices more.
        on_block: called before each block.

    Raises:
        LuminaError: E002 for blocks that are not passed once each, E003 for a matrix
            that is not multiplied as others are, E105 for rows without a token.
    """
    backbone = network.backbone
    if getattr(backbone, "recursion", None) is not None or network.recurrent:
        raise LuminaError(
            "E002",
            "GPTQ codes a model block by block, and the blocks of this one are passed "
            "more than once",
            "store it with 8 bits: --quantize without --quantization-method",
        )
    places = [_entering(network, batch) for batch in batches]
    valid = [context.valid for _, context in places]
    found = Calibrated(tokens=int(sum(int(one.sum()) for one in valid)))
    if not found.tokens:
        raise LuminaError(
            "E105", "the calibration data has no token", "name files that have some"
        )
    pieces = storable(network.spec, network)
    blocks = list(backbone.blocks)
    for number, block in enumerate(blocks):
        if on_block is not None:
            on_block(number, len(blocks))
        prefix = f"backbone.blocks.{number}."
        left = [name for name in pieces if name.startswith(prefix)]
        while left:
            hessians = _hessians(block, prefix, places, left, true_sequential)
            coded_now = [name for name in left if name in hessians] or left
            for name in coded_now:
                _code(
                    network, name, pieces[name], hessians, found, grid, damping,
                    act_order,
                )  # fmt: skip
            left = [name for name in left if name not in coded_now]
        places = [(block(x_bsd, context)[0], context) for x_bsd, context in places]
    return found


def _hessians(
    block: nn.Module,
    prefix: str,
    places: Sequence[tuple[Tensor, BlockContext]],
    wanted: Sequence[str],
    one: bool,
) -> dict[str, Tensor]:
    """The sums of x x^T of a block's matrices over all rows.

    Args:
        block: is run on every row.
        prefix: of the names of its parameters.
        places: what the block takes, by row.
        wanted: names of parameters.
        one: only of the first of them that the block comes to.

    Returns:
        Parameter -> [..., in, in] float32.
    """
    hessians: dict[str, Tensor] = {}
    with _watched(block, prefix, hessians, wanted, one) as current:
        for x_bsd, context in places:
            current.append(context.valid)
            block(x_bsd, context)
    return hessians


def _entering(network: Network, batch: Batch) -> tuple[Tensor, BlockContext]:
    """What the first block takes."""
    backbone, caught = network.backbone, []
    before = backbone.around

    def catch(_: Any) -> Any:
        def through(blocks: Any, x_bsd: Tensor, context: BlockContext) -> Any:
            caught.append((x_bsd, context))
            raise _CaughtError

        return through

    backbone.around = (*before, catch)
    try:
        device = next(network.parameters()).device
        backbone(batch.to(device), None)
    except _CaughtError:
        pass
    finally:
        backbone.around = before
    return caught[0]


@contextmanager
def _watched(
    block: nn.Module,
    prefix: str,
    hessians: dict[str, Tensor],
    wanted: Sequence[str],
    one: bool,
) -> Iterator[list[Tensor]]:
    """Add up x x^T of all inputs of a block's matrices.

    Args:
        block: is run inside of the context.
        prefix: of the names of its parameters.
        hessians: parameter -> [..., in, in] float32.
        wanted: parameters to look at; others are passed over.
        one: look at the first that is come to, and at no other.

    Yields:
        A list whose last entry says which positions [B, S] of the rows are tokens.
    """
    current: list[Tensor] = []
    hooks, experts = [], []

    def looks_at(name: str) -> bool:
        if one and hessians:
            return name in hessians
        return name in wanted

    def add(name: str, sums: Tensor) -> None:
        if name in hessians:
            hessians[name] += sums
        else:
            hessians[name] = sums

    def enters(name: str, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not looks_at(name):
            return
        x = arguments[0].float() * current[-1].unsqueeze(-1)
        rows = x.reshape(-1, x.shape[-1])
        add(name, rows.T @ rows)

    def routed(
        name: str, x: Tensor, gate_up: Any, down: Any, ids: Tensor, scores: Tensor,
        through: grouped.Through = grouped.alone,
    ) -> Tensor:  # fmt: skip
        order, _, offsets = grouped.sort_by_expert(ids, gate_up.shape[0])
        tokens = current[-1].reshape(-1)[order // ids.shape[1]]

        def noted(leaf: str, rows: Tensor, weight: Any, multiply: Any) -> Tensor:
            if not looks_at(name + leaf):
                return through(leaf, rows, weight, multiply)
            begin, each = 0, []
            wide = rows.float() * tokens.unsqueeze(-1)
            for end in offsets.tolist():
                each.append(wide[begin:end].T @ wide[begin:end])
                begin = end
            add(name + leaf, torch.stack(each))
            return through(leaf, rows, weight, multiply)

        return grouped.routed_experts(x, gate_up, down, ids, scores, noted)

    for path, module in block.named_modules():
        where = f"{prefix}{path}."
        if isinstance(module, Linear):
            hook = partial(enters, f"{where}weight")
            hooks.append(module.register_forward_pre_hook(hook))
        elif isinstance(module, MoeFeedForward):
            experts.append((module, module.experts))
            module.experts = partial(routed, where)
    try:
        yield current
    finally:
        for handle in hooks:
            handle.remove()
        for moe, plain in experts:
            moe.experts = plain


def _code(
    network: Network,
    name: str,
    pieces: dict[str, tuple[int, ...]],
    hessians: dict[str, Tensor],
    found: Calibrated,
    grid: Grid,
    damping: float,
    act_order: bool,
) -> None:
    """Code one parameter, and put what the codes stand for in its place."""
    parameter = network.get_parameter(name)
    hessian = hessians.pop(name, None)
    if hessian is None:
        raise LuminaError(
            "E003",
            f"{name} is not multiplied by its inputs alone, so GPTQ has nothing to "
            "look at",
            "store it with 8 bits: --quantize without --quantization-method",
        )
    weight = parameter.float()
    coded = gptq(weight, hessian, grid, damping, act_order=act_order)
    found.untouched += int((hessian.flatten(-2).abs().amax(-1) == 0).sum())
    for errors, one in (
        (found.errors, coded),
        (found.nearest_errors, nearest(weight, grid)),
    ):
        errors[name] = float(output_error(weight, one.wide(), hessian).mean())
    parameter.copy_(coded.wide())
    begin = 0
    for logical, shape in pieces.items():
        rows = coded.rows(begin, begin + shape[-2])
        found.matrices[logical] = Coded(
            rows.codes.cpu(), rows.scale.cpu(), rows.zero.cpu(), rows.group_of.cpu()
        )
        begin += shape[-2]
