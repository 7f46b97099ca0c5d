"""Exact parameter counts by formula, without building a model or importing torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lumina.model.spec import ModelSpec

POSITIONS = "backbone.position_embedding.weight"
"""The table of one vector for each position of a row."""

PUZZLE_VECTORS = "backbone.puzzle_embedding.weight"
"""The table of one vector for each puzzle identifier."""


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters (padding rows of the vocabulary included).

    Attributes:
        total: all stored parameters; a tied head is stored once.
        active: parameters one token uses: all but the experts it does not go to, and
            the heads of other tasks.
        embedding: rows of the input tables: tokens, learned positions, puzzles.
        head: parameters of all output heads, 0 when tied to the embedding.
        experts: parameters of all routed experts (without routers).
        active_experts: parameters of the experts one token goes to.
        router: parameters of the routers.
        attention: attention projections and their norms.
        feedforward: dense feed-forward layers.
        norms: the blocks' norms and the final one.
        active_non_embedding: what multiplies a token: `active` without the input
            table, but with the head, tied or not.
    """

    total: int
    active: int
    embedding: int
    head: int
    experts: int
    active_experts: int
    router: int
    attention: int
    feedforward: int
    norms: int
    active_non_embedding: int

    @property
    def expert_share(self) -> float:
        """Experts' share of all parameters (whole model)."""
        return self.experts / self.total

    @property
    def active_expert_share(self) -> float:
        """Share of the experts' parameters that one token uses (experts only)."""
        return self.active_experts / self.experts if self.experts else 0.0


def parameter_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every parameter of the built network by name, with its shape.

    Of a model with registered parts it is really built, without values.
    """
    if spec.parts is not None:
        from lumina.plan.parts import built_shapes

        return built_shapes(spec)
    if spec.hrm is not None:
        return _reasoner_shapes(spec)
    width = spec.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.embedding.weight": (spec.padded_vocab_size, width)
    }
    shapes |= _embedding_shapes(spec)
    for layer in range(spec.num_layers):
        shapes |= {
            f"backbone.blocks.{layer}.{name}": shape
            for name, shape in block_shapes(spec, is_routed(spec, layer)).items()
        }
        shapes |= {
            f"backbone.blocks.{layer}.depth.{name}": shape
            for name, shape in depth_shapes(spec, layer).items()
        }
    if spec.mor is not None and spec.mor.recursions > 1:
        shapes["backbone.recursion.router.weight"] = (spec.mor.routers, width)
    shapes["backbone.norm.weight"] = (width,)
    heads = (
        ["head"]
        if spec.tasks is None
        else [f"heads.{i}" for i in range(len(spec.tasks.names))]
    )
    if not spec.tie_embeddings:
        for head in heads:
            shapes[f"objective.{head}.weight"] = (spec.padded_vocab_size, width)
    return shapes


def _embedding_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """What token vectors go through before the first block."""
    width = spec.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.use_stable_embedding:
        norm = "backbone.embedding_norm"
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    if spec.pos_encodings == "learned":
        shapes[POSITIONS] = (spec.seq_length, width)
    return shapes


def _reasoner_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """A reasoner: its blocks' norms have no weights."""
    assert spec.hrm is not None
    width = spec.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.embedding.weight": (spec.padded_vocab_size, width)
    }
    if spec.solves_puzzles:
        shapes["backbone.puzzle_embedding.weight"] = (spec.hrm.num_puzzles, width)
    for layer in range(spec.num_layers):
        shapes |= {
            f"backbone.blocks.{layer}.{name}": shape
            for name, shape in block_shapes(spec, routed=False).items()
            if not name.endswith("norm.weight")
        }
    shapes["backbone.halting.weight"] = (2, width)
    shapes["backbone.halting.bias"] = (2,)
    if not spec.tie_embeddings:
        shapes["objective.head.weight"] = (spec.padded_vocab_size, width)
    return shapes


def block_shapes(spec: ModelSpec, routed: bool) -> dict[str, tuple[int, ...]]:
    """The parameters of one block, named within it."""
    width = spec.hidden_size
    attention = latent_shapes(spec) if spec.mla_kv_rank else _attention_shapes(spec)
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm.weight": (width,),
        "feedforward_norm.weight": (width,),
        **{f"attention.{name}": shape for name, shape in attention.items()},
    }
    if routed and spec.moe is not None:
        experts, inner = spec.moe.num_experts, spec.moe.intermediate_size
        shapes["feedforward.router.weight"] = (experts, width)
        shapes["feedforward.gate_up"] = (experts, 2 * inner, width)
        shapes["feedforward.down"] = (experts, width, inner)
        if shared := spec.moe.shared_size:
            shapes["feedforward.shared.gate_up.weight"] = (2 * shared, width)
            shapes["feedforward.shared.down.weight"] = (width, shared)
    else:
        shapes["feedforward.gate_up.weight"] = (2 * spec.intermediate_size, width)
        shapes["feedforward.down.weight"] = (width, spec.intermediate_size)
    return shapes


