"""The tensors of a plain transformer; kinds of model change them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lumina.model.spec import ModelSpec
from lumina.model.tensors import (
    ONES,
    ZEROS,
    Declared,
    Piece,
    Rule,
    Tensors,
    add,
    normal,
    uniform,
)


def into_residual(spec: ModelSpec) -> Rule:
    """The first value of a matrix that writes into the residual stream.

    Divided by sqrt(2 * layers), so that the stream's variance does not grow with depth
    (Radford et al., 2019).
    """
    return normal(spec.init_std / math.sqrt(2 * spec.num_layers))


def plain_transformer(spec: ModelSpec) -> Tensors:
    """Embedding, blocks, norm and head."""
    tensors: Tensors = {}
    add(tensors, *_embedding(spec))
    for layer in range(spec.num_layers):
        block = f"backbone.blocks.{layer}"
        add(tensors, norm(f"{block}.attention_norm", spec))
        attention = latent_attention if spec.mla_kv_rank else grouped_attention
        add(tensors, *attention(spec, f"{block}.attention"))
        add(tensors, norm(f"{block}.feedforward_norm", spec))
        path = f"{block}.feedforward"
        add(tensors, *feedforward(spec, path, spec.intermediate_size))
    add(tensors, norm("backbone.norm", spec))
    if not spec.tie_embeddings:
        add(tensors, head("objective.head", spec))
    return tensors


def _embedding(spec: ModelSpec) -> Iterator[Declared]:
    """The input table, and what token vectors go through before the first block."""
    width, table = spec.hidden_size, (spec.padded_vocab_size, spec.hidden_size)
    first = normal(spec.init_std)
    if spec.use_stable_embedding:
        first = uniform(math.sqrt(6 / sum(table)))  # Glorot and Bengio, 2010
    name = "backbone.embedding.weight"
    yield Declared(name, table, "embedding", ("vocab", "hidden"), first)
    if spec.use_stable_embedding:
        yield norm("backbone.embedding_norm", spec)
        name = "backbone.embedding_norm.bias"
        yield Declared(name, (width,), "bias", ("hidden",), ZEROS)
    if spec.pos_encodings == "learned":
        yield Declared(
            "backbone.position_embedding.weight",
            (spec.seq_length, width),
            "embedding",
            ("position", "hidden"),
            normal(spec.init_std),
        )


def norm(path: str, spec: ModelSpec) -> Declared:
    """The weight of a norm over the residual stream."""
    shape = (spec.hidden_size,)
    return Declared(f"{path}.weight", shape, "norm", ("hidden",), ONES)


def head(path: str, spec: ModelSpec, heads: int = 1) -> Declared:
    """A matrix of scores over the vocabulary; a token goes to one of `heads`."""
    return Declared(
        f"{path}.weight",
        (spec.padded_vocab_size, spec.hidden_size),
        "head",
        ("vocab", "hidden"),
        normal(spec.init_std),
        used=(1, heads),
    )


def matrix(
    name: str, shape: tuple[int, int], axes: tuple[str, str], first: Rule
) -> Declared:
    """A matrix [outputs, inputs]."""
    return Declared(name, shape, "matrix", axes, first)


def grouped_attention(spec: ModelSpec, path: str) -> Iterator[Declared]:
    """Attention with queries, keys and values in one matrix."""
    width, head_dim = spec.hidden_size, spec.head_dim
    queries, keys = spec.num_heads * head_dim, spec.num_kv_heads * head_dim
    rows = (("q", queries, "query"), ("k", keys, "key_value"), ("v", keys, "key_value"))
    shape = (queries + 2 * keys, width)
    for leaf, role, first in (
        ("weight", "matrix", normal(spec.init_std)),
        ("bias", "bias", ZEROS),
    ):
        if leaf == "bias" and not spec.attention_bias:
            continue
        dimensions = 2 if leaf == "weight" else 1
        yield Declared(
            f"{path}.qkv.{leaf}",
            shape[:dimensions],
            role,
            ("query_key_value", "hidden")[:dimensions],
            first,
            pieces=tuple(Piece(f"{path}.{n}.{leaf}", s, a) for n, s, a in rows),
        )
    axes = ("hidden", "query")
    yield matrix(f"{path}.out.weight", (width, queries), axes, into_residual(spec))
    if spec.qk_norm == "none":
        return
    sizes, axes = {
        "rms": ((head_dim, head_dim), ("head_dim", "head_dim")),
        "rms_full": ((queries, keys), ("query", "key_value")),
        "l2": ((spec.num_heads, spec.num_kv_heads), ("heads", "kv_heads")),
    }[spec.qk_norm]
    for name, size, axis in zip(("q_norm", "k_norm"), sizes, axes, strict=True):
        yield Declared(f"{path}.{name}.weight", (size,), "norm", (axis,), ONES)


def latent_attention(spec: ModelSpec, path: str) -> Iterator[Declared]:
    """Attention with keys and values from a narrow latent."""
    width, rank, heads = spec.hidden_size, spec.mla_kv_rank, spec.num_heads
    query, plain = heads * spec.head_dim, spec.head_dim - spec.mla_rope_dim
    first = normal(spec.init_std)

    def latent_norm(name: str, size: int, axis: str) -> Declared:
        return Declared(f"{path}.{name}.weight", (size,), "norm", (axis,), ONES)

    if spec.mla_q_rank:
        down, up = (spec.mla_q_rank, width), (query, spec.mla_q_rank)
        yield matrix(f"{path}.q_down.weight", down, ("query_rank", "hidden"), first)
        yield latent_norm("q_latent_norm", spec.mla_q_rank, "query_rank")
        yield matrix(f"{path}.q_up.weight", up, ("query", "query_rank"), first)
    else:
        shape = (query, width)
        yield matrix(f"{path}.q.weight", shape, ("query", "hidden"), first)
    shape = (rank + spec.mla_rope_dim, width)
    yield matrix(f"{path}.kv_down.weight", shape, ("latent", "hidden"), first)
    yield latent_norm("kv_latent_norm", rank, "key_value_rank")
    shape = (heads * (plain + spec.mla_value_dim), rank)
    yield matrix(f"{path}.kv_up.weight", shape, ("key_value", "key_value_rank"), first)
    shape, first = (width, heads * spec.mla_value_dim), into_residual(spec)
    yield matrix(f"{path}.out.weight", shape, ("hidden", "value"), first)


def feedforward(spec: ModelSpec, path: str, inner: int) -> Iterator[Declared]:
    """A SwiGLU layer with gate and up in one matrix; `inner` is its width."""
    width = spec.hidden_size
    yield Declared(
        f"{path}.gate_up.weight",
        (2 * inner, width),
        "matrix",
        ("gate_up", "hidden"),
        normal(spec.init_std),
        pieces=(
            Piece(f"{path}.gate.weight", inner, "ffn"),
            Piece(f"{path}.up.weight", inner, "ffn"),
        ),
    )
    name, axes = f"{path}.down.weight", ("hidden", "ffn")
    yield matrix(name, (width, inner), axes, into_residual(spec))
