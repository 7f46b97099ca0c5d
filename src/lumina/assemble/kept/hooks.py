"""Which activations are kept in another way, and the hooks that do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lumina.assemble.kept.beside import Beside
from lumina.assemble.kept.coded import Coded, coded, decoded
from lumina.cache_root import cache_root
from lumina.model.context import BlockContext
from lumina.model.network import Network
from lumina.model.transformer import Through
from lumina.plan.checkpointing import recomputes
from lumina.plan.plan import Plan

NARROW = 8
"""A tensor with fewer numbers for a token than this part of the width stays as it is:
statistics of norms and attention, scores of routers, on which much depends."""

_CHAIN = frozenset(
    f"{name}Backward0"
    for name in (
        "ToCopy", "T", "Transpose", "View", "UnsafeView", "ReshapeAlias", "Slice",
        "Select", "Unbind", "Split", "SplitWithSizes", "Permute", "Unsqueeze",
        "Squeeze", "Expand",
    )
) | {"_OnlyLastBackward"}  # fmt: skip
"""Steps from a weight to what a product keeps of it: its cast and views."""

Unpack = Callable[[], Tensor]


def keep(network: Network, plan: Plan) -> None:
    """What the features of kept activations do to a network (`Feature.build`)."""
    backbone = network.backbone
    if any(change.func is kept for change in backbone.around if _partial(change)):
        return  # the other feature has added it
    store = None
    if plan.activations_in != "device":
        folder = Path(plan.offload_folder or cache_root() / "offload")
        store = Beside(plan.activations_in, folder)
    everything = "none" in recomputes(plan, len(backbone.blocks))
    keeper = Keeper(plan.activation_bits, store, everything and store is None)
    backbone.around = (*backbone.around, partial(kept, keeper=keeper))


def _partial(change: Any) -> bool:
    return isinstance(change, partial)


class Keeper:
    """Packs the activations of one forward pass.

    Args:
        bits: 8 or 4; 0: as they are.
        store: where they wait, beside the device; None: on it.
        everything: what blocks keep inside too, not their inputs alone.
    """

    def __init__(self, bits: int, store: Beside | None, everything: bool) -> None:
        self.bits, self.store, self.everything = bits, store, everything

    def hooks(self, tokens: int, width: int, inputs: set[int]) -> saved_tensors_hooks:
        """The hooks for one forward pass.

        Args:
            tokens: of the pass.
            width: of a token's vector.
            inputs: addresses of the inputs of blocks, as far as they are known.
        """

        def pack(tensor: Tensor) -> Tensor | Unpack:
            if not self._meant(tensor, tokens, width, inputs):
                return tensor
            return self._packed(tensor.detach())

        def unpack(value: Tensor | Unpack) -> Tensor:
            return value if isinstance(value, Tensor) else value()

        return saved_tensors_hooks(pack, unpack)

    def _meant(self, tensor: Tensor, tokens: int, width: int, inputs: set[int]) -> bool:
        if not tensor.is_floating_point():
            return False
        if tensor.data_ptr() in inputs and tensor.numel() == tokens * width:
            return True
        if not self.everything or tensor.numel() * NARROW < tokens * width:
            return False
        return tensor.requires_grad and not _of_a_weight(tensor)

    def _packed(self, tensor: Tensor) -> Unpack:
        if not self.bits:
            assert self.store is not None
            return partial(self.store.get, self.store.put(tensor))
        value = coded(tensor, self.bits)
        if self.store is None:
            return partial(decoded, value)
        away = {name: self.store.put(one) for name, one in value.tensors.items()}
        return partial(_brought_back, self.store, value, away)


def _brought_back(store: Beside, value: Coded, away: dict[str, Any]) -> Tensor:
    # The last one that was put comes back first, and the one before it is on its way.
    tensors = {name: store.get(away[name]) for name in reversed(away)}
    return decoded(Coded(tensors, value.shape, value.dtype, value.bits))


def _of_a_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a weight, its cast or a view of either."""
    if tensor.grad_fn is None:
        return True
    node: Any = tensor.grad_fn
    while node is not None and node.name() in _CHAIN:
        node = node.next_functions[0][0]
    return node is not None and node.name() == "torch::autograd::AccumulateGrad"


def kept(through: Through, keeper: Keeper) -> Through:
    """All blocks, whose activations `keeper` packs."""

    def passed(
        blocks: Sequence[Any], x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, list[dict[str, Tensor]], dict[str, Tensor]]:
        if not torch.is_grad_enabled():
            return through(blocks, x_bsd, context)
        rows, length, width = x_bsd.shape
        inputs = {x_bsd.data_ptr()}
        known = [_noting(block, inputs) for block in blocks]
        with keeper.hooks(rows * length, width, inputs):
            return through(known, x_bsd, context)

    return passed


def _noting(block: Callable[..., Any], inputs: set[int]) -> Callable[..., Any]:
    """A block that notes where its input is, and its output, the next one's input."""

    def called(x_bsd: Tensor, *arguments: Any) -> Any:
        inputs.clear()
        inputs.add(x_bsd.data_ptr())
        found = block(x_bsd, *arguments)
        inputs.add(found[0].data_ptr())
        return found

    return called
