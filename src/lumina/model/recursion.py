"""Mixture of Recursions: some tokens go through the middle blocks again.

Bae et al. (2025, arXiv:2507.10524) with middle-cycle sharing: the first and the last
block are passed once; the blocks between them once by every token, then again by fewer
and fewer. A token attends to those as deep as itself, whose keys that pass made again;
with shared keys, to every token's of the first pass, which are then the only ones made
and kept.

Expert choice: the router of a recursion passes on those tokens of the one before that
it scores highest, `x + alpha * sigmoid(logit) * blocks(x)`. The first pass has no
weight, so a single recursion is the plain transformer. In evaluation a token goes on
where its own logit is above zero, which the routers are trained to by a cross entropy
against the top-k choice.

Token choice: one router reads a token before its first pass and gives it the depth of
the highest of R probabilities; `x + alpha * probability * blocks(...blocks(x))`. It
looks at no other token, in training as in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.cache_protocol import shapes_follow_data
from lumina.model.context import BlockContext
from lumina.model.moe import Router
from lumina.model.spec import ModelSpec, MorSpec
from lumina.model.subset_context import SharedKeys, narrow
from lumina.ops.depth.scoring import token_scores
from lumina.ops.depth.selection import (
    Places,
    gather_tokens,
    put_back,
    seat,
    top_places,
    wanted_first,
)

Aux = dict[str, Tensor]


@dataclass
class Passes:
    """The shared blocks of one forward pass, and what their passes leave behind.

    Attributes:
        blocks: passed in order.
        sharing: whether later passes attend to the keys of the first.
        sums: of every block, what it reports, added up over passes.
        keys: of every block, keys and values of the first pass, when they are shared.
        first: the context of that pass.
    """

    blocks: Sequence[nn.Module]
    sharing: bool
    sums: list[Aux] = field(default_factory=list)
    keys: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    first: BlockContext | None = None

    def once(self, x_bnd: Tensor, context: BlockContext) -> Tensor:
        """Through all blocks, [B, n, D] to [B, n, D]."""
        if self.first is None:
            self.first = context
            self.sums = [{} for _ in self.blocks]
        for place, block in enumerate(self.blocks):
            x_bnd, aux = block(x_bnd, self._own(context, place))
            if self.sharing and not context.recursion:
                self.keys.append((aux.pop("mor.keys"), aux.pop("mor.values")))
            held = self.sums[place]
            self.sums[place] = held | {
                k: held[k] + v if k in held else v for k, v in aux.items()
            }
        return x_bnd

    def deeper(
        self, context: BlockContext, places: Places, taken_bk: Tensor | None
    ) -> BlockContext:
        """The context of the next pass, of the tokens at `places` of this one."""
        shared = None
        if self.sharing:
            assert self.first is not None
            shared = SharedKeys(self.first, self.keys[0][0].shape[1])
        inner = narrow(context, places, taken_bk, shared)
        return replace(inner, recursion=context.recursion + 1)

    def _own(self, context: BlockContext, place: int) -> BlockContext:
        if not self.sharing:
            return context
        if not context.recursion:
            return replace(context, keep_keys=True)
        return replace(context, keys=self.keys[place])


class Step(nn.Module):
    """A function of tensors as a module, so that it can be compiled like a block."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Tensor:
        """The function's result."""
        return self.function(*arguments)