def _attention_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Grouped-query attention."""
    width, head_dim = spec.hidden_size, spec.head_dim
    attended = spec.num_heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "qkv.weight": (attended + 2 * spec.num_kv_heads * head_dim, width),
        "out.weight": (width, attended),
    }
    if spec.attention_bias:
        shapes["qkv.bias"] = shapes["qkv.weight"][:1]
    if spec.qk_norm != "none":
        query, key = {
            "rms": (head_dim, head_dim),
            "rms_full": (attended, spec.num_kv_heads * head_dim),
            "l2": (spec.num_heads, spec.num_kv_heads),
        }[spec.qk_norm]
        shapes["q_norm.weight"], shapes["k_norm.weight"] = (query,), (key,)
    return shapes


def latent_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Latent attention's parameters, named within it."""
    width, rank, heads = spec.hidden_size, spec.mla_kv_rank, spec.num_heads
    query, plain = heads * spec.head_dim, spec.head_dim - spec.mla_rope_dim
    shapes: dict[str, tuple[int, ...]] = {
        "kv_down.weight": (rank + spec.mla_rope_dim, width),
        "kv_latent_norm.weight": (rank,),
        "kv_up.weight": (heads * (plain + spec.mla_value_dim), rank),
        "out.weight": (width, heads * spec.mla_value_dim),
    }
    if not spec.mla_q_rank:
        return shapes | {"q.weight": (query, width)}
    return shapes | {
        "q_down.weight": (spec.mla_q_rank, width),
        "q_latent_norm.weight": (spec.mla_q_rank,),
        "q_up.weight": (query, spec.mla_q_rank),
    }


def depth_shapes(spec: ModelSpec, layer: int) -> dict[str, tuple[int, ...]]:
    """The parameters that decide which tokens go through a block."""
    mod = spec.mod
    if mod is None or layer not in mod.layers or not mod.learned:
        return {}
    shapes: dict[str, tuple[int, ...]] = {"router.weight": (1, spec.hidden_size)}
    if mod.predicted:
        shapes |= {"predictor.weight": (1, spec.hidden_size), "predictor.bias": (1,)}
    return shapes


def is_routed(spec: ModelSpec, layer: int) -> bool:
    """Whether block `layer` routes its tokens to experts."""
    return spec.moe is not None and layer in spec.moe.layers


def count_parameters(spec: ModelSpec) -> Counts:
    """Count by kind; equal to the built model's own count."""
    kinds = dict.fromkeys(
        ("embedding", "head", "experts", "router", "attention", "feedforward", "norms"),
        0,
    )
    for name, shape in parameter_shapes(spec).items():
        kinds[_kind(name)] += math.prod(shape)
    total = sum(kinds.values())
    active_experts = 0
    if spec.moe is not None:
        active_experts = kinds["experts"] * spec.moe.top_k // spec.moe.num_experts
    active = total - kinds["experts"] + active_experts
    if spec.tasks is not None:  # a token goes to the head of its task
        active -= kinds["head"] - kinds["head"] // len(spec.tasks.names)
    table = spec.padded_vocab_size * spec.hidden_size
    used_as_head = table if spec.tie_embeddings else 0
    return Counts(
        total=total,
        active=active,
        active_experts=active_experts,
        active_non_embedding=active - kinds["embedding"] + used_as_head,
        **kinds,
    )


def count_trainable(spec: ModelSpec, freeze: Sequence[str]) -> int:
    """Parameters of which no tensor matches a pattern of `freeze`.

    The vectors of puzzles are left out: there is nothing beside them.

    A pattern is a glob over the names in files (where fused matrices are separate),
    matched on the whole name or without its first part.
    """
    return sum(
        size for name, _, size in trainable(spec, freeze) if name != PUZZLE_VECTORS
    )


def trainable(
    spec: ModelSpec, freeze: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Parameters of which no tensor matches a pattern of `freeze`.

    Returns:
        Its name, the names of the tensors that it is stored as, and its size.
    """
    built: dict[str, tuple[str, ...]] = {}
    if spec.parts is not None:
        from lumina.plan.parts import names_in_files

        built = names_in_files(spec)
    for name, shape in parameter_shapes(spec).items():
        stored = built.get(name) or _names_in_files(name)
        if not any(
            fnmatchcase(logical, pattern)
            or fnmatchcase(logical.split(".", 1)[-1], pattern)
            for logical in stored
            for pattern in freeze
        ):
            yield name, stored, math.prod(shape)


def count_vectors(spec: ModelSpec) -> int:
    """Parameters in the vectors of puzzles."""
    return math.prod(parameter_shapes(spec).get(PUZZLE_VECTORS, (0,)))


def _names_in_files(name: str) -> tuple[str, ...]:
    """The tensors a fused parameter is stored as."""
    for fused, pieces in (("qkv", ("q", "k", "v")), ("gate_up", ("gate", "up"))):
        head, found, tail = name.partition(f".{fused}")
        if found:
            return tuple(f"{head}.{piece}{tail}" for piece in pieces)
    return (name,)


def _kind(name: str) -> str:
    """The field of `Counts` a parameter belongs to."""
    if name in ("backbone.embedding.weight", POSITIONS, PUZZLE_VECTORS):
        return "embedding"
    if name.startswith("objective.head"):
        return "head"
    if name.endswith("feedforward.router.weight"):
        return "router"
    if any(part in name for part in (".halting.", ".depth.", ".recursion.")):
        return "router"
    if name.endswith(("feedforward.gate_up", "feedforward.down")):
        return "experts"
    if ".attention." in name:
        return "attention"
    return "feedforward" if ".feedforward." in name else "norms"
