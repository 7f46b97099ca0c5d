"""What the blocks of one forward pass share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.model.cache_protocol import Cache, LayerCache
from lumina.ops.attention.dispatch import Pattern


@dataclass(frozen=True)
class Tokens:
    """The tokens a block sees, by where they stand in the whole row.

    Attributes:
        columns: [B, n] int64, places in the row of `length` (of this forward pass).
        positions: [B, n] int64, positions in their documents.
        documents: [B, n] int64, -1 for padding and for places not taken.
        cu_seqlens: [N + 1] int32, document starts in the whole rows.
        length: S, columns of a whole row.
        plain: every row is one document.
        holes: places may be empty; those stand behind all others of their row.
        backend: the attention wished for.
        window: as in `ModelSpec`.
        dtype: of keys and values.
    """

    columns: Tensor
    positions: Tensor
    documents: Tensor
    cu_seqlens: Tensor
    length: int
    plain: bool
    backend: str
    window: int
    dtype: torch.dtype
    holes: bool = False


@dataclass(frozen=True)
class BlockContext:
    """What every block of one forward pass shares.

    Attributes:
        cos: [B, S, 1, head_dim / 2] float32, as `sin`.
        pattern: which keys each query sees.
        valid: [B, S] bool, False for padding.
        cache: keys and values of earlier tokens, or None.
        tokens: where these tokens stand; only for models that choose among them.
        taken: [B, n] bool, with a cache and only some tokens: the slots in use.
        capacity: share of tokens a Mixture-of-Depths block takes now, in writing: a
            compiled block specialises on a string, but makes a changed number dynamic.
        routing: "" (training: top k; evaluation: predictor), or one of "top_k",
            "predictor", "static" for all blocks.
        recursion: how often these blocks were passed before.
        starts: [B, S] bool, the first token of a document, where recurrent state begins
            anew (and padding); only for models with registered parts.
        keep_keys: whether a block is to hand out its keys for later passes.
        kept: where its attention leaves them, keys and then values.
        keys: keys and values [B, T, K, head_dim] of the first pass, to attend to in
            place of these tokens' own.
    """

    cos: Tensor
    sin: Tensor
    pattern: Pattern
    valid: Tensor
    cache: Cache | None = None
    tokens: Tokens | None = None
    taken: Tensor | None = None
    capacity: str = ""
    routing: str = ""
    recursion: int = 0
    starts: Tensor | None = None
    keep_keys: bool = False
    kept: list[Tensor] | None = None
    keys: tuple[Tensor, Tensor] | None = None

    def mode(self, static: bool, training: bool) -> str:
        """How a router chooses tokens now: "top_k", "predictor" or "static"."""
        if self.routing:
            return self.routing
        if static:
            return "static"
        return "top_k" if training else "predictor"

    def stored(self, layer_index: int) -> tuple[LayerCache, Pattern]:
        """Where a layer keeps its keys, and which of them its queries see."""
        assert self.cache is not None
        if self.taken is None:
            return self.cache, self.pattern
        assert self.tokens is not None
        slot = (self.recursion, layer_index)
        keys, mask = self.cache.choose(slot, self.tokens.columns, self.taken)
        backend = "reference" if self.tokens.backend == "reference" else "sdpa"
        return keys, Pattern(backend, mask)
