"""Bytes that a forward pass keeps for its backward pass, block by block.

The terms follow the modules: what autograd saves there, value by value. Tests hold
them against what it really saved.
"""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.checkpointing import BRANCHES, EXCEPT
from lumina.plan.costs.adapters import dropped_bytes
from lumina.plan.costs.block import (
    attended_bytes,
    attention_bytes,
    feedforward_bytes,
    open_scores,
)
from lumina.plan.costs.forward import Forward, Kept
from lumina.plan.costs.table import costs_of

TILE_VALUES = 7
"""Inner values of a feed-forward and their gradients, in widths of its inside, that are
there while a tile is computed again and goes back."""

SUMS, SUMS_AT_ONCE = 8, 2**30
"""As `WORKSPACE` and `AT_ONCE` of `lumina.ops.attention.fused`, which needs torch."""


def kept_by_block(spec: ModelSpec, forward: Forward, layer: int, mode: str) -> Kept:
    """What one block keeps under a checkpointing mode."""
    costs = costs_of(spec)
    for cost in costs:
        kept = cost.kept(spec, forward, layer, mode, kept_by_block)
        if kept is not None:
            return kept
    tokens = forward.rows * spec.seq_length
    if mode in BRANCHES:
        return _other_branch(spec, forward, layer, mode)
    given = tokens * spec.hidden_size * forward.element
    if mode == "full":
        return Kept(given)
    if mode == EXCEPT:
        return Kept(given + tokens * attended_bytes(spec, forward))
    if mode == "none":
        dropped = dropped_bytes(spec, forward, layer)
        return _whole_block(spec, forward, layer, mode) + Kept(dropped)
    return _whole_block(spec, forward, layer, mode)


def _whole_block(spec: ModelSpec, forward: Forward, layer: int, mode: str) -> Kept:
    """What both branches keep, `mode` being "none" or "selective"."""
    costs = costs_of(spec)
    whole = _products if mode == "selective" else _everything
    for cost in costs:
        kept = cost.kept_by_feedforward(spec, forward, layer, mode)
        if kept is not None:
            return Kept(whole(spec, forward)) + kept
    return Kept(whole(spec, forward) + feedforward_bytes(spec, forward, mode))


def _other_branch(spec: ModelSpec, forward: Forward, layer: int, mode: str) -> Kept:
    """One branch is computed again: its input, and all that the other one keeps."""
    whole = kept_by_block(spec, forward, layer, "none")
    tokens = forward.rows * spec.seq_length
    norm = tokens * forward.norm(spec.hidden_size)
    given = tokens * spec.hidden_size * forward.element
    attention = _everything(spec, forward) - norm
    if spec.dropout > 0:  # the mask of the other branch
        attention -= given if not forward.cuda else tokens * spec.hidden_size
    if mode == "attention":
        return Kept(whole.dense - attention + given, whole.routed)
    return Kept(attention + given)


def _everything(spec: ModelSpec, forward: Forward) -> int:
    """No checkpointing: a block without its feed-forward."""
    tokens = forward.rows * spec.seq_length
    dense = tokens * attention_bytes(spec, forward)
    # In tiles the norms stand inside; the vectors that they read are kept.
    norm = forward.norm(spec.hidden_size)
    if forward.tiled(spec) and not spec.mla_kv_rank:
        norm = spec.hidden_size * forward.element
    dense += tokens * 2 * norm
    if forward.attention == "reference":
        dense += open_scores(spec, forward)
    if spec.dropout > 0:
        mask = 1 if forward.cuda else forward.element
        dense += 2 * tokens * spec.hidden_size * mask
    return dense


def _products(spec: ModelSpec, forward: Forward) -> int:
    """Selective checkpointing: a block's input, and outputs of products, attention."""
    tokens = forward.rows * spec.seq_length
    query = spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    projected = query + 2 * key
    if spec.mla_kv_rank:
        plain = spec.head_dim - spec.mla_rope_dim
        projected = spec.mla_q_rank + query + spec.mla_kv_rank + spec.mla_rope_dim
        projected += spec.num_heads * (plain + spec.mla_value_dim)
    values = spec.hidden_size + projected + query + spec.hidden_size
    dense = tokens * (values * forward.element + 4 * spec.num_heads)
    if forward.attention == "reference":
        dense += 4 * spec.num_heads * forward.rows * spec.seq_length**2
    return dense


def kept_outside(spec: ModelSpec, forward: Forward) -> int:
    """Kept beside the blocks: the final norm, rotary tables, masks, the batch."""
    tokens = forward.rows * spec.seq_length
    mask = forward.mask_bytes
    # The loss has no use for the final norm's output after its own forward pass.
    norm = forward.norm(spec.hidden_size) - spec.hidden_size * forward.element
    tables = 4 * spec.rotary_dim
    batch = 4 * 8
    # A layer norm of token vectors keeps them in float32, and two numbers of each.
    stable = 4 * spec.hidden_size + 8 if spec.use_stable_embedding else 0
    return tokens * (norm + stable + tables + batch + mask * spec.seq_length)


def working_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Gradients of activations alive at once while a block's widest layer goes back."""
    tokens, costs = forward.rows * spec.seq_length, costs_of(spec)
    # What was kept is let go as its gradient appears, so little comes on top.
    together = forward.at_once(tokens)
    wide = [cost.working_values(spec, together) for cost in costs]
    most = max([together * spec.intermediate_size, *wide])
    if together < tokens:
        most *= TILE_VALUES
    own = (most + 2 * tokens * spec.hidden_size) * forward.element
    own = max(own, _attention_workspace(spec, forward) - _gone_by_then(spec, forward))
    return max([own, *(cost.working(spec, forward) for cost in costs)])


def _gone_by_then(spec: ModelSpec, forward: Forward) -> int:
    """What a feed-forward kept, which goes back before its block's attention does.

    Only of plain dense blocks on CUDA, where this was measured.
    """
    if not forward.cuda or costs_of(spec):
        return 0
    return feedforward_bytes(spec, forward, "none")


def _attention_workspace(spec: ModelSpec, forward: Forward) -> int:
    """What goes back through attention on CUDA: gradients, and the kernel's own sums.

    The gradients of queries, keys and values, as the kernel gives them and side by side
    for their product, and that of the branch's result; the kernel's sums are bounded,
    since long rows take their heads in groups.
    """
    if not forward.cuda or forward.attention == "reference":
        return 0
    tokens = forward.rows * spec.seq_length
    query = spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    element = forward.element
    tiled = forward.tiled(spec) and not spec.mla_kv_rank
    parts = forward.groups if tiled else 1
    whole = SUMS * tokens * query // parts
    # No group has less than one head of keys.
    sums = min(whole, max(SUMS_AT_ONCE, whole * parts // spec.num_kv_heads))
    branch = tokens * spec.hidden_size * element
    if parts > 1:
        # Copies of what a group's kernel reads, what it gives, and its gradients, which
        # then take the place of what was read. Before that the way out went back.
        group = tokens * element * (2 * (query + 2 * key) + 2 * query) // parts + sums
        own = max(tokens * query * element, group) + branch
    else:
        own = sums + tokens * element * (2 * (query + 2 * key) + query) + branch
    # What the feed-forward read is counted as kept, and holds that gradient by then.
    return own - branch if tiled else own
