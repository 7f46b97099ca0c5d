"""Which tensor of a folder is which logical tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.count import latent_shapes
from lumina.state.huggingface.formats import Format

EMBEDDING, HEAD = "backbone.embedding.weight", "objective.head.weight"
HF_EMBEDDING, HF_HEAD = "model.embed_tokens.weight", "lm_head.weight"

IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Tables some old folders saved; they follow from the configuration."""

_FUSED = re.compile(r"model\.layers\.\d+\.mlp\.experts\.(gate_up|down)_proj")


@dataclass(frozen=True)
class Entry:
    """One tensor on disk.

    Attributes:
        name: in the folder.
        logical: the logical tensor it is, or is a slice of.
        shape: on disk.
        expert: its index along the logical tensor's first axis, or None for the whole.
        rows: (start, stop) of the tensor on disk that make up `logical`, along axis 1
            of a fused expert tensor; None for all.
    """

    name: str
    logical: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None


def is_fused_name(name: str) -> bool:
    """Whether a folder with this tensor holds all experts of a layer in one tensor."""
    return _FUSED.fullmatch(name) is not None


def entries(spec: ModelSpec, row: Format, *, fused: bool = False) -> Iterator[Entry]:
    """Every tensor of a folder, in file order.

    Args:
        spec: the model's shape.
        row: the format of the folder.
        fused: experts as transformers 5 holds them in memory, in one tensor per layer;
            else one tensor per expert, as all versions write and read.
    """
    vocabulary = (spec.vocab_size, spec.hidden_size)
    yield Entry(HF_EMBEDDING, EMBEDDING, vocabulary)
    for layer in range(spec.num_layers):
        yield from _norms(spec, layer)
        yield from (_latent if spec.mla_kv_rank else _attention)(spec, layer)
        if spec.moe is None or layer not in spec.moe.layers:
            yield from _dense(spec, layer)
        else:
            yield from _router(spec, spec.moe, row, layer, fused)
            if fused:
                yield from _experts_fused(spec, spec.moe, layer)
            else:
                yield from _experts(spec, spec.moe, row, layer)
    yield Entry("model.norm.weight", "backbone.norm.weight", (spec.hidden_size,))
    if not spec.tie_embeddings:
        yield Entry(HF_HEAD, HEAD, vocabulary)


def count(spec: ModelSpec, *, fused: bool = False) -> int:
    """How many distinct tensors a folder has, without listing them."""
    attention = 6 + 3 * spec.attention_bias + 2 * (spec.qk_norm != "none")
    if spec.mla_kv_rank:
        attention = 9 if spec.mla_q_rank else 7
    total = spec.num_layers * (attention + 3) + (2 if spec.tie_embeddings else 3)
    if spec.moe is not None:
        routed = 1 + (2 if fused else 3 * spec.moe.num_experts)
        biases = spec.moe.score == "sigmoid"
        routed += 3 + biases if spec.moe.shared_experts else 0
        total += len(spec.moe.layers) * (routed - 3)
    return total


def _norms(spec: ModelSpec, layer: int) -> Iterator[Entry]:
    theirs, ours = f"model.layers.{layer}", f"backbone.blocks.{layer}"
    for norm, own in (
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "feedforward_norm"),
    ):
        shape = (spec.hidden_size,)
        yield Entry(f"{theirs}.{norm}.weight", f"{ours}.{own}.weight", shape)


def _latent(spec: ModelSpec, layer: int) -> Iterator[Entry]:
    inner = f"model.layers.{layer}.self_attn"
    attention = f"backbone.blocks.{layer}.attention"
    shapes = latent_shapes(spec)
    names = {
        "q": "q_proj",
        "q_down": "q_a_proj",
        "q_latent_norm": "q_a_layernorm",
        "q_up": "q_b_proj",
        "kv_down": "kv_a_proj_with_mqa",
        "kv_latent_norm": "kv_a_layernorm",
        "kv_up": "kv_b_proj",
        "out": "o_proj",
    }
    for own, theirs in names.items():
        if shape := shapes.get(f"{own}.weight"):
            yield Entry(f"{inner}.{theirs}.weight", f"{attention}.{own}.weight", shape)


