"""The families of transformers that Lumina reads and writes, as a table.

A row says what a family fixes and what it leaves open. Everything else must be as a
plain model has it: a setting this table does not know is refused, not dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, MoeSpec

_OPEN = {
    "vocab_size", "padded_vocab_size", "hidden_size", "num_layers", "num_heads",
    "num_kv_heads", "head_dim", "intermediate_size", "seq_length", "context",
    "norm_eps", "rope_theta", "rope_scaling", "rope_factor", "rope_original_length",
    "rope_low_freq_factor", "rope_high_freq_factor", "tie_embeddings",
    # Only training reads these.
    "dropout", "init_std",
}  # fmt: skip
"""Fields of a shape that every family leaves open."""

_OPEN_ROUTED = {
    "num_experts", "top_k", "intermediate_size",
    # Only training reads these; a bias they left behind is looked at by its value.
    "overflow",
    "dispatch", "capacity_factor", "balance_weight", "balance_scope", "z_loss_weight",
    "bias_update_rate", "jitter", "expert_dropout", "trained",
    "router_init", "router_init_std", "skip_unused",
    "names",
}  # fmt: skip
"""The same of routed layers."""


@dataclass(frozen=True)
class Experts:
    """The routed layers of a family.

    Attributes:
        module: what holds them within a layer.
        gate, up, down: the matrices of one expert.
        fixed: values of `MoeSpec` that the family prescribes.
        free: fields of `MoeSpec` that its configuration can say.
        layers: which layers may be routed: "all", "any", or "all later", all but
            this many first ones.
        bias: whether a selection bias is among the tensors.
    """

    module: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    layers: str = "all"
    bias: bool = False


@dataclass(frozen=True)
class Format:
    """One family.

    Attributes:
        name: its `model_type`.
        architecture: the class that loads it.
        title: its name in sentences.
        experts: its routed layers; None for a dense family.
        fixed: values of `ModelSpec` that it prescribes.
        free: fields of `ModelSpec` that its configuration can say.
        heads: "any" width of a head; "divide": the number of heads divides the hidden
            size; "fill": the heads together are as wide as the model.
        constants: keys of its configuration that Lumina always writes alike, and
            without which a folder cannot be read.
        absent: what a key means that a configuration leaves out.
    """

    name: str
    architecture: str
    title: str
    experts: Experts | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    heads: str = "any"
    constants: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, Any] = field(default_factory=dict)


_WINDOW = frozenset({"window_size"})
_QWEN = {"use_sliding_window": False, "sliding_window": 4096}
_ROUTED = frozenset({"normalise_top_k"})
_LATENT = frozenset({"mla_kv_rank", "mla_q_rank", "mla_rope_dim", "mla_value_dim"})

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "llama",
            "LlamaForCausalLM",
            "Llama",
            heads="divide",
            constants={"attention_bias": False, "mlp_bias": False},
        ),
        Format(
            "mistral",
            "MistralForCausalLM",
            "Mistral",
            free=_WINDOW,
            absent={"sliding_window": 4096, "num_key_value_heads": 8},
        ),
        Format(
            "qwen2",
            "Qwen2ForCausalLM",
            "Qwen2",
            fixed={"attention_bias": True},
            free=_WINDOW,
            heads="fill",
            absent=_QWEN | {"num_key_value_heads": 32, "max_window_layers": 28},
        ),
        Format(
            "qwen3",
            "Qwen3ForCausalLM",
            "Qwen3",
            fixed={"qk_norm": "rms"},
            free=_WINDOW,
            constants={"attention_bias": False},
            absent=_QWEN
            | {"num_key_value_heads": 32, "max_window_layers": 28, "head_dim": 128},
        ),
        Format(
            "mixtral",
            "MixtralForCausalLM",
            "Mixtral",
            experts=Experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
            free=_WINDOW,
            absent={"rope_theta": 1e6, "num_key_value_heads": 8},
        ),
        Format(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            "Qwen3-MoE",
            experts=Experts(free=_ROUTED, layers="any"),
            fixed={"qk_norm": "rms"},
            free=_WINDOW,
            constants={"attention_bias": False},
            absent=_QWEN | {"num_key_value_heads": 4},
        ),
        Format(
            "olmoe",
            "OlmoeForCausalLM",
            "OLMoE",
            experts=Experts(free=_ROUTED),
            fixed={"qk_norm": "rms_full"},
            heads="fill",
            constants={"attention_bias": False, "clip_qkv": None},
        ),
        Format(
            "deepseek_v2",
            "DeepseekV2ForCausalLM",
            "DeepSeek-V2",
            experts=Experts(
                fixed={"score": "softmax", "normalise_top_k": False},
                free=frozenset(
                    {"score_scale", "shared_experts", "groups", "top_groups"}
                ),
                layers="all later",
            ),
            free=_LATENT,
            heads="divide",
            constants={
                "attention_bias": False,
                "mlp_bias": False,
                "norm_topk_prob": False,
                "scoring_func": "softmax",
                "moe_layer_freq": 1,
            },
            absent={
                "first_k_dense_replace": 0,
                "n_routed_experts": 64,
                "n_shared_experts": 2,
                "routed_scaling_factor": 1.0,
                "norm_topk_prob": False,
                "topk_method": "greedy",
                "q_lora_rank": 1536,
            },
        ),
        Format(
            "deepseek_v3",
            "DeepseekV3ForCausalLM",
            "DeepSeek-V3",
            experts=Experts(
                fixed={"score": "sigmoid"},
                free=_ROUTED
                | {"score_scale", "shared_experts", "groups", "top_groups"},
                layers="all later",
                bias=True,
            ),
            free=_LATENT,
            constants={
                "attention_bias": False,
                # What transformers 4 and other readers need.
                "scoring_func": "sigmoid",
                "topk_method": "noaux_tc",
                "moe_layer_freq": 1,
            },
            absent={
                "rope_interleave": True,
                "n_group": 8,
                "topk_group": 4,
                "first_k_dense_replace": 3,
                "n_shared_experts": 1,
                "routed_scaling_factor": 2.5,
                "norm_topk_prob": True,
                "q_lora_rank": 1536,
            },
        ),
    )
}
"""By `model_type`; of several that hold a model, the first is taken."""

_LEAVES = {"layers": "moe_pattern", "temperature": "routing_temperature"}
"""What users call a field of `MoeSpec`, where it is not `moe_` and its name."""


def choose(spec: ModelSpec, name: str | None = None) -> Format:
    """The format that holds a shape: the one named, or the first that does.

    Raises:
        LuminaError: E005 for an unknown name; E002 naming the setting that the format,
            or the one that comes closest, has no place for.
    """
    if name is not None and name not in FORMATS:
        raise LuminaError(
            "E005", f"unknown format {name!r}", f"choose one of {', '.join(FORMATS)}"
        )
    if spec.parts is not None:
        kind, part = next(iter(spec.parts.used()))
        raise LuminaError(
            "E002",
            f"the model has the {kind} {part!r}, which no Hugging Face format knows",
            "keep it as the run it is: lumina.load and `lumina generate` read it, with "
            f"--plugins {' '.join(spec.parts.plugins) or 'FILE'}",
        )
    rows = list(FORMATS.values()) if name is None else [FORMATS[name]]
    problems = [(row, misfits(spec, row)) for row in rows]
    for row, found in problems:
        if not found:
            return row
    row, found = min(problems, key=lambda one: (_other_kind(spec, one[0]), len(one[1])))
    fitting = [] if name is None else [n for n, f in FORMATS.items() if fits(spec, f)]
    hint = (
        f"--format {fitting[0]} holds it" if fitting else "no format holds this model"
    )
    raise LuminaError(
        "E002",
        f"the {row.title} format {found[0]}",
        f"{hint}; there are {', '.join(FORMATS)}",
    )


def _other_kind(spec: ModelSpec, row: Format) -> bool:
    """Whether one is dense and the other routed."""
    return (spec.moe is None) != (row.experts is None)


def fits(spec: ModelSpec, row: Format) -> bool:
    """Whether a format holds a shape."""
    return not misfits(spec, row)


def misfits(spec: ModelSpec, row: Format) -> list[str]:
    """What a format cannot hold of a shape, each to go after "the ... format"."""
    found = _fields(spec, row.fixed, _OPEN | row.free | {"moe"}, {})
    width = spec.num_heads * spec.head_dim
    if row.heads == "divide" and spec.hidden_size % spec.num_heads:
        found.append(
            f"wants hidden_size ({spec.hidden_size}) to be a multiple of num_heads "
            f"({spec.num_heads})"
        )
    if row.heads == "fill" and spec.hidden_size != width:
        found.append(
            f"wants head_dim ({spec.head_dim}) to be hidden_size ({spec.hidden_size}) "
            f"over num_heads ({spec.num_heads})"
        )
    if "mla_kv_rank" in row.free and not spec.mla_kv_rank:
        found.append("has latent attention; this model has none (mla_kv_rank)")
    moe, experts = spec.moe, row.experts
    if moe is None and experts is not None:
        found.append("has routed experts; this model has none (use_moe)")
    if experts is None and moe is not None:
        found.append("has no routed experts (use_moe)")
    if experts is None or moe is None:
        return found
    first = 0 if experts.layers == "all" else moe.layers[0]
    if experts.layers != "any" and moe.layers != tuple(range(first, spec.num_layers)):
        found.append(
            f"has experts in {experts.layers} layers; here moe_pattern gives them to "
            f"{len(moe.layers)} of {spec.num_layers}"
        )
    if "shared_experts" in experts.free and not moe.shared_experts:
        found.append("has shared experts; this model has none (moe_shared_experts)")
    names = {f.name: _LEAVES.get(f.name, f"moe_{f.name}") for f in fields(MoeSpec)}
    known = _OPEN_ROUTED | experts.free | {"layers"}
    return found + _fields(moe, experts.fixed, known, names)


def _fields(
    part: Any, fixed: Mapping[str, Any], known: set[str], names: Mapping[str, str]
) -> list[str]:
    """Fields that are neither open, nor as prescribed, nor at their default."""
    found = []
    for one in fields(part):
        value = getattr(part, one.name)
        name = names.get(one.name, one.name)
        if one.name in known:
            continue
        if one.name in fixed:
            if value != fixed[one.name]:
                found.append(f"means {name}={fixed[one.name]}; here it is {value}")
        elif value != one.default:
            said = name if is_dataclass(value) else f"{name}={value}"
            found.append(f"has no place for {said}")
    return found
