"""Bytes that a forward pass keeps for its backward pass, block by block.

The terms follow the modules: what autograd saves there, value by value. Tests hold
them against what it really saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lumina.model.spec import ModelSpec, ModSpec, MoeSpec
from lumina.plan.count import is_routed
from lumina.plan.flops import recursion_shares
from lumina.plan.parts import kept_by_part, parts_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Kept:
    """Bytes of one block, or of several.

    Attributes:
        dense: everything but the experts' buffers.
        routed: the experts' buffers: rows of tokens, copied once for each choice.
    """

    dense: int = 0
    routed: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.dense + other.dense, self.routed + other.routed)

    @property
    def total(self) -> int:
        """Both."""
        return self.dense + self.routed


@dataclass(frozen=True)
class Forward:
    """One forward pass, as far as its memory depends on it.

    Attributes:
        attention: the backend; without "varlen" packed rows need masks.
        cuda: kernels are CUDA's: one normalises, keeping its input and output, where
            the CPU keeps two float32 copies; dropout keeps bits, not values.
    """

    rows: int
    compute_dtype: str = "float32"
    attention: str = "varlen"
    cuda: bool = True

    @property
    def element(self) -> int:
        """Bytes of a value in the compute type."""
        return BYTES[self.compute_dtype]

    def norm(self, width: int) -> int:
        """Bytes a norm of `width` values keeps for a token."""
        copies = self.element if self.cuda else 8
        return width * (copies + self.element) + 4


def kept_by_block(spec: ModelSpec, forward: Forward, layer: int, mode: str) -> Kept:
    """What one block keeps under a checkpointing mode."""
    tokens = forward.rows * spec.seq_length
    element = forward.element
    if spec.parts is not None and spec.parts.backbone:
        whole = kept_by_part(spec, "backbone", layer, tokens, element)
        return Kept(math.ceil(whole / spec.num_layers))
    if mode == "full":
        return Kept(tokens * spec.hidden_size * element)
    if parts_of(spec, layer):
        return _kept_with_parts(spec, forward, layer)
    if spec.mod is not None and layer in spec.mod.layers:
        return _kept_by_choice(spec, spec.mod, forward, layer, mode)
    moe = spec.moe if is_routed(spec, layer) else None
    if mode == "selective":
        return _products(spec, forward, moe, tokens)
    dense = tokens * _attention_bytes(spec, forward)
    dense += tokens * 2 * forward.norm(spec.hidden_size)
    if forward.attention == "reference":
        dense += _open_scores(spec, forward)
    if spec.dropout > 0:
        mask = 1 if forward.cuda else element
        dense += 2 * tokens * spec.hidden_size * mask
    if moe is None:
        return Kept(dense + 4 * tokens * spec.intermediate_size * element)
    rows = routed_rows(moe, tokens)
    # Gathered rows, gate and up, silu(gate), their product, what comes out.
    values = rows * (2 * spec.hidden_size + 4 * moe.intermediate_size)
    # Scores, logits and the factor on them.
    router = tokens * (12 * moe.num_experts + 40 * moe.top_k)
    router += 4 * tokens * moe.shared_size * element
    if element == 2:
        # The router keeps the norm's output in float32, and nobody in 16 bits.
        router += tokens * 2 * spec.hidden_size
    return Kept(dense + router, values * element)


def _kept_with_parts(spec: ModelSpec, forward: Forward, layer: int) -> Kept:
    """A block with registered parts, of which all is kept: what a mode saves is theirs.

    Their share is measured; it takes the place of that of Lumina's own.
    """
    tokens, element = forward.rows * spec.seq_length, forward.element
    named = parts_of(spec, layer)
    theirs = Kept(sum(kept_by_part(spec, k, layer, tokens, element) for k in named))
    if "block" in named:
        return theirs
    own = replace(spec, parts=None)
    kept = kept_by_block(own, forward, layer, "none") + theirs
    if "attention" in named:
        kept += Kept(-tokens * _attention_bytes(own, forward))
        if forward.attention == "reference":
            kept += Kept(-_open_scores(own, forward))
    if "feedforward" in named:
        kept += Kept(-4 * tokens * spec.intermediate_size * element)
    return kept


def _kept_by_choice(
    spec: ModelSpec, mod: ModSpec, forward: Forward, layer: int, mode: str
) -> Kept:
    """A block that only some tokens go through: those, and who was chosen."""
    tokens, width = forward.rows * spec.seq_length, spec.hidden_size
    every = replace(spec, mod=None)
    if mod.mode == "static":
        inner = kept_by_block(every, forward, layer, mode)
        return inner + Kept(tokens * (4 * width + 8 * width + 16))
    count = max(1, math.ceil(max(mod.ladder) * spec.seq_length))
    few = replace(every, seq_length=count)
    inner = kept_by_block(few, forward, layer, mode)
    if mod.scope == "feedforward" and mode == "none":
        # Attention sees every token; without a feed-forward only that is left.
        bare, few_bare = (
            replace(one, intermediate_size=0, moe=None) for one in (every, few)
        )
        inner += kept_by_block(bare, forward, layer, mode)
        inner += Kept(-kept_by_block(few_bare, forward, layer, mode).dense)
    elif mod.scope == "feedforward":
        inner = kept_by_block(every, forward, layer, mode)
    chosen = forward.rows * count
    # What comes back, and for a packed row who sees whom.
    mask = {"varlen": 0, "sdpa": forward.element, "reference": 1}[forward.attention]
    back = chosen * (width * forward.element + 8 * spec.head_dim + mask * count)
    router = tokens * 40 + chosen * 24
    if mod.learned:
        router += tokens * 12 * width
    return inner + Kept(back + router)


def further_passes(spec: ModelSpec, forward: Forward, mode: str) -> Kept:
    """What recursions keep beyond the first pass: fewer tokens in each."""
    kept = Kept()
    before = forward.rows * spec.seq_length
    shared = spec.mor is not None and spec.mor.kv_sharing
    if shared and mode != "none":  # recomputed blocks hand their keys out all the same
        key = spec.num_kv_heads * spec.head_dim
        if spec.mla_kv_rank:
            key = spec.num_heads * spec.head_dim
        kept += Kept(before * 2 * key * forward.element * (spec.num_layers - 2))
    for share in recursion_shares(spec):
        few = replace(spec, mor=None, seq_length=math.ceil(share * spec.seq_length))
        for layer in range(1, spec.num_layers - 1):
            kept += kept_by_block(few, forward, layer, mode)
        chosen = forward.rows * few.seq_length
        mask = {"varlen": 0, "sdpa": forward.element, "reference": 1}[forward.attention]
        # The router reads every candidate; what passed is kept beside its weight.
        router = before * (12 * spec.hidden_size + 40)
        back = chosen * (4 + 2 * forward.element) * spec.hidden_size
        keys = spec.seq_length if shared else few.seq_length
        if shared:  # no kernel without a mask reads fewer queries than keys
            mask = mask or forward.element
        back += chosen * (mask * keys + 4 * spec.head_dim + 24)
        kept += Kept(router + back)
        before = chosen
    return kept


def kept_outside(spec: ModelSpec, forward: Forward) -> int:
    """Kept beside the blocks: the final norm, rotary tables, masks, the batch."""
    tokens = forward.rows * spec.seq_length
    mask = {"varlen": 0, "sdpa": forward.element, "reference": 1}[forward.attention]
    # The loss has no use for the final norm's output after its own forward pass.
    norm = forward.norm(spec.hidden_size) - spec.hidden_size * forward.element
    tables = 4 * spec.rotary_dim
    batch = 4 * 8
    # A layer norm of token vectors keeps them in float32, and two numbers of each.
    stable = 4 * spec.hidden_size + 8 if spec.use_stable_embedding else 0
    return tokens * (norm + stable + tables + batch + mask * spec.seq_length)


def working_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Gradients of activations alive at once while a block's widest layer goes back."""
    tokens = forward.rows * spec.seq_length
    # What was kept is let go as its gradient appears, so little comes on top.
    most = tokens * spec.intermediate_size
    if spec.moe is not None:
        rows = routed_rows(spec.moe, tokens)
        routed = rows * (spec.moe.intermediate_size + spec.hidden_size)
        routed += tokens * spec.moe.shared_size
        most = max(most, routed)
    own = (most + 2 * tokens * spec.hidden_size) * forward.element
    # Of a registered part all that was kept may have its gradient beside it.
    theirs = [
        kept_by_part(spec, kind, layer, tokens, forward.element)
        for layer in range(spec.num_layers)
        for kind in parts_of(spec, layer)
    ]
    if spec.parts is not None and spec.parts.backbone:
        theirs.append(kept_by_part(spec, "backbone", 0, tokens, forward.element))
    return max([own, *theirs])


