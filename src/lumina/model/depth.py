"""Mixture of Depths: a block that takes only some tokens of every row.

Raposo et al. (2024, arXiv:2404.02258). In training the k tokens with the highest router
scores of a row go through, `x + weight * f(x)`, and the rest pass by. That choice looks
into the future, so a predictor is trained to make it from the token alone, and decides
in evaluation and generation.

The weight is 2 * sigmoid(router logit): bounded, and one for a router that is
undecided, so that a new model starts as a dense one does. Router and predictor read the
token normalised to length sqrt(D), in float32.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.batch import IGNORE
from lumina.model.aux_keys import DEPTH_COLUMNS
from lumina.model.block import Block
from lumina.model.cache_protocol import shapes_follow_data
from lumina.model.context import BlockContext
from lumina.model.kinds.kind import Branches
from lumina.model.moe import Router
from lumina.model.spec import ModelSpec
from lumina.model.subset_context import narrow
from lumina.ops.depth.scoring import token_scores
from lumina.ops.depth.selection import (
    Places,
    add_back,
    gather_tokens,
    places_for,
    seat,
    top_places,
    wanted_first,
)


class Choice(NamedTuple):
    """What a depth router decided.

    Attributes:
        weight_bs: [B, S] float32, how much of the block's change a token gets.
        chosen_bs: [B, S] bool, tokens that go through; None: the top k by `score_bs`.
        score_bs: [B, S] float32, the order of preference.
    """

    weight_bs: Tensor
    chosen_bs: Tensor | None
    score_bs: Tensor


class Predictor(nn.Module):
    """Whether a token will be among the chosen, from the token alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, x_bsd: Tensor, eps: float) -> Tensor:
        """[B, S, D] to logits [B, S] float32. No gradient reaches the tokens."""
        scores_bs1 = token_scores(x_bsd.detach(), self.weight, eps)
        return scores_bs1.squeeze(-1) + self.bias.float()


class DepthRouter(nn.Module):
    """Decides which tokens of each row a block takes.

    Args:
        spec: a shape with `spec.mod`.
        layer_index: the block's.
    """

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        assert spec.mod is not None
        self.spec = spec.mod
        self.layer_index = layer_index
        self.eps = spec.norm_eps
        self.takes_all = spec.mod.ladder == (1.0,)
        self.router = Router(spec.hidden_size, 1) if self.spec.learned else None
        self.predictor = Predictor(spec.hidden_size) if self.spec.predicted else None

    def choose(self, x_bsd: Tensor, context: BlockContext) -> tuple[Choice, Tensor]:
        """The choice of the mode at hand, and the predictor's logits [B, S]."""
        if self.router is None:
            return self._by_position(x_bsd, context)
        score_bs = token_scores(x_bsd, self.router.weight, self.eps).squeeze(-1)
        weight_bs = 2 * torch.sigmoid(score_bs)
        logits_bs = score_bs
        if self.predictor is not None:
            logits_bs = self.predictor(x_bsd, self.eps)
        chosen_bs = None
        if self.mode(context) == "predictor" and not self.takes_all:
            chosen_bs = logits_bs > 0
        return Choice(weight_bs, chosen_bs, score_bs), logits_bs

    def mode(self, context: BlockContext) -> str:
        """How tokens are chosen now: "top_k", "predictor" or "static"."""
        return context.mode(self.spec.mode == "static", self.training)

    def _by_position(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Choice, Tensor]:
        """Nothing learned: weight one, and a choice that the position decides."""
        assert context.tokens is not None
        share, position_bs = float(context.capacity), context.tokens.positions
        if self.spec.routing == "fixed":
            # Whole numbers of 2^-40: exact, and on devices without float64 too.
            edges = torch.stack([position_bs, position_bs + 1]) * round(share * 2**40)
            low, high = (edges + round(1e-6 * 2**40)) >> 40
            chosen_bs = high > low
        else:
            limit = math.ceil(share * 2**32)
            chosen_bs = _hashed(position_bs, self.layer_index) < limit
        weight_bs = torch.ones_like(position_bs, dtype=torch.float32)
        score_bs = chosen_bs.float()
        if self.spec.routing == "random" and self.mode(context) == "top_k":
            score_bs = torch.rand(chosen_bs.shape, device=x_bsd.device)
            return Choice(weight_bs, None, score_bs), score_bs
        return Choice(weight_bs, chosen_bs, score_bs), score_bs

    def statistics(
        self, choice: Choice, places: Places, logits_bs: Tensor, context: BlockContext
    ) -> dict[str, Tensor]:
        """The predictor's loss and `DEPTH_COLUMNS`, over the tokens of a forward pass.

        Also `mod.chosen` [B, S] bool, unless this is a deeper recursion.
        """
        valid_bs = context.valid
        rows, length = valid_bs.shape
        chosen_bs = (places.place_t1 < places.token_n.numel()).view(rows, length)
        loss = torch.zeros((), device=valid_bs.device)
        predicted = torch.zeros((), device=valid_bs.device)
        if self.predictor is not None:
            each_bs = F.binary_cross_entropy_with_logits(
                logits_bs, chosen_bs.float(), reduction="none"
            )
            loss = (each_bs * valid_bs).sum()
            predicted = (((logits_bs > 0) == chosen_bs) & valid_bs).sum().float()
        with torch.no_grad():
            score_bs = choice.weight_bs / 2 if self.spec.learned else choice.weight_bs
            counted_bs = chosen_bs & valid_bs
            lowest_b = score_bs.masked_fill(~counted_bs, 1.0).amin(dim=1)
            statistics = torch.stack(
                [
                    counted_bs.sum().float(),
                    (score_bs * counted_bs).sum(),
                    lowest_b.sum(),
                    predicted,
                    valid_bs.sum().float(),
                    torch.full((), float(rows), device=valid_bs.device),
                ]
            )
        aux = {"mod.predictor_loss": loss, "mod.statistics": statistics}
        if not context.recursion:  # of whole rows
            aux["mod.chosen"] = counted_bs
        return aux


