"""The backbone: embedding, blocks, final norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.model.cache_protocol import Cache, WithPattern
from lumina.model.context import BlockContext, Tokens
from lumina.model.interface import Output
from lumina.model.kinds.kind import Kind
from lumina.model.layers import Embedding, LayerNorm, RMSNorm
from lumina.model.positions import LearnedPositions, sinusoids
from lumina.model.spec import ModelSpec
from lumina.ops.attention.dispatch import BACKENDS, Pattern, make_pattern
from lumina.ops.rotary.reference import frequencies, tables

if TYPE_CHECKING:
    from lumina.model.recursion import Recursion


Through = Callable[
    [Sequence[Any], Tensor, BlockContext],
    tuple[Tensor, list[dict[str, Tensor]], dict[str, Tensor]],
]
"""What passes all blocks: as `once`."""


class Transformer(nn.Module):
    """A decoder-only transformer without its head.

    Args:
        spec: the resolved shape.
        kinds: the kinds that the model is of.
        blocks: its blocks, in order.
        recursion: what passes tokens through the blocks, where not once through each.
        attention: an entry of `BACKENDS`.

    Attributes:
        compute_dtype: the type of activations, set where the embedding comes out; every
            later module casts its weights to it.
        capacity: share of the tokens that blocks take in training, where they choose.
        routing: see `BlockContext.routing`.
        around: changes to what passes the blocks, each to the one before it; empty
            unless a feature adds one. Blocks are compiled and sharded inside of it.
    """

    recurrent = False

    def __init__(
        self,
        spec: ModelSpec,
        kinds: Sequence[Kind],
        blocks: Sequence[nn.Module],
        recursion: Recursion | None = None,
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        if attention not in BACKENDS:
            raise LuminaError(
                "E005",
                f"unknown attention backend {attention!r}",
                f"choose one of {', '.join(BACKENDS)}",
            )
        self.spec = spec
        self.kinds = tuple(kinds)
        self.needs = frozenset[str]().union(*(kind.context for kind in kinds))
        self.attention = attention
        self.compute_dtype = torch.float32
        self.embedding = Embedding(spec.padded_vocab_size, spec.hidden_size)
        self.embedding_norm: LayerNorm | None = None
        if spec.use_stable_embedding:
            self.embedding_norm = LayerNorm(spec.hidden_size, spec.norm_eps)
        self.position_embedding: LearnedPositions | None = None
        if spec.pos_encodings == "learned":
            self.position_embedding = LearnedPositions(
                spec.seq_length, spec.hidden_size
            )
        self.blocks = nn.ModuleList(blocks)
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.recursion = recursion
        self.around: tuple[Callable[[Through], Through], ...] = ()
        self.capacity = min((kind.capacity(spec) for kind in kinds), default=1.0)
        self.routing = ""

    def forward(
        self, batch: Batch, carry: Any = None, cache: Cache | None = None
    ) -> Output:
        """Hidden states of a batch.

        Args:
            batch: what to read; with a cache, only the new tokens.
            carry: accepted for recurrent backbones; this one has none.
            cache: keys and values of earlier tokens; receives the new ones.
        """
        context = self._context(batch, cache)
        x_bsd = self._embed(batch, cache)
        through: Through = once if self.recursion is None else self.recursion.through
        for change in self.around:
            through = change(through)
        x_bsd, layers, own = through(list(self.blocks), x_bsd, context)
        return Output(self.norm(x_bsd), self._collect(layers) | own, carry)

    def _embed(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Token vectors with their positions, [B, S, D] in the compute type."""
        x_bsd: Tensor = self.embedding(batch.input_ids)
        if self.spec.scale_embeddings:
            x_bsd = x_bsd * math.sqrt(self.spec.hidden_size)
        if self.embedding_norm is not None:
            x_bsd = self.embedding_norm(x_bsd)
        if self.position_embedding is not None:
            if cache is None:  # with one, `Network.logits` has looked
                columns = batch.input_ids.shape[1]
                self.position_embedding.check(batch.position_ids, columns)
            x_bsd = x_bsd + self.position_embedding(batch.position_ids)
        elif self.spec.pos_encodings == "sinusoidal":
            x_bsd = x_bsd + sinusoids(batch.position_ids, x_bsd.shape[-1])
        return x_bsd.to(self.compute_dtype)

    def _collect(self, layers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The sums of all layers together; nothing for a dense model."""
        aux: dict[str, Tensor] = {}
        for kind in self.kinds:
            aux |= kind.collect(self.spec, layers)
        return aux

    def _context(self, batch: Batch, cache: Cache | None) -> BlockContext:
        """Rotary tables and the attention pattern, made once for all blocks."""
        spec = self.spec
        cos, sin = tables(batch.position_ids, *self.frequencies(batch.input_ids.device))
        if isinstance(cache, WithPattern):
            pattern = cache.pattern(spec.window_size, spec.beyond_window)
        elif cache is not None:
            backend = "reference" if self.attention == "reference" else "sdpa"
            pattern = Pattern(backend, cache.mask(batch.position_ids))
        else:
            pattern = make_pattern(
                self.attention,
                batch.document_ids,
                batch.cu_seqlens,
                batch.max_seqlen,
                one_document_rows=batch.one_document_rows,
                window=spec.window_size,
                dtype=self.compute_dtype,
                beyond=spec.beyond_window,
                part=batch.part,
            )
        return BlockContext(
            cos,
            sin,
            pattern,
            batch.document_ids >= 0,
            cache,
            tokens=self._tokens(batch) if "tokens" in self.needs else None,
            capacity=repr(self.capacity),
            routing=self.routing,
            starts=batch.position_ids == 0 if "starts" in self.needs else None,
        )

    def frequencies(self, device: torch.device) -> tuple[Tensor, float]:
        """What `lumina.ops.rotary.reference.tables` makes rotary tables of."""
        spec = self.spec
        inverse, factor = frequencies(
            spec.rotary_dim,
            spec.rope_theta,
            scaling=spec.rope_scaling,
            factor=spec.rope_factor,
            original_length=spec.rope_original_length,
            low_freq_factor=spec.rope_low_freq_factor,
            high_freq_factor=spec.rope_high_freq_factor,
            device=device,
        )
        if spec.pos_encodings != "rope":
            inverse = torch.zeros_like(inverse)  # nothing turns, nor in others' parts
        if spec.mla_kv_rank:
            factor = 1.0  # latent attention scales whole scores
        return inverse, factor

    def _tokens(self, batch: Batch) -> Tokens:
        """Where every token stands, for blocks that choose among them."""
        rows, length = batch.input_ids.shape
        columns = torch.arange(length, device=batch.input_ids.device)
        return Tokens(
            columns=columns.expand(rows, -1),
            positions=batch.position_ids.expand(rows, -1),
            documents=batch.document_ids,
            cu_seqlens=batch.cu_seqlens,
            length=length,
            plain=batch.one_document_rows,
            backend=self.attention,
            window=self.spec.window_size,
            dtype=self.compute_dtype,
        )


def once(
    blocks: Iterable[Callable[..., Any]], x_bsd: Tensor, context: BlockContext
) -> tuple[Tensor, list[dict[str, Tensor]], dict[str, Tensor]]:
    """Through every block, one after the other.

    Returns:
        [B, S, D]; the sums of every block; and the sums that belong to none.
    """
    layers = []
    for block in blocks:
        x_bsd, aux = block(x_bsd, context)
        layers.append(aux)
    return x_bsd, layers, {}