def routed_rows(moe: MoeSpec, tokens: int) -> int:
    """Rows the experts of one layer work on."""
    assigned = tokens * moe.top_k
    if moe.dispatch == "dropless":
        return assigned
    share = round(moe.capacity_factor * assigned / moe.num_experts, 6)
    return moe.num_experts * max(1, min(math.ceil(share), tokens))


def _attention_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Per token: projections, rotated queries and keys, the result, its statistics."""
    if spec.mla_kv_rank:
        return _latent_bytes(spec, forward)
    query = spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    values = (query + 2 * key) + (query + key) + query
    as_projected = spec.pos_encodings != "rope" and spec.qk_norm == "none"
    if as_projected:  # queries and keys go in as they come out of their product
        values -= query + key
    if forward.cuda and forward.attention == "sdpa" and key < query and as_projected:
        values += 2 * query
    elif forward.cuda and forward.attention == "sdpa" and key < query:
        # Under a mask keys and values are repeated; the projections are let go.
        values = (query + key) + 2 * query + query
    if spec.qk_norm == "l2":
        values += query + key
    extra = 4 * spec.num_heads
    if not forward.cuda:
        copies = {"rms": 4, "rms_full": 4, "l2": 0}.get(spec.qk_norm, 0)
        if spec.qk_norm != "none" and forward.element == 2:
            copies += 4
        extra += (query + key) * copies
    return values * forward.element + extra


def _latent_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Per token: latents and their norms, queries, keys, wide values, the result."""
    heads = 4 * spec.num_heads * spec.head_dim
    if spec.mla_value_dim < spec.head_dim:
        heads += spec.num_heads * spec.mla_value_dim  # the result without its zeros
    norms = forward.norm(spec.mla_kv_rank)
    if spec.mla_q_rank:
        norms += forward.norm(spec.mla_q_rank)
    return norms + (heads + spec.mla_rope_dim) * forward.element + 4 * spec.num_heads


