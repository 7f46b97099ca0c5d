"""Blocks whose weights are on the device only while the block computes.

A block that goes forward has its weights brought while the ones before it compute, and
they are dropped after it. Going back is the same from the last block to the first
(weights streamed through a device: Pudipeddi et al., 2020, arXiv:2002.05645; Ren et
al., 2021, arXiv:2101.06840). What autograd keeps of a weight is its place in the page,
not its bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lumina.assemble.streamed.allowed import problem_of
from lumina.assemble.streamed.carrier import Carrier
from lumina.assemble.streamed.page import WeightPage
from lumina.cache_root import cache_root
from lumina.errors import LuminaError
from lumina.model.context import BlockContext
from lumina.model.declared import declared
from lumina.model.network import Network
from lumina.model.transformer import Through
from lumina.optim.paging.home import chosen_home
from lumina.plan.plan import Plan

FORWARD, BACK = 1, -1


def stream(network: Network, plan: Plan) -> None:
    """What the feature of streamed weights does to a network (`Feature.build`).

    Raises:
        LuminaError: E002 for what needs trained weights on the device.
    """
    backbone = network.backbone
    if problem := problem_of(plan):
        raise LuminaError(
            "E002",
            f"weights_in {plan.weights_in}, where all weights train: {problem}",
            "leave --weights-in out, or train adapters (--use-peft)",
        )
    folder = Path(plan.offload_folder or cache_root() / "offload")
    home = chosen_home(plan.weights_in)
    kept = stay(network, plan)
    pages = [
        WeightPage(block, home, folder, partial(_stays, kept, f"backbone.blocks.{i}."))
        for i, block in enumerate(backbone.blocks)
    ]
    streamed = StreamedBlocks(pages, plan.weights_ahead, staged=home.staged)
    backbone.streamed = streamed
    backbone.around = (*backbone.around, partial(through_streamed, streamed=streamed))


def stay(network: Network, plan: Plan) -> frozenset[str]:
    """Parameters of blocks that train and stay on the device all the same.

    Where only a part of the model trains, they are what does; where all of it does,
    they are routers, which are small and float32.
    """
    part = bool(plan.spec.adapters or plan.freeze)
    tensors = declared(network.spec)
    return frozenset(
        name
        for name, one in network.named_parameters()
        if one.requires_grad and (part or tensors[name].role == "router")
    )


def _stays(kept: frozenset[str], block: str, name: str, _: Tensor) -> bool:
    return block + name in kept


class StreamedBlocks:
    """The pages of all blocks, and which of them are on the device.

    Args:
        pages: of each block, in the order in which they go forward.
        ahead: pages that are brought before they are needed.
        staged: as of `Carrier`.
    """

    def __init__(self, pages: list[WeightPage], ahead: int, *, staged: bool) -> None:
        self.pages, self.ahead, self.staged = pages, ahead, staged
        self.carrier: Carrier | None = None
        self.going_back: int | None = None
        self._ends = False

    def tensors(self) -> list[Tensor]:
        """All tensors that live beside the device."""
        return [tensor for page in self.pages for tensor in page.tensors()]

    def settle(self, device: torch.device) -> None:
        """Give every tensor its place, once; called before the first forward pass.

        Raises:
            LuminaError: what the place says that has no room.
        """
        if self.carrier is not None:
            return
        for page in self.pages:
            page.settle(device)
        self.carrier = Carrier(device, staged=self.staged)

    def use(self, index: int, towards: int) -> None:
        """Have a block's weights on the device, and the next ones on their way.

        Args:
            index: of the block.
            towards: `FORWARD` or `BACK`: which blocks come next.
        """
        assert self.carrier is not None
        self.pages[index].bring(self.carrier)
        end = len(self.pages)
        if towards == FORWARD and self.going_back is not None:
            end = self.going_back + 1  # blocks are computed again no further
        for step in range(1, self.ahead + 1):
            if 0 <= (near := index + towards * step) < end:
                self.pages[near].bring(self.carrier)
        self.pages[index].arrive(self.carrier)

    def leave(self, index: int, *, graph: bool) -> None:
        """The block has no more need of its weights for now.

        Args:
            index: of the block.
            graph: it goes back later, or others do.
        """
        assert self.carrier is not None
        self.pages[index].leave(self.carrier, graph=graph)

    def leave_all(self) -> None:
        """No block computes."""
        self.going_back = None
        self._ends = False
        for index in range(len(self.pages)):
            self.leave(index, graph=False)

    def back(self, index: int) -> None:
        """A block begins to go back."""
        self.use(index, BACK)
        self.going_back = index
        if not self._ends:
            self._ends = True
            # The gradient of the first block's input may not be wanted.
            engine = torch.autograd.Variable._execution_engine  # type: ignore[attr-defined]
            engine.queue_callback(self.leave_all)

    def gone_back(self, index: int) -> None:
        """A block has gone back: the gradient of its input is complete."""
        self.going_back = None
        self.leave(index, graph=True)

    def hooks(self) -> saved_tensors_hooks:
        """Hooks that keep the places of weights, and leave all else to outer hooks."""
        outer = torch._C._autograd._top_saved_tensors_default_hooks(False)  # type: ignore[attr-defined]

        def pack(tensor: Tensor) -> Any:
            address = tensor.untyped_storage().data_ptr()
            for index, page in enumerate(self.pages):
                if page.holds(address):
                    begin = tensor.storage_offset() * tensor.itemsize
                    like = begin, tensor.shape, tensor.stride(), tensor.dtype
                    return _Place(self, index, like)
            return tensor if outer is None else outer[0](tensor)

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, _Place):
                return kept.tensor()
            found: Tensor = kept if outer is None else outer[1](kept)
            return found

        return saved_tensors_hooks(pack, unpack)

    def close(self) -> None:
        """Release all pages."""
        if self.carrier is not None:
            self.leave_all()
            self.carrier.close()
        for page in self.pages:
            page.close()


def close_streamed(network: Any) -> None:
    """Release the weights of a network that live beside the device, if some do."""
    streamed = getattr(network.backbone, "streamed", None)
    if streamed is not None:
        streamed.close()


def homes_of(network: Network) -> dict[str, Callable[[], Tensor]]:
    """The trained parameters that live beside the device: what gives the home of each.

    Args:
        network: whose parameters are no others any more.
    """
    streamed = getattr(network.backbone, "streamed", None)
    if streamed is None:
        return {}
    pages = {
        id(tensor): page
        for page in streamed.pages
        for tensor in page.tensors()
        if tensor.requires_grad
    }
    return {
        name: partial(pages[id(one)].home_of, one)
        for name, one in network.named_parameters()
        if id(one) in pages
    }


class _Place:
    """Where a tensor that autograd keeps is in the page of its block."""

    def __init__(self, streamed: StreamedBlocks, index: int, like: Any) -> None:
        self.streamed, self.index, self.like = streamed, index, like

    def tensor(self) -> Tensor:
        """The tensor, on the device."""
        self.streamed.use(self.index, BACK)
        return self.streamed.pages[self.index].part(self.like)


def through_streamed(through: Through, streamed: StreamedBlocks) -> Through:
    """All blocks, each with its weights while it computes."""

    def passed(
        blocks: Sequence[Any], x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, list[dict[str, Tensor]], dict[str, Tensor]]:
        streamed.settle(x_bsd.device)
        streamed.leave_all()
        each = [_streamed(block, i, streamed) for i, block in enumerate(blocks)]
        return through(each, x_bsd, context)

    return passed


def _streamed(
    block: Callable[..., Any], index: int, streamed: StreamedBlocks
) -> Callable[..., Any]:
    """A block that has its weights while it computes."""
    last = index == len(streamed.pages) - 1

    def called(x_bsd: Tensor, *arguments: Any) -> Any:
        streamed.use(index, FORWARD)
        keep = False
        try:
            if not torch.is_grad_enabled():
                return block(x_bsd, *arguments)
            x_bsd = _Told.apply(x_bsd, weakref.ref(streamed), "gone_back", index)
            with streamed.hooks():
                y_bsd, aux = block(x_bsd, *arguments)
            y_bsd = _Told.apply(y_bsd, weakref.ref(streamed), "back", index)
            keep = last  # it is the first to go back
            return y_bsd, aux
        finally:
            if not keep and streamed.going_back != index:
                streamed.leave(index, graph=torch.is_grad_enabled())

    return called


class _Told(torch.autograd.Function):
    """A tensor as it is; the blocks are told once its gradient is complete.

    That of a block's output is there before the block goes back, that of its input
    when it has gone back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, streamed: Any, tell: str, index: int) -> Tensor:
        ctx.where = streamed, tell, index
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        streamed, tell, index = ctx.where
        if (found := streamed()) is not None:
            getattr(found, tell)(index)
        return gradient, None, None, None
