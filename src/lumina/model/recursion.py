"""Mixture of Recursions: some tokens go through the middle blocks again.

Bae et al. (2025, arXiv:2507.10524), expert choice with middle-cycle sharing. The first
and the last block are passed once; the blocks between them once by every token, then
again by fewer and fewer: those the router of that recursion scores highest among the
tokens of the one before, `x + alpha * sigmoid(logit) * blocks(x)`. The first pass has
no weight, so a single recursion is the plain transformer. A token attends to those as
deep as itself, whose keys that pass made anew. In evaluation a token goes on where its
own logit is above zero, which the routers are trained to by a cross entropy against the
top-k choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.attention import BlockContext
from lumina.model.chosen import narrow
from lumina.model.moe import Router
from lumina.model.spec import ModelSpec
from lumina.ops.depth.selection import (
    gather_tokens,
    places_for,
    put_back,
    seat,
    top_places,
)

Aux = dict[str, Tensor]


class Recursion(nn.Module):
    """Passes tokens through shared blocks, which it does not own.

    Args:
        spec: a shape with `spec.mor` of two recursions or more.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.mor is not None
        self.spec = spec.mor
        self.eps = spec.norm_eps
        self.router = Router(spec.hidden_size, self.spec.recursions - 1)

    def forward(
        self, blocks: Sequence[nn.Module], x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, list[Aux], Aux]:
        """All recursions.

        Args:
            blocks: the shared ones.
            x_bsd: [B, S, D].
            context: of these tokens.

        Returns:
            [B, S, D]; the sums of every block over its passes; and the routers' own:
            `mor.router_loss` [] and `mor.statistics` [recursions, 2], tokens that went
            into a pass and tokens whose logit alone says so.
        """
        sums: list[Aux] = [{} for _ in blocks]
        length = x_bsd.shape[1]
        tokens = context.valid.sum(dtype=torch.float32)
        losses: list[Tensor] = []
        counts = [torch.stack([tokens, tokens])]
        x_bsd = _cycle(blocks, x_bsd, context, sums)
        x_bsd = self._deeper(blocks, x_bsd, context, 1, length, sums, losses, counts)
        while len(counts) < self.spec.recursions:  # nobody went further
            counts.append(torch.zeros_like(counts[0]))
        zero = torch.zeros((), device=x_bsd.device)
        own = {
            "mor.router_loss": torch.stack([zero, *losses]).sum(),
            "mor.statistics": torch.stack(counts),
        }
        return x_bsd, sums, own

    def _deeper(
        self,
        blocks: Sequence[nn.Module],
        x_bnd: Tensor,
        context: BlockContext,
        depth: int,
        length: int,
        sums: list[Aux],
        losses: list[Tensor],
        counts: list[Tensor],
    ) -> Tensor:
        """Recursion `depth` and those after it, for the tokens of the one before."""
        if depth == self.spec.recursions:
            return x_bnd
        normal_bnd = F.rms_norm(x_bnd.float(), (x_bnd.shape[-1],), None, self.eps)
        logits_bn = self.router(normal_bnd)[..., depth - 1]
        index_bk, taken_bk = self._choose(logits_bn, context, depth, length)
        if index_bk.shape[1] == 0:
            return x_bnd
        places = seat(index_bk, x_bnd.shape[1], taken_bk)
        inner = replace(narrow(context, places, taken_bk), recursion=depth)
        before_bkd = gather_tokens(x_bnd, places)
        passed_bkd = _cycle(blocks, before_bkd, inner, sums)
        weight_bk = self.spec.alpha * torch.sigmoid(logits_bn).gather(1, index_bk)
        change_bkd = passed_bkd.float() * weight_bk[..., None]
        after_bkd = before_bkd + change_bkd.to(before_bkd.dtype)
        loss, count = self._judged(logits_bn, places.place_t1, places.token_n, context)
        losses.append(loss)
        counts.append(count)
        after_bkd = self._deeper(
            blocks, after_bkd, inner, depth + 1, length, sums, losses, counts
        )
        return put_back(x_bnd, after_bkd, places)

    def mode(self, context: BlockContext) -> str:
        """How tokens are chosen now: "top_k", "predictor" or "static"."""
        if context.routing:
            return context.routing
        if self.spec.mode == "static":
            return "static"
        return "top_k" if self.training else "predictor"

    def _choose(
        self, logits_bn: Tensor, context: BlockContext, depth: int, length: int
    ) -> tuple[Tensor, Tensor | None]:
        """Places [B, k] and which of them are taken (None: all)."""
        rows, candidates = logits_bn.shape
        every_bn = torch.arange(candidates, device=logits_bn.device).expand(rows, -1)
        mode = self.mode(context)
        if mode == "static":
            return every_bn, None
        if mode == "top_k":
            share = self.spec.share(depth)
            count = min(places_for(share, length), candidates)
            return top_places(logits_bn, context.valid, count), None
        chosen_bn = (logits_bn > 0) & context.valid
        if context.cache is None:
            # Fixed shapes, so that nothing waits for the device: all are computed.
            return every_bn, chosen_bn
        count = int(chosen_bn.sum(dim=1).max())
        index_bk = top_places(chosen_bn.float(), context.valid, count)
        return index_bk, chosen_bn.gather(1, index_bk)

    def _judged(
        self,
        logits_bn: Tensor,
        place_t1: Tensor,
        token_n: Tensor,
        context: BlockContext,
    ) -> tuple[Tensor, Tensor]:
        """The router's loss against the choice, and (chosen, rightly told) tokens."""
        chosen_bn = (place_t1 < token_n.numel()).view(logits_bn.shape)
        each_bn = F.binary_cross_entropy_with_logits(
            logits_bn, chosen_bn.float(), reduction="none"
        )
        with torch.no_grad():
            entered = (chosen_bn & context.valid).sum(dtype=torch.float32)
            told = (((logits_bn > 0) == chosen_bn) & context.valid).sum()
            count = torch.stack([entered, told.float()])
        return (each_bn * context.valid).sum(), count


def _cycle(
    blocks: Sequence[nn.Module],
    x_bnd: Tensor,
    context: BlockContext,
    sums: list[Aux],
) -> Tensor:
    """Once through the shared blocks; what they report is added up in `sums`."""
    for place, block in enumerate(blocks):
        x_bnd, aux = block(x_bnd, context)
        held = sums[place]
        sums[place] = held | {
            k: held[k] + v if k in held else v for k, v in aux.items()
        }
    return x_bnd
