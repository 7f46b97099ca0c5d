"""Bytes of the keys and values that generation keeps of the tokens it has seen."""

from __future__ import annotations

import torch

from lumina.model.spec import ModelSpec
from lumina.ops.kv_formats.table import FORMATS, SAME, find_format
from lumina.plan.costs.table import costs_of
from lumina.quantities import byte_size


def vectors(spec: ModelSpec) -> tuple[int, int, int]:
    """What a layer keeps of a token: (heads, width of a key, width of a value).

    Latent attention keeps its latent for keys, and the shared rotated key for values.
    """
    if spec.mla_kv_rank:
        return 1, spec.mla_kv_rank, spec.mla_rope_dim
    return spec.num_kv_heads, spec.head_dim, spec.head_dim


def cached_layers(spec: ModelSpec) -> int:
    """Keys and values that a token leaves, at most; fewer where depths are chosen."""
    known = (cost.cached_layers(spec) for cost in costs_of(spec))
    # Kinds either take layers away (registered parts) or pass through them again.
    counts = [spec.num_layers, *known]
    return min(counts) if min(counts) < spec.num_layers else max(counts)


def token_bytes(spec: ModelSpec, format: str, dtype: torch.dtype) -> int:
    """Bytes that one token of one row takes, at most.

    Args:
        spec: the shape.
        format: how vectors are stored, as `--kv-cache-dtype` names it.
        dtype: in which the model computes.
    """
    heads, key, value = vectors(spec)
    found = find_format(format)
    a_layer = found.bytes_of(key, dtype) + found.bytes_of(value, dtype)
    return cached_layers(spec) * heads * a_layer


def kept_tokens(spec: ModelSpec, tokens: int) -> int:
    """Tokens that a cache has room for, of a row of so many; a window fixes it."""
    beyond = spec.beyond_window
    if beyond.dilation or not spec.window_size:
        return tokens
    # One place more takes the tokens that are no sinks.
    return spec.window_size + (beyond.sinks + 1 if beyond.sinks else 0)


def lines(spec: ModelSpec, dtype: torch.dtype) -> list[str]:
    """The cache of a row as long as the model reads, in each format.

    Args:
        spec: the shape; of a model that writes texts.
        dtype: in which the model computes.
    """
    tokens = kept_tokens(spec, spec.context_length)
    names = [SAME, *(name for name in FORMATS.known() if name != SAME)]
    sizes = {name: tokens * token_bytes(spec, name, dtype) for name in names}
    kind = str(dtype).removeprefix("torch.")
    shown = {SAME: kind} | {name: name for name in names if name != SAME}
    return [
        f"{shown[name]:<22}{byte_size(size):>20}"
        + (f"  a row of {tokens:,} tokens" if name == SAME else "")
        for name, size in sizes.items()
        if name == SAME or size < sizes[SAME]
    ]