def _open_scores(spec: ModelSpec, forward: Forward) -> int:
    """Per block of the reference backend: probabilities, float32 copies of inputs."""
    tokens = forward.rows * spec.seq_length
    return 4 * spec.num_heads * tokens * (spec.seq_length + 3 * spec.head_dim)


def _products(
    spec: ModelSpec, forward: Forward, moe: MoeSpec | None, tokens: int
) -> Kept:
    """Selective checkpointing: a block's input, and outputs of products, attention."""
    element = forward.element
    query = spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    projected = query + 2 * key
    if spec.mla_kv_rank:
        plain = spec.head_dim - spec.mla_rope_dim
        projected = spec.mla_q_rank + query + spec.mla_kv_rank + spec.mla_rope_dim
        projected += spec.num_heads * (plain + spec.mla_value_dim)
    values = spec.hidden_size + projected + query + spec.hidden_size
    dense = tokens * (values * element + 4 * spec.num_heads)
    if forward.attention == "reference":
        dense += 4 * spec.num_heads * forward.rows * spec.seq_length**2
    if moe is None:
        width = 2 * spec.intermediate_size + spec.hidden_size
        return Kept(dense + tokens * width * element)
    rows = routed_rows(moe, tokens)
    width = 2 * moe.intermediate_size + spec.hidden_size
    if moe.shared_size:
        dense += tokens * (2 * moe.shared_size + spec.hidden_size) * element
    return Kept(dense + tokens * 4 * moe.num_experts, rows * width * element)