class Recursion(nn.Module):
    """Passes tokens through shared blocks, which it does not own; expert choice.

    Args:
        spec: a shape with `spec.mor` of two recursions or more.

    Attributes:
        scores, top, gather, change, put: what is done to whole rows between passes.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.mor is not None
        self.spec: MorSpec = spec.mor
        self.eps = spec.norm_eps
        self.router = Router(spec.hidden_size, self.spec.routers)
        self.scores = Step(token_scores)
        self.top = Step(top_places)
        self.gather = Step(gather_tokens)
        self.change = Step(_changed)
        self.put = Step(put_back)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All that is worth compiling here."""
        return self.scores, self.top, self.gather, self.change, self.put

    def through(
        self, blocks: Sequence[nn.Module], x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, list[Aux], Aux]:
        """Through all blocks: the first and the last once, those between again.

        Returns:
            As `forward`, with the sums of the first and the last block too.
        """
        first, *shared, last = blocks
        x_bsd, before = first(x_bsd, context)
        x_bsd, sums, own = self(shared, x_bsd, context)
        x_bsd, after = last(x_bsd, context)
        return x_bsd, [before, *sums, after], own

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
        passes = Passes(blocks, self.spec.kv_sharing)
        length = x_bsd.shape[1]
        tokens = context.valid.sum(dtype=torch.float32)
        losses: list[Tensor] = []
        counts = [torch.stack([tokens, tokens])]
        x_bsd = passes.once(x_bsd, context)
        x_bsd = self._deeper(passes, x_bsd, context, length, losses, counts)
        while len(counts) < self.spec.recursions:  # no token went further
            counts.append(torch.zeros_like(counts[0]))
        zero = torch.zeros((), device=x_bsd.device)
        own = {
            "mor.router_loss": torch.stack([zero, *losses]).sum(),
            "mor.statistics": torch.stack(counts),
        }
        return x_bsd, passes.sums, own

    def _deeper(
        self,
        passes: Passes,
        x_bnd: Tensor,
        context: BlockContext,
        length: int,
        losses: list[Tensor],
        counts: list[Tensor],
    ) -> Tensor:
        """The next recursion and those after it, for the tokens of the one before."""
        depth = context.recursion + 1
        if depth == self.spec.recursions:
            return x_bnd
        router = self.router.weight[depth - 1 : depth]
        logits_bn = self.scores(x_bnd, router, self.eps).squeeze(-1)
        index_bk, taken_bk = self._choose(logits_bn, context, depth, length)
        if index_bk.shape[1] == 0:
            return x_bnd
        places = seat(index_bk, x_bnd.shape[1], taken_bk)
        inner = passes.deeper(context, places, taken_bk)
        before_bkd = self.gather(x_bnd, places)
        passed_bkd = passes.once(before_bkd, inner)
        weight_bk = self.spec.alpha * torch.sigmoid(logits_bn).gather(1, index_bk)
        after_bkd = self.change(before_bkd, passed_bkd, weight_bk)
        loss, count = self._judged(logits_bn, places.place_t1, places.token_n, context)
        losses.append(loss)
        counts.append(count)
        after_bkd = self._deeper(passes, after_bkd, inner, length, losses, counts)
        return self.put(x_bnd, after_bkd, places)  # type: ignore[no-any-return]

    def mode(self, context: BlockContext) -> str:
        """How tokens are chosen now: "top_k", "predictor" or "static"."""
        return context.mode(self.spec.mode == "static", self.training)

    def _choose(
        self, logits_bn: Tensor, context: BlockContext, depth: int, length: int
    ) -> tuple[Tensor, Tensor | None]:
        """Places [B, k] and which of them are taken (None: all)."""
        rows, candidates = logits_bn.shape
        mode = self.mode(context)
        if mode == "static":
            every_n = torch.arange(candidates, device=logits_bn.device)
            return every_n.expand(rows, -1), None
        if mode == "top_k":
            count = min(self.spec.places(depth, length), candidates)
            return self.top(logits_bn, context.valid, count), None
        wanted_bn = (logits_bn > 0) & context.valid
        index_bk = wanted_first(wanted_bn, _all_who_want(wanted_bn, context))
        return index_bk, wanted_bn.gather(1, index_bk)

    def _judged(
        self,
        logits_bn: Tensor,
        place_t1: Tensor,
        token_n: Tensor,
        context: BlockContext,
    ) -> tuple[Tensor, Tensor]:
        """The router's loss against the choice, and (chosen, rightly judged) tokens."""
        chosen_bn = (place_t1 < token_n.numel()).view(logits_bn.shape)
        each_bn = F.binary_cross_entropy_with_logits(
            logits_bn, chosen_bn.float(), reduction="none"
        )
        with torch.no_grad():
            entered = (chosen_bn & context.valid).sum(dtype=torch.float32)
            agreed = (((logits_bn > 0) == chosen_bn) & context.valid).sum()
            count = torch.stack([entered, agreed.float()])
        return (each_bn * context.valid).sum(), count


def _changed(x_bnd: Tensor, passed_bnd: Tensor, weight_bn: Tensor) -> Tensor:
    """x + weight * passed, weighted in float32."""
    change_bnd = passed_bnd.float() * weight_bn[..., None]
    return x_bnd + change_bnd.to(x_bnd.dtype)


def _all_who_want(wanted_bn: Tensor, context: BlockContext) -> int:
    """As many places as tokens want, in evaluation."""
    if not shapes_follow_data(context.cache):
        # Fixed shapes, so that nothing waits for the device: all are computed.
        return wanted_bn.shape[1]
    return int(wanted_bn.sum(dim=1).max())


