"""Keys and values that the chunks of a long row leave for the chunks after them.

A row is trained chunk by chunk with the loss and the gradient of the whole row. First
every chunk but the last goes forward without a graph and leaves its keys and values.
Then the chunks are taken in reverse order, each forward again and backward at once. A
chunk attends to the keys of all earlier ones and adds their gradients to what is held
here; when its own turn comes, its keys have received the gradients of all later chunks.
Layers that remember a state hand it on from chunk to chunk (`CarriedStates`). What is
kept for a backward pass is that of one chunk.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lumina.batch import Batch
from lumina.model.carried_states import CarriedStates
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.block_kernels.table import AUTO
from lumina.ops.attention.blockwise import (
    BLOCK,
    Sight,
    add_gradients,
    blockwise_attention,
)
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.masks import document_starts
from lumina.ops.attention.merged import brought


class Held:
    """Keys, or values, of one layer for a whole row, and their gradient.

    Attributes:
        values: [B, S, K, head_dim] in the compute type.
        gradient: the same in float32, of the chunks that have gone backward; None
            before the first.
    """

    def __init__(self, new_bksd: Tensor, length: int, host: bool) -> None:
        rows, heads, _, width = new_bksd.shape
        self._shape = (rows, length, heads, width)
        self._device = torch.device("cpu") if host else new_bksd.device
        # Copies to and from page-locked memory need not wait for each other.
        self._pinned = host and new_bksd.is_cuda
        self.values = self._empty(new_bksd.dtype)
        self.gradient: Tensor | None = None

    def _empty(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(
            self._shape, dtype=dtype, device=self._device, pin_memory=self._pinned
        )

    def summed(self) -> Tensor:
        """The gradient so far."""
        if self.gradient is None:
            self.gradient = self._empty(torch.float32).zero_()
        return self.gradient


class EarlierKeys:
    """What the layers of one row's chunks share; a cache as far as they are concerned.

    Args:
        batch: whole rows, on the device that trains.
        host: keys, values and their gradients lie in host memory, where the attention
            reads them block by block.
        whole: layers make their keys of what is held of all tokens (latent attention).
            Else attention itself reads what is held and adds gradients to it, and
            nothing of the length of the row is made beside it.
    """

    def __init__(self, batch: Batch, host: bool = False, whole: bool = False) -> None:
        self.length = batch.input_ids.shape[1]
        self._host, self._whole, self._layer = host, whole, 0
        self._starts: Tensor | None = None
        if not batch.one_document_rows:
            self._starts = document_starts(batch.document_ids)
        self._held: dict[tuple[int, int], Held] = {}
        self._states = CarriedStates()
        self._sight = Sight(0, NOTHING)
        self.begin = self.end = self.first = 0
        self.learns = False

    @property
    def nbytes(self) -> int:
        """Bytes held for keys, values and their gradients."""
        tensors = [t for x in self._held.values() for t in (x.values, x.gradient)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def turn(self, begin: int, end: int, learns: bool) -> None:
        """The tokens of a chunk are next.

        Args:
            begin: column of its first token.
            end: behind its last token.
            learns: its forward pass is followed by its backward pass; else it only
                leaves its keys and values.
        """
        self.begin, self.end, self.learns = begin, end, learns
        self._states.turn(begin, end, learns)

    def recall(self, layer_index: int) -> dict[str, Tensor]:
        """A recurrent layer's state after the chunk before; see `LayerCache`."""
        return self._states.recall(layer_index)

    def remember(self, layer_index: int, **state: Tensor) -> None:
        """Hand a recurrent layer's state to the next chunk; see `LayerCache`."""
        self._states.remember(layer_index, state)

    def handed_on(self) -> Tensor | None:
        """What a chunk's backward pass owes to the states it left; see there."""
        return self._states.owed()

    @property
    def layers(self) -> set[int]:
        """The layers that have handed something on."""
        return {layer for layer, _ in self._held} | self._states.layers

    def pattern(self, window: int, beyond: Beyond) -> Pattern:
        """What the queries of this chunk see.

        Args:
            window: as in `ModelSpec`.
            beyond: what stays visible beyond the window.
        """
        # What a window alone hides from the whole chunk is not handed out.
        alone = window and not beyond
        self.first = max(0, self.begin - window + 1) if alone else 0
        starts = self._starts
        if starts is not None:
            starts = starts[:, self.begin : self.end] - self.first
        self._sight = Sight(window, beyond)
        earlier = None if self._whole else self._attend
        return Pattern(
            "blockwise", window=window, beyond=beyond, starts=starts, earlier=earlier
        )

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that a layer's queries may see; see `LayerCache`.

        Args:
            layer_index: the block's index.
            k: [B, K, s, head_dim] of this chunk; `v` alike.

        Returns:
            [B, K, T, head_dim], of this chunk and of those before it where layers want
            the whole; else of this chunk, for the `Pattern` to attend with.
        """
        self._layer = layer_index
        if not self._whole:
            return k, v
        return self._extended((layer_index, 0), k), self._extended((layer_index, 1), v)

    def _attend(self, q_bshd: Tensor, k_bskd: Tensor, v_bskd: Tensor) -> Tensor:
        """Attention of the layer whose keys were the last to be updated."""
        new, held = (k_bskd, v_bskd), []
        for slot, one in enumerate(new):
            key = self._layer, slot
            if key not in self._held:
                self._held[key] = Held(
                    one.detach().transpose(1, 2), self.length, self._host
                )
            held.append(self._held[key])
        place = Place(self.first, self.begin, self.end, self.learns)
        starts = self._starts
        if starts is not None:
            starts = starts[:, self.begin : self.end] - self.first
        seen: Tensor = _Attention.apply(q_bshd, *new, held, place, starts, self._sight)  # type: ignore[no-untyped-call]
        return seen

    def _extended(self, slot: tuple[int, int], new: Tensor) -> Tensor:
        if slot not in self._held:
            self._held[slot] = Held(new.detach(), self.length, self._host)
        place = self.first, self.begin, self.end
        extended: Tensor = _Extended.apply(new, self._held[slot], *place, self.learns)  # type: ignore[no-untyped-call]
        return extended


class Place(NamedTuple):
    """A chunk of a row.

    Attributes:
        first: column of the first key that it may see.
        begin: of its first token.
        end: behind its last token.
        learns: its backward pass follows.
    """

    first: int
    begin: int
    end: int
    learns: bool


class _Attention(torch.autograd.Function):
    """Attention of a chunk to the held keys, its own among them.

    Backward adds gradients to what is held: those of the chunk's own keys are complete
    there then.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        held: list[Held],
        place: Place,
        starts: Tensor | None,
        sight: Sight,
    ) -> Tensor:
        for one, new in zip(held, (k, v), strict=True):
            # Those of a chunk that learns are there already, but for the last chunk's.
            if not place.learns or place.end == one.values.shape[1]:
                own = one.values[:, place.begin : place.end]
                own.copy_(new, non_blocking=True)
        ctx.held, ctx.place = held, place
        ctx.how = sight.window, *astuple(sight.beyond), BLOCK, AUTO
        seen = [one.values[:, place.first : place.end] for one in held]
        out: Tensor
        out, sums = blockwise_attention(q, *seen, starts, *ctx.how)
        ctx.save_for_backward(q, starts, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        (grad,), (q, starts, out, sums) = grads, ctx.saved_tensors
        first, begin, end, _ = ctx.place
        keys, values = (one.values[:, first:end] for one in ctx.held)
        into = [one.summed()[:, first:end] for one in ctx.held]
        given = grad, q, keys, values, starts, out, sums
        grad_q = add_gradients(*given, *ctx.how, *into)
        own = [
            brought(one.summed()[:, begin:end], q.device).to(one.values.dtype)
            for one in ctx.held
        ]
        return grad_q, *own, None, None, None, None


class _Extended(torch.autograd.Function):
    """New keys behind the held ones.

    Backward leaves the gradient of the earlier keys with what is held, and gives the
    new ones theirs with what later chunks have left.
    """

    @staticmethod
    def forward(
        ctx: Any,
        new: Tensor,
        held: Held,
        first: int,
        begin: int,
        end: int,
        learns: bool,
    ) -> Tensor:
        ctx.held, ctx.place, ctx.device = held, (first, begin, end), new.device
        # The last chunk leaves nothing, so its keys are new where it learns. Those of
        # the others are there already: saved views of them must not be written to.
        if not learns or end == held.values.shape[1]:
            held.values[:, begin:end].copy_(new.transpose(1, 2), non_blocking=True)
        return held.values[:, first:end].transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        (grad,) = grads
        first, begin, end = ctx.place
        summed, grad_btkd = ctx.held.summed(), grad.transpose(1, 2)
        if begin > first:
            summed[:, first:begin] += grad_btkd[:, : begin - first]
        own = grad_btkd[:, begin - first :]
        if end < summed.shape[1]:
            own = own.float() + summed[:, begin:end]
        own = own.to(ctx.device, grad.dtype).transpose(1, 2)
        return own, None, None, None, None, None
