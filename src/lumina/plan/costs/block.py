"""What the branches of a plain block keep."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.costs.forward import Forward


def attention_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Per token: projections, rotated queries and keys, the result, its statistics."""
    if spec.mla_kv_rank:
        return _latent_bytes(spec, forward)
    query = spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    if forward.tiled(spec):  # queries, keys and values as attention reads them
        return (2 * query + 2 * key) * forward.element + 4 * spec.num_heads
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


def attended_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Per token: what attention gives, and its statistics."""
    return spec.num_heads * (spec.head_dim * forward.element + 4)


def _latent_bytes(spec: ModelSpec, forward: Forward) -> int:
    """Per token: latents and their norms, queries, keys, wide values, the result."""
    heads = 4 * spec.num_heads * spec.head_dim
    if spec.mla_value_dim < spec.head_dim:
        heads += spec.num_heads * spec.mla_value_dim  # the result without its zeros
    norms = forward.norm(spec.mla_kv_rank)
    if spec.mla_q_rank:
        norms += forward.norm(spec.mla_q_rank)
    return norms + (heads + spec.mla_rope_dim) * forward.element + 4 * spec.num_heads


def open_scores(spec: ModelSpec, forward: Forward) -> int:
    """Per block of the reference backend: probabilities, float32 copies of inputs."""
    tokens = forward.rows * spec.seq_length
    return 4 * spec.num_heads * tokens * (spec.seq_length + 3 * spec.head_dim)


def feedforward_bytes(spec: ModelSpec, forward: Forward, mode: str) -> int:
    """Of a dense SwiGLU: its products, or under no checkpointing all it saves."""
    tokens = forward.rows * spec.seq_length
    if forward.at_once(tokens) < tokens:
        return 0  # its input is the norm's output, which is kept by the norm
    width = 4 * spec.intermediate_size
    if mode == "selective":
        width = 2 * spec.intermediate_size + spec.hidden_size
    return tokens * width * forward.element