def _attention(spec: ModelSpec, layer: int) -> Iterator[Entry]:
    inner = f"model.layers.{layer}.self_attn"
    attention = f"backbone.blocks.{layer}.attention"
    d, hd = spec.hidden_size, spec.head_dim
    queries, keys = spec.num_heads * hd, spec.num_kv_heads * hd
    for letter, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield Entry(
            f"{inner}.{letter}_proj.weight", f"{attention}.{letter}.weight", (rows, d)
        )
        if spec.attention_bias:
            yield Entry(
                f"{inner}.{letter}_proj.bias", f"{attention}.{letter}.bias", (rows,)
            )
    if spec.qk_norm != "none":
        whole = spec.qk_norm == "rms_full"
        for letter, rows in (("q", queries), ("k", keys)):
            name = f"{letter}_norm.weight"
            yield Entry(
                f"{inner}.{name}", f"{attention}.{name}", (rows if whole else hd,)
            )
    yield Entry(f"{inner}.o_proj.weight", f"{attention}.out.weight", (d, queries))


def _dense(spec: ModelSpec, layer: int) -> Iterator[Entry]:
    theirs, ours = f"model.layers.{layer}.mlp", f"backbone.blocks.{layer}.feedforward"
    d, width = spec.hidden_size, spec.intermediate_size
    for part, shape in (("gate", (width, d)), ("up", (width, d)), ("down", (d, width))):
        yield Entry(f"{theirs}.{part}_proj.weight", f"{ours}.{part}.weight", shape)


def _router(
    spec: ModelSpec, moe: MoeSpec, row: Format, layer: int, fused: bool
) -> Iterator[Entry]:
    """The router, and what every token of a routed layer goes through."""
    assert row.experts is not None
    layer_name, ours = f"model.layers.{layer}", f"backbone.blocks.{layer}.feedforward"
    theirs = f"{layer_name}.{'mlp' if fused else row.experts.module}"
    d, experts, width = spec.hidden_size, moe.num_experts, moe.shared_size
    yield Entry(f"{theirs}.gate.weight", f"{ours}.router.weight", (experts, d))
    if not width:
        return
    if row.experts.bias:
        bias = f"{theirs}.gate.e_score_correction_bias"
        yield Entry(bias, f"{ours}.selection_bias", (experts,))
    for part, shape in (("gate", (width, d)), ("up", (width, d)), ("down", (d, width))):
        name = f"{theirs}.shared_experts.{part}_proj.weight"
        yield Entry(name, f"{ours}.shared.{part}.weight", shape)


def _experts(spec: ModelSpec, moe: MoeSpec, row: Format, layer: int) -> Iterator[Entry]:
    assert row.experts is not None
    theirs = f"model.layers.{layer}.{row.experts.module}"
    ours = f"backbone.blocks.{layer}.feedforward"
    d, width, experts = spec.hidden_size, moe.intermediate_size, moe.num_experts
    parts = (
        (row.experts.gate, "gate", (width, d)),
        (row.experts.down, "down", (d, width)),
        (row.experts.up, "up", (width, d)),
    )
    for matrix, part, shape in parts:
        for expert in range(experts):
            name = f"{theirs}.experts.{expert}.{matrix}.weight"
            yield Entry(name, f"{ours}.{part}", shape, expert=expert)


def _experts_fused(spec: ModelSpec, moe: MoeSpec, layer: int) -> Iterator[Entry]:
    theirs, ours = f"model.layers.{layer}.mlp", f"backbone.blocks.{layer}.feedforward"
    d, width, experts = spec.hidden_size, moe.intermediate_size, moe.num_experts
    name, shape = f"{theirs}.experts.gate_up_proj", (experts, 2 * width, d)
    yield Entry(name, f"{ours}.gate", shape, rows=(0, width))
    yield Entry(name, f"{ours}.up", shape, rows=(width, 2 * width))
    yield Entry(f"{theirs}.experts.down_proj", f"{ours}.down", (experts, d, width))