class DepthBlock(Block):
    """A block, or its feed-forward, that only some tokens of each row go through."""

    def __init__(self, spec: ModelSpec, layer_index: int, branches: Branches) -> None:
        super().__init__(spec, branches)
        assert spec.mod is not None
        self.scope = spec.mod.scope
        self.layer_index = layer_index
        self.depth = DepthRouter(spec, layer_index)

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D], and the sums of its routers."""
        if self.scope == "feedforward":
            x_bsd = x_bsd + self.attend(x_bsd, context)
        choice, logits_bs = self.depth.choose(x_bsd, context)
        if self.depth.mode(context) == "static":
            change_bsd, aux = self._change(x_bsd, context)
            change_bsd = change_bsd.float() * choice.weight_bs[..., None]
            return x_bsd + change_bsd.to(x_bsd.dtype), aux | _nothing(x_bsd)
        index_bk, taken_bk = self._places(choice, context)
        if index_bk.shape[1] == 0:
            return x_bsd, {}
        places = seat(index_bk, x_bsd.shape[1], taken_bk)
        chosen = self._narrowed(context, places, taken_bk)
        change_bkd, aux = self._change(gather_tokens(x_bsd, places), chosen)
        x_bsd = add_back(x_bsd, change_bkd, choice.weight_bs, places)
        return x_bsd, aux | self.depth.statistics(choice, places, logits_bs, context)

    def _narrowed(
        self, context: BlockContext, places: Places, taken_bk: Tensor | None
    ) -> BlockContext:
        """The context of the chosen tokens; a feed-forward needs the valid ones."""
        if self.scope == "block":
            return narrow(context, places, taken_bk)
        valid_bk = context.valid.gather(1, places.index_bk)
        if taken_bk is not None:
            valid_bk = valid_bk & taken_bk
        return replace(context, valid=valid_bk)

    def _change(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the block, or its feed-forward, adds to these tokens."""
        if self.scope == "feedforward":
            return self.feed(x_bsd, context)
        attended_bsd = self.attend(x_bsd, context)
        fed_bsd, aux = self.feed(x_bsd + attended_bsd, context)
        return attended_bsd + fed_bsd, aux

    def _places(
        self, choice: Choice, context: BlockContext
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens at the places [B, k], and which places are taken (None: all)."""
        length = choice.score_bs.shape[1]
        if choice.chosen_bs is None:
            share = 1.0 if self.depth.takes_all else float(context.capacity)
            count = places_for(share, length)
            return top_places(choice.score_bs, context.valid, count), None
        chosen_bs = choice.chosen_bs & context.valid
        if self.depth.mode(context) == "top_k":
            # At most k stand at a position that is chosen; other places stay empty.
            count = places_for(float(context.capacity), length)
        elif not shapes_follow_data(context.cache):
            # Fixed shapes, so that nothing waits for the device: all are computed.
            count = length
        else:
            # A prompt is long: compute only what goes through.
            count = int(chosen_bs.sum(dim=1).max())
        index_bk = wanted_first(chosen_bs, count)
        return index_bk, chosen_bs.gather(1, index_bk)


def _nothing(x_bsd: Tensor) -> dict[str, Tensor]:
    """The sums of a layer that chose no token: every key is there in every mode."""
    return {
        "mod.predictor_loss": torch.zeros((), device=x_bsd.device),
        "mod.statistics": torch.zeros(len(DEPTH_COLUMNS), device=x_bsd.device),
    }


def _hashed(position_bs: Tensor, layer_index: int) -> Tensor:
    """A number below 2^32 for each position of a layer, always the same one."""
    x = (position_bs + 1) * 2654435761 + (layer_index + 1) * 40503
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 73244475) & 0xFFFFFFFF
    return x ^ (x >> 16)


def collect_depth_aux(layers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The `aux` of a model from that of its depth-routed layers.

    `mod.chosen` becomes [B, S] float32, the share of the layers that chose a token.
    """
    losses = torch.stack([one["mod.predictor_loss"] for one in layers])
    aux = {
        "mod.predictor_loss": losses.sum(),
        "mod.statistics": torch.stack([one["mod.statistics"] for one in layers]),
    }
    if all("mod.chosen" in one for one in layers):
        chosen_lbs = torch.stack([one["mod.chosen"] for one in layers])
        aux["mod.chosen"] = chosen_lbs.mean(dim=0, dtype=torch.float32)
    return aux


@torch.no_grad()
def split_losses(
    aux: dict[str, Tensor], each_bs: Tensor | None, labels_bs: Tensor
) -> dict[str, Tensor]:
    """`aux` with `mod.losses` in place of `mod.chosen`.

    That is [4]: the sum of losses of tokens by the share of layers that chose them, the
    sum of those shares, and both for the share that passed them by.

    Args:
        aux: of the model.
        each_bs: [B, S] float32, every token's loss; None where the objective has none.
        labels_bs: [B, S] int64.
    """
    aux = dict(aux)
    chosen_bs = aux.pop("mod.chosen")
    if each_bs is None:
        return aux | {"mod.losses": torch.zeros(4, device=chosen_bs.device)}
    counted_bs = labels_bs != IGNORE
    each_bs = torch.where(counted_bs, each_bs, 0.0)
    sums = []
    for share_bs in (chosen_bs, 1 - chosen_bs):
        sums += [(each_bs * share_bs).sum(), (counted_bs * share_bs).sum()]
    return aux | {"mod.losses": torch.stack(sums)}