class TokenChoice(Recursion):
    """Every token has its depth from one router, before its first pass.

    In training a pass has places for its share of a row under an even load, times the
    capacity factor; a token behind the last of them in the row stops earlier.
    Evaluation has room for all. The balance loss is over the shares of depths of the
    step before, as that of experts (`lumina.model.moe`).

    Attributes:
        load: [recursions] float32, the share of tokens that chose each depth.
    """

    load: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        load = torch.empty(self.spec.recursions, dtype=torch.float32)
        self.register_buffer("load", load)

    def forward(
        self, blocks: Sequence[nn.Module], x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, list[Aux], Aux]:
        """All recursions; arguments and results as of `Recursion`.

        The router's own sums are `mor.balance_loss` [], `mor.z_loss` [] and
        `mor.statistics` [recursions, 2]: tokens that went into a pass, and tokens that
        chose it for their last.
        """
        passes = Passes(blocks, self.spec.kv_sharing)
        logits_bsr = self.scores(x_bsd, self.router.weight, self.eps)
        share_bsr = logits_bsr.softmax(dim=-1)
        last_bs = logits_bsr.argmax(dim=-1)
        entered = [context.valid.sum(dtype=torch.float32)]
        y_bsd = passes.once(x_bsd, context)
        y_bsd = self._on(passes, y_bsd, context, last_bs, x_bsd.shape[1], entered)
        while len(entered) < self.spec.recursions:  # no token went further
            entered.append(torch.zeros_like(entered[0]))
        weight_bs = self.spec.alpha * share_bsr.gather(2, last_bs[..., None])[..., 0]
        x_bsd = self.change(x_bsd, y_bsd, weight_bs)
        own = self._sums(logits_bsr, share_bsr, last_bs, context.valid)
        own["mor.statistics"] = torch.stack(
            [torch.stack(entered), own["mor.statistics"]], dim=1
        )
        return x_bsd, passes.sums, own

    @torch.no_grad()
    def take_load(self, statistics: Tensor) -> None:
        """Set `load` to the shares of a step's `mor.statistics`, summed over ranks."""
        chosen_r = statistics[:, 1]
        total = chosen_r.sum()
        self.load.copy_(
            torch.where(total > 0, chosen_r / total.clamp(min=1), self.load)
        )

    def _on(
        self,
        passes: Passes,
        y_bnd: Tensor,
        context: BlockContext,
        last_bn: Tensor,
        length: int,
        entered: list[Tensor],
    ) -> Tensor:
        """The next pass and those after it, for the tokens that want to go on."""
        depth = context.recursion + 1
        if depth == self.spec.recursions:
            return y_bnd
        wanted_bn = (last_bn >= depth) & context.valid
        if self.training:
            count = min(self.spec.places(depth, length), y_bnd.shape[1])
        else:
            count = _all_who_want(wanted_bn, context)
        index_bk = wanted_first(wanted_bn, count)
        if index_bk.shape[1] == 0:
            return y_bnd
        taken_bk = wanted_bn.gather(1, index_bk)
        entered.append(taken_bk.sum(dtype=torch.float32))
        places = seat(index_bk, y_bnd.shape[1], taken_bk)
        inner = passes.deeper(context, places, taken_bk)
        after_bkd = passes.once(self.gather(y_bnd, places), inner)
        last_bk = last_bn.gather(1, index_bk)
        after_bkd = self._on(passes, after_bkd, inner, last_bk, length, entered)
        return self.put(y_bnd, after_bkd, places)  # type: ignore[no-any-return]

    def _sums(
        self, logits_bsr: Tensor, share_bsr: Tensor, last_bs: Tensor, valid_bs: Tensor
    ) -> Aux:
        """The losses, and as `mor.statistics` [recursions] the tokens of each depth."""
        z_bs = logits_bsr.logsumexp(dim=-1).square() * valid_bs
        share_r = (share_bsr * valid_bs[..., None]).sum(dim=(0, 1))
        chosen_bsr = F.one_hot(last_bs, self.spec.recursions) * valid_bs[..., None]
        return {
            "mor.balance_loss": (share_r * self.load).sum() * self.spec.recursions,
            "mor.z_loss": z_bs.sum(),
            "mor.statistics": chosen_bsr.sum(dim=(0, 1)).float(),
        }


def build_recursion(spec: ModelSpec) -> Recursion:
    """What passes tokens through the shared blocks, for either routing."""
    assert spec.mor is not None
    return (TokenChoice if spec.mor.by_token else Recursion)(spec)
