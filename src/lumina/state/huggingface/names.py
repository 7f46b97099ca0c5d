"""Which tensor of a folder is which logical tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lumina.model.spec import ModelSpec, MoeSpec
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
        yield from _attention(spec, layer)
        if spec.moe is None or layer not in spec.moe.layers:
            yield from _dense(spec, layer)
        elif fused:
            yield from _experts_fused(spec, spec.moe, layer)
        else:
            yield from _experts(spec, spec.moe, row, layer)
    yield Entry("model.norm.weight", "backbone.norm.weight", (spec.hidden_size,))
    if not spec.tie_embeddings:
        yield Entry(HF_HEAD, HEAD, vocabulary)


def count(spec: ModelSpec, *, fused: bool = False) -> int:
    """How many distinct tensors a folder has, without listing them."""
    attention = 6 + 3 * spec.attention_bias + 2 * (spec.qk_norm != "none")
    total = spec.num_layers * (attention + 3) + (2 if spec.tie_embeddings else 3)
    if spec.moe is not None:
        routed = 1 + (2 if fused else 3 * spec.moe.num_experts)
        total += len(spec.moe.layers) * (routed - 3)
    return total


def _attention(spec: ModelSpec, layer: int) -> Iterator[Entry]:
    theirs, ours = f"model.layers.{layer}", f"backbone.blocks.{layer}"
    inner, attention = f"{theirs}.self_attn", f"{ours}.attention"
    d, hd = spec.hidden_size, spec.head_dim
    queries, keys = spec.num_heads * hd, spec.num_kv_heads * hd
    yield Entry(
        f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.weight", (d,)
    )
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
    name = f"{theirs}.post_attention_layernorm.weight"
    yield Entry(name, f"{ours}.feedforward_norm.weight", (d,))


def _dense(spec: ModelSpec, layer: int) -> Iterator[Entry]:
    theirs, ours = f"model.layers.{layer}.mlp", f"backbone.blocks.{layer}.feedforward"
    d, width = spec.hidden_size, spec.intermediate_size
    for part, shape in (("gate", (width, d)), ("up", (width, d)), ("down", (d, width))):
        yield Entry(f"{theirs}.{part}_proj.weight", f"{ours}.{part}.weight", shape)


def _experts(spec: ModelSpec, moe: MoeSpec, row: Format, layer: int) -> Iterator[Entry]:
    assert row.experts is not None
    theirs = f"model.layers.{layer}.{row.experts.module}"
    ours = f"backbone.blocks.{layer}.feedforward"
    d, width, experts = spec.hidden_size, moe.intermediate_size, moe.num_experts
    yield Entry(f"{theirs}.gate.weight", f"{ours}.router.weight", (experts, d))
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
    yield Entry(f"{theirs}.gate.weight", f"{ours}.router.weight", (experts, d))
    name, shape = f"{theirs}.experts.gate_up_proj", (experts, 2 * width, d)
    yield Entry(name, f"{ours}.gate", shape, rows=(0, width))
    yield Entry(name, f"{ours}.up", shape, rows=(width, 2 * width))
    yield Entry(f"{theirs}.experts.down_proj", f"{ours}.down", (experts, d, width))
