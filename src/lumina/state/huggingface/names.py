"""Which tensor of a folder is which logical tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lumina.model.declared import logical_shapes
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.model.tensors import Shape
from lumina.state.huggingface.formats import Format

EMBEDDING, HEAD = "backbone.embedding.weight", "objective.head.weight"
HEAD_BIAS = "objective.head.bias"
HF_EMBEDDING, HF_HEAD = "model.embed_tokens.weight", "lm_head.weight"

IGNORED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    r"|(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"
)
"""Tables some old folders saved; they follow from the configuration. GPT-2's are masks
(the bias of its products is `c_attn.bias`)."""

BLOCK = {
    "attention_norm": "input_layernorm",
    "feedforward_norm": "post_attention_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.q_down": "self_attn.q_a_proj",
    "attention.q_latent_norm": "self_attn.q_a_layernorm",
    "attention.q_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_latent_norm": "self_attn.kv_a_layernorm",
    "attention.kv_up": "self_attn.kv_b_proj",
    "attention.out": "self_attn.o_proj",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
}
"""Modules and matrices of a block -> their names in a layer of a folder, in order."""

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
            of a fused expert tensor and the outputs of others; None for all.
        transposed: on disk it is [inputs, outputs].
    """

    name: str
    logical: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None
    transposed: bool = False


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
    shapes = logical_shapes(spec)
    vocabulary = (spec.vocab_size, spec.hidden_size)
    yield Entry(HF_EMBEDDING, EMBEDDING, vocabulary)
    for layer in range(spec.num_layers):
        yield from _named(shapes, layer, BLOCK)
        if spec.moe is not None and layer in spec.moe.layers:
            yield from _router(spec, spec.moe, row, shapes, layer, fused)
            if fused:
                yield from _experts_fused(shapes, layer)
            else:
                yield from _experts(spec.moe, row, shapes, layer)
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


def _named(
    shapes: Mapping[str, Shape], layer: int, names: Mapping[str, str]
) -> Iterator[Entry]:
    """The tensors of a block that a folder only calls something else.

    Args:
        shapes: of all logical tensors.
        layer: the block's number.
        names: name of a module or matrix in a block -> its name in a folder's layer.
    """
    for own, theirs in names.items():
        for leaf in ("weight", "bias"):
            logical = f"backbone.blocks.{layer}.{own}.{leaf}"
            if shape := shapes.get(logical):
                yield Entry(f"model.layers.{layer}.{theirs}.{leaf}", logical, shape)


def _router(
    spec: ModelSpec,
    moe: MoeSpec,
    row: Format,
    shapes: Mapping[str, Shape],
    layer: int,
    fused: bool,
) -> Iterator[Entry]:
    """The router, and what every token of a routed layer goes through."""
    assert row.experts is not None
    module = "mlp" if fused else row.experts.module
    yield from _named(shapes, layer, {"feedforward.router": f"{module}.gate"})
    if not moe.shared_size:
        return
    if row.experts.bias:
        yield Entry(
            f"model.layers.{layer}.{module}.gate.e_score_correction_bias",
            f"backbone.blocks.{layer}.feedforward.selection_bias",
            (moe.num_experts,),
        )
    shared = {
        f"feedforward.shared.{part}": f"{module}.shared_experts.{part}_proj"
        for part in ("gate", "up", "down")
    }
    yield from _named(shapes, layer, shared)


def _experts(
    moe: MoeSpec, row: Format, shapes: Mapping[str, Shape], layer: int
) -> Iterator[Entry]:
    assert row.experts is not None
    theirs = f"model.layers.{layer}.{row.experts.module}"
    ours = f"backbone.blocks.{layer}.feedforward"
    for matrix, part in (
        (row.experts.gate, "gate"),
        (row.experts.down, "down"),
        (row.experts.up, "up"),
    ):
        shape = shapes[f"{ours}.{part}"][1:]
        for expert in range(moe.num_experts):
            name = f"{theirs}.experts.{expert}.{matrix}.weight"
            yield Entry(name, f"{ours}.{part}", shape, expert=expert)


def _experts_fused(shapes: Mapping[str, Shape], layer: int) -> Iterator[Entry]:
    theirs, ours = f"model.layers.{layer}.mlp", f"backbone.blocks.{layer}.feedforward"
    experts, width, d = shapes[f"{ours}.gate"]
    name, shape = f"{theirs}.experts.gate_up_proj", (experts, 2 * width, d)
    yield Entry(name, f"{ours}.gate", shape, rows=(0, width))
    yield Entry(name, f"{ours}.up", shape, rows=(width, 2 * width))
    down = f"{ours}.down"
    yield Entry(f"{theirs}.experts.down_proj", down, shapes[down])
