"""Hierarchical reasoning as a causal language model that halts token by token.

The modules, updates and one-step gradient of arXiv:2506.21734 (`reasoning`), with
causal attention within documents. Every position has its own two states. A forward
pass is all segments of a batch, so nothing is carried from one step to the next. After
each segment the halting head reads every token's own z_H. A token that halted keeps its
states, and the keys and values that it had in its last segment are what later segments
of the tokens behind it see: it is never computed again, so continuing a text with a
cache is exact, and a new token takes only the segments it needs.

Shapes: m segments, a block applications of a segment; the rest as in `interface`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lumina.batch import Batch
from lumina.model.attention import Attention
from lumina.model.cache_protocol import Cache, shapes_follow_data
from lumina.model.context import BlockContext
from lumina.model.interface import Output
from lumina.model.layers import Embedding
from lumina.model.reasoning import HaltingHead, ReasoningBlock, updates
from lumina.model.spec import HrmSpec, ModelSpec
from lumina.model.waiting_cache import Kept, WaitingKeys, gather, put
from lumina.ops.attention.dispatch import Pattern, attend, make_pattern
from lumina.ops.rotary.reference import frequencies, tables


@dataclass
class HaltingOutput(Output):
    """An `Output` whose `hidden` is each token's z_H where it halted.

    Attributes:
        states: [M, B, S, D], z_H after every segment, and after the one that a token
            did not take, what it would have been; then nothing. None in evaluation.
        active: [M, B, S] bool, the tokens that a segment worked on.
        q_halt: [M, B, S] float32 logit of the most likely token now being right, read
            from `states`.
        q_continue: [M, B, S] float32, of it being right after going on; likewise.
        spent: [B, S] int64, segments that each token took.

    Where halted tokens are not computed there are only `hidden` and `spent`.
    """

    states: Tensor | None = None
    active: Tensor = None  # type: ignore[assignment]
    q_halt: Tensor = None  # type: ignore[assignment]
    q_continue: Tensor = None  # type: ignore[assignment]
    spent: Tensor = None  # type: ignore[assignment]


class WaitingAttention(Attention):
    """Attention to the newest keys of tokens that go on, the last ones of the rest."""

    def forward(  # type: ignore[override]
        self, x_bsd: Tensor, context: BlockContext, kept: Kept, active_bs: Tensor
    ) -> tuple[Tensor, Kept]:
        """[B, S, D] to the same, and the keys and values for the next segment."""
        q_bshd, k_bskd, v_bskd = self.project(x_bsd, context)
        goes_on = active_bs[:, :, None, None]
        k_bskd = torch.where(goes_on, k_bskd, kept[0])
        v_bskd = torch.where(goes_on, v_bskd, kept[1])
        kept = k_bskd.detach(), v_bskd.detach()
        if context.cache is not None:
            k_bkd, v_bkd = context.cache.update(
                context.recursion, k_bskd.transpose(1, 2), v_bskd.transpose(1, 2)
            )
            k_bskd, v_bskd = k_bkd.transpose(1, 2), v_bkd.transpose(1, 2)
        seen = attend(q_bshd, k_bskd, v_bskd, context.pattern)
        return self.out(seen.flatten(2)), kept


class WaitingBlock(ReasoningBlock):
    """A reasoner's block whose halted tokens wait. Keeps nothing itself."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__(spec, layer_index)
        self.attention = WaitingAttention(spec, layer_index)

    def forward(  # type: ignore[override]
        self, x_bsd: Tensor, context: BlockContext, kept: Kept, active_bs: Tensor
    ) -> tuple[Tensor, Kept]:
        """[B, S, D] to the same, and what `WaitingAttention` keeps."""
        mixed_bsd, kept = self.attention(x_bsd, context, kept, active_bs)
        x_bsd = self.normal(x_bsd + mixed_bsd)
        return self.normal(x_bsd + self.feedforward(x_bsd)), kept


class LanguageReasoner(nn.Module):
    """The backbone: embedding, the two modules, the halting head.

    Args:
        spec: the resolved shape; its `hrm` says how it recurs.
        attention: "sdpa", "varlen" or "reference".

    Attributes:
        blocks: the low-level module's, then the high-level module's.
        compute_dtype: the type of activations.
        skips_halted: in evaluation, compute only tokens that go on. Shapes then depend
            on the data, which compiled and sharded blocks do not bear.
    """

    recurrent = False

    def __init__(self, spec: ModelSpec, attention: str = "sdpa") -> None:
        super().__init__()
        assert spec.hrm is not None
        self.attention = attention
        self.spec = spec
        self.hrm: HrmSpec = spec.hrm
        self.updates = updates(spec.hrm)
        self.compute_dtype = torch.float32
        self.skips_halted = False
        width = spec.hidden_size
        self.embedding = Embedding(spec.padded_vocab_size, width)
        layers = self.hrm.l_layers + self.hrm.h_layers
        self.blocks = nn.ModuleList(WaitingBlock(spec, i) for i in range(layers))
        self.halting = HaltingHead(width)
        # Where a token begins. Drawn once, never trained.
        self.h_init = nn.Buffer(torch.empty(width))
        self.l_init = nn.Buffer(torch.empty(width))

    def forward(
        self, batch: Batch, carry: None = None, cache: Cache | None = None
    ) -> HaltingOutput:
        """All segments.

        Args:
            batch: what to read; with a cache, only the new tokens.
            carry: none; a training step is every segment.
            cache: keys and values of earlier tokens; receives the new ones.
        """
        e_bsd = self.embedding(batch.input_ids).to(self.compute_dtype)
        e_bsd = e_bsd * math.sqrt(self.spec.hidden_size)
        skips = self.skips_halted and not self.training and not torch.is_grad_enabled()
        context = self._context(batch, cache, skips)
        if cache is not None or skips:
            return self._skipping(e_bsd, context, cache)
        return self._whole(e_bsd, context)

    def _whole(self, e_bsd: Tensor, context: BlockContext) -> HaltingOutput:
        """Whole rows. Shapes never change, so halted tokens are computed in vain."""
        z_h, z_l = (self._first(name, e_bsd) for name in ("h_init", "l_init"))
        active = context.valid
        least = self._least(active)
        kept = [self._no_keys(e_bsd)] * self.applications
        outcomes: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for segment in range(self.hrm.halt_max_steps):
            new_h, new_l, kept = self._segment(
                z_h.detach(), z_l.detach(), e_bsd, context, kept, active
            )
            goes_on = active[..., None]
            z_h = torch.where(goes_on, new_h, z_h.detach())
            z_l = torch.where(goes_on, new_l, z_l.detach())
            # Score halted tokens too: the continue loss needs their value.
            q_halt, q_continue = self.halting(new_h)
            outcomes.append((new_h, active, q_halt, q_continue))
            active = active & ~self._halted(q_halt, q_continue, segment, least)
        states, actives, *qs = zip(*outcomes, strict=True)
        took = torch.stack(actives)
        return HaltingOutput(
            hidden=z_h,
            states=torch.stack(states) if self.training else None,
            active=took,
            spent=took.sum(0),
            q_halt=torch.stack(qs[0]),
            q_continue=torch.stack(qs[1]),
        )

    def _skipping(
        self, e_bsd: Tensor, context: BlockContext, cache: Cache | None
    ) -> HaltingOutput:
        """Only tokens that go on are computed, perhaps behind those of a cache.

        The cache keeps a layer for each application in each segment that anybody has
        come to: the keys that tokens have from there on.
        """
        z_h, z_l = (self._first(name, e_bsd) for name in ("h_init", "l_init"))
        active = context.valid
        spent = torch.zeros_like(active, dtype=torch.int64)
        keys = WaitingKeys(cache, self.applications, self._no_keys(e_bsd))
        skips = cache is None or shapes_follow_data(cache)
        for segment in range(self.hrm.halt_max_steps):
            count = active.shape[1]
            if skips:
                count = int(active.sum(dim=1).max())
            if count == 0:
                break
            spent = spent + active
            index_bn = _first_of(active, count)
            inner = keys.begin(segment, context, index_bn)
            h_bnd, l_bnd, e_bnd = (gather(t, index_bn) for t in (z_h, z_l, e_bsd))
            kept = [keys.kept(place) for place in range(self.applications)]
            active_bn = active if index_bn is None else active.gather(1, index_bn)
            new_h, new_l, _ = self._segment(h_bnd, l_bnd, e_bnd, inner, kept, active_bn)
            goes_on = active_bn[..., None]
            z_h = put(z_h, index_bn, torch.where(goes_on, new_h, h_bnd))
            z_l = put(z_l, index_bn, torch.where(goes_on, new_l, l_bnd))
            q_halt, q_continue = self.halting(new_h)
            still_bn = active_bn & ~self._halted(q_halt, q_continue, segment, None)
            if index_bn is None:
                active = still_bn
            else:
                active = active.scatter(1, index_bn, still_bn)
        keys.finish()
        return HaltingOutput(z_h, spent=spent)

    @property
    def applications(self) -> int:
        """Blocks that a token goes through in a segment, one counted every time."""
        low, high = len(self._module(True)), len(self._module(False))
        return sum(low if update.low else high for update in self.updates)

    def _segment(
        self,
        z_h: Tensor,
        z_l: Tensor,
        e_bsd: Tensor,
        context: BlockContext,
        kept: list[Kept],
        active_bs: Tensor,
    ) -> tuple[Tensor, Tensor, list[Kept]]:
        """All updates of one segment; gradient flows through the last ones only.

        Args:
            z_h: [B, S, D], as `z_l`.
            e_bsd: the tokens' vectors, added to what the low-level module is given.
            context: rotary tables and pattern.
            kept: keys and values of the segment before, by application.
            active_bs: tokens whose keys are new; the other results are meaningless.

        Returns:
            The new z_h and z_l, and keys and values for the next segment.
        """
        found: list[Kept] = []
        learning = torch.is_grad_enabled()
        for update in self.updates:
            with torch.set_grad_enabled(learning and update.learns):
                z = z_l + (z_h + e_bsd) if update.low else z_h + z_l
                for block in self._module(update.low):
                    place = len(found)
                    if context.cache is not None:
                        context = replace(context, recursion=place)
                    z, one = block(z, context, kept[place], active_bs)
                    found.append(one)
                if update.low:
                    z_l = z
                else:
                    z_h = z
        return z_h, z_l, found

    def _module(self, low: bool) -> nn.ModuleList:
        """The blocks of a module; in the trm variant both are one."""
        if low or self.hrm.variant == "trm":
            return self.blocks[: self.hrm.l_layers]
        return self.blocks[self.hrm.l_layers :]

    def _halted(
        self, q_halt: Tensor, q_continue: Tensor, segment: int, least: Tensor | None
    ) -> Tensor:
        """[B, S] bool: the limit is reached, or the head says so and may."""
        if segment + 1 == self.hrm.halt_max_steps:
            return torch.ones_like(q_halt, dtype=torch.bool)
        bar = q_continue if self.hrm.variant == "hrm" else 0.0
        halted = q_halt > bar
        return halted if least is None else halted & (segment + 1 >= least)

    def _least(self, valid_bs: Tensor) -> Tensor | None:
        """[B, S] fewest segments: a share of the tokens draw some, in training."""
        most = self.hrm.halt_max_steps
        if not self.training or not self.hrm.halt_exploration or most == 1:
            return None
        chosen, drawn = torch.rand(
            (2, *valid_bs.shape), device=valid_bs.device
        ).unbind()
        fewest = 2 + (drawn * (most - 1)).floor()
        return torch.where(chosen < self.hrm.halt_exploration, fewest, 0.0)

    def _first(self, name: str, like: Tensor) -> Tensor:
        """The state that every token begins with, [B, S, D]."""
        state: Tensor = getattr(self, name)
        return state.to(like.dtype).expand_as(like).contiguous()

    def _no_keys(self, e_bsd: Tensor) -> Kept:
        """Keys and values of tokens that have none yet; never seen."""
        spec = self.spec
        shape = (*e_bsd.shape[:2], spec.num_kv_heads, spec.head_dim)
        return e_bsd.new_zeros(shape), e_bsd.new_zeros(shape)

    def _context(self, batch: Batch, cache: Cache | None, masked: bool) -> BlockContext:
        """Rotary tables and the attention pattern, made once for all blocks.

        Args:
            masked: use a mask for what each token sees, so that tokens may be left out.
        """
        spec, wished = self.spec, self.attention
        inverse, factor = frequencies(
            spec.head_dim, spec.rope_theta, device=batch.input_ids.device
        )
        cos, sin = tables(batch.position_ids, inverse, factor)
        if cache is not None:
            backend = "reference" if wished == "reference" else "sdpa"
            pattern = Pattern(backend, cache.mask(batch.position_ids))
        else:
            pattern = make_pattern(
                "sdpa" if masked and wished == "varlen" else wished,
                batch.document_ids,
                batch.cu_seqlens,
                batch.max_seqlen,
                one_document_rows=batch.one_document_rows,
                window=0,
                dtype=self.compute_dtype,
            )
        return BlockContext(cos, sin, pattern, batch.document_ids >= 0, cache)


def _first_of(active_bs: Tensor, count: int) -> Tensor | None:
    """[B, count] places of the active tokens of each row, then of others; None: all."""
    if count == active_bs.shape[1]:
        return None
    order = active_bs.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return order[:, :count]
