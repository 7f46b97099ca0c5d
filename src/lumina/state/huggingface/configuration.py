"""`config.json` of a folder, from a ModelSpec and back.

What a format cannot hold is refused by name: an export that computes another function
than the run would be worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.state.huggingface.formats import FORMATS, Format
from lumina.state.huggingface.numbers import count, positive
from lumina.state.huggingface.rope import rope_from, rope_of


def config_of(
    spec: ModelSpec,
    row: Format,
    dtype: str,
    bos_id: int | None,
    eos_id: int | list[int] | None,
) -> dict[str, Any]:
    """`config.json` for transformers of a shape that `row` holds."""
    config: dict[str, Any] = {
        "architectures": [row.architecture],
        "model_type": row.name,
        "dtype": dtype,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.context_length,
        "initializer_range": spec.init_std,
        "rms_norm_eps": spec.norm_eps,
        **rope_of(spec),
        "tie_word_embeddings": spec.tie_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        **row.constants,
    }
    if "window_size" in row.free:
        config |= _window_of(spec, row)
    if spec.mla_kv_rank:
        config |= {
            "kv_lora_rank": spec.mla_kv_rank,
            "q_lora_rank": spec.mla_q_rank or None,
            "qk_rope_head_dim": spec.mla_rope_dim,
            "qk_nope_head_dim": spec.head_dim - spec.mla_rope_dim,
            "v_head_dim": spec.mla_value_dim,
            "head_dim": spec.mla_rope_dim,
        }
    if spec.moe is not None:
        config |= _experts_of(spec, spec.moe, row)
    return config


def _window_of(spec: ModelSpec, row: Format) -> dict[str, Any]:
    """Qwen has a switch beside the number, and may begin it at a later layer."""
    window: dict[str, Any] = {"sliding_window": spec.window_size or None}
    if row.name.startswith("qwen"):
        window["use_sliding_window"] = bool(spec.window_size)
        window["max_window_layers"] = 0 if spec.window_size else spec.num_layers
    return window


def _experts_of(spec: ModelSpec, moe: MoeSpec, row: Format) -> dict[str, Any]:
    config: dict[str, Any] = {
        "num_experts_per_tok": moe.top_k,
        "output_router_logits": False,
        "router_aux_loss_coef": moe.balance_weight,
    }
    if row.name == "mixtral":
        return config | {
            "intermediate_size": moe.intermediate_size,
            "num_local_experts": moe.num_experts,
            "router_jitter_noise": 0.0,
        }
    config["norm_topk_prob"] = moe.normalise_top_k
    if row.name.startswith("deepseek"):
        grouped = "group_limited_greedy" if moe.groups > 1 else "greedy"
        method: dict[str, Any] = {"topk_method": grouped}
        if row.name == "deepseek_v3":
            method = {"num_nextn_predict_layers": 0, "rope_interleave": True}
        return config | {
            "n_routed_experts": moe.num_experts,
            "moe_intermediate_size": moe.intermediate_size,
            "n_shared_experts": moe.shared_experts,
            "routed_scaling_factor": moe.score_scale,
            "n_group": moe.groups,
            "topk_group": moe.top_groups,
            "first_k_dense_replace": moe.layers[0],
            **method,
        }
    config["num_experts"] = moe.num_experts
    if row.name == "olmoe":
        return config | {"intermediate_size": moe.intermediate_size}
    return config | {
        "moe_intermediate_size": moe.intermediate_size,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(spec.num_layers) if i not in moe.layers],
    }


def spec_of(config: Mapping[str, Any]) -> tuple[ModelSpec, Format]:
    """The shape a folder's `config.json` describes, and its format.

    Raises:
        LuminaError: E002 for what Lumina's model cannot compute, E102 for missing or
            impossible values; both name the key.
    """
    model_type = config.get("model_type")
    if model_type not in FORMATS:
        raise LuminaError(
            "E002",
            f"config.json: model_type {model_type!r} is not one Lumina reads",
            f"folders of type {', '.join(FORMATS)} can be imported",
        )
    row = FORMATS[model_type]
    config = {**row.absent, **config}
    _check_plain(config, row)
    heads, hidden = count(config, "num_attention_heads"), count(config, "hidden_size")
    kv_heads = count(config, "num_key_value_heads", heads)
    latent = _latent_from(config) if "mla_kv_rank" in row.free else {}
    head_dim = latent.pop("head_dim", None) or count(
        config, "head_dim", hidden // heads
    )
    if heads % kv_heads or head_dim % 2 or head_dim < 2:
        raise LuminaError(
            "E102",
            f"config.json: {heads} heads, {kv_heads} key/value heads, head_dim "
            f"{head_dim} do not go together",
            "query heads are a multiple of key/value heads; a head's width is even",
        )
    vocab, width = count(config, "vocab_size"), count(config, "intermediate_size")
    layers = count(config, "num_hidden_layers", limit=2**16)
    return ModelSpec(
        vocab_size=vocab,
        padded_vocab_size=-(-vocab // 64) * 64,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=width,
        seq_length=count(config, "max_position_embeddings"),
        norm_eps=positive(config, "rms_norm_eps"),
        window_size=_window_from(config, layers) if "window_size" in row.free else 0,
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        init_std=positive(config, "initializer_range", 0.02),
        moe=None if row.experts is None else _moe_from(config, row, layers),
        **row.fixed,
        **latent,
        **rope_from(config),
    ), row


def _latent_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of latent attention, and the whole width of a head."""
    rotated = count(config, "qk_rope_head_dim")
    head_dim, value_dim = count(config, "qk_nope_head_dim") + rotated, "v_head_dim"
    if rotated % 2 or count(config, value_dim) > head_dim:
        raise LuminaError(
            "E002",
            f"config.json: qk_rope_head_dim {rotated} or v_head_dim "
            f"{config[value_dim]} is not what Lumina's model does",
            "an even number of channels is rotated; values are at most as wide as keys",
        )
    queries = config.get("q_lora_rank")
    return {
        "head_dim": head_dim,
        "mla_kv_rank": count(config, "kv_lora_rank"),
        "mla_q_rank": 0 if queries is None else count(config, "q_lora_rank"),
        "mla_rope_dim": rotated,
        "mla_value_dim": count(config, value_dim),
    }


def _moe_from(config: Mapping[str, Any], row: Format, layers: int) -> MoeSpec:
    if row.name.startswith("deepseek"):
        return _moe_from_deepseek(config, layers)
    # transformers 5 calls by either name what it wrote as num_experts before.
    names = ("num_local_experts", "num_experts")
    name = names[0] if row.name == "mixtral" or names[1] not in config else names[1]
    experts, top_k = count(config, name), count(config, "num_experts_per_tok")
    if top_k > experts:
        raise LuminaError(
            "E102",
            f"config.json: num_experts_per_tok {top_k} of {name} {experts}",
            "a token cannot go to more experts than there are",
        )
    apart = row.name == "qwen3_moe"  # dense layers have another width
    return MoeSpec(
        num_experts=experts,
        top_k=top_k,
        intermediate_size=count(
            config, "moe_intermediate_size" if apart else "intermediate_size"
        ),
        layers=_routed_layers(config, layers) if apart else tuple(range(layers)),
        normalise_top_k=row.name == "mixtral" or bool(config.get("norm_topk_prob")),
        balance_weight=positive(config, "router_aux_loss_coef", 0.001, zero=True),
    )


def _moe_from_deepseek(config: Mapping[str, Any], layers: int) -> MoeSpec:
    names = ("n_routed_experts", "num_local_experts")
    experts = count(config, names[names[0] not in config])
    third, theirs = config["model_type"] == "deepseek_v3", "aux_loss_alpha" in config
    groups, top_groups = 1, 1
    if third or config["topk_method"] != "greedy":
        groups, top_groups = count(config, "n_group"), count(config, "topk_group")
    top_k, dense = count(config, "num_experts_per_tok"), config["first_k_dense_replace"]
    if (
        experts % groups
        or experts < (2 if third else 1) * groups
        or not top_k <= experts // groups * min(top_groups, groups)
    ):
        raise LuminaError(
            "E102",
            f"config.json: {experts} experts, n_group {groups}, topk_group "
            f"{top_groups} and num_experts_per_tok {top_k} do not go together",
            "groups are equal, of two experts or more in V3, and hold a token's "
            "choices",
        )
    if type(dense) is not int or not 0 <= dense < layers:
        raise LuminaError(
            "E002",
            f"config.json: first_k_dense_replace {dense!r} leaves no routed layer of "
            f"{layers}",
            "models with routed layers can be imported",
        )
    return MoeSpec(
        num_experts=experts,
        top_k=top_k,
        intermediate_size=count(config, "moe_intermediate_size"),
        layers=tuple(range(dense, layers)),
        normalise_top_k=bool(config["norm_topk_prob"]),
        balance_weight=positive(
            config, "aux_loss_alpha" if theirs else "router_aux_loss_coef", 1e-4, True
        ),
        bias_update_rate=1e-3 if third else 0.0,
        score="sigmoid" if third else "softmax",
        score_scale=positive(config, "routed_scaling_factor"),
        groups=groups if top_groups < groups else 1,
        top_groups=top_groups if top_groups < groups else 1,
        shared_experts=count(config, "n_shared_experts"),
    )


def _routed_layers(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Every n-th layer, less those that are named."""
    step = count(config, "decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(i) is int for i in dense):
        raise LuminaError(
            "E102",
            f"config.json: mlp_only_layers is {dense!r}",
            "a list of layer numbers is needed",
        )
    routed = tuple(sorted(set(range(step - 1, layers, step)) - set(dense)))
    if not routed:
        raise LuminaError(
            "E002",
            f"config.json: decoder_sparse_step {step} and mlp_only_layers leave no "
            "routed layer",
            "a model without routed layers has another model_type",
        )
    return routed


def _window_from(config: Mapping[str, Any], layers: int) -> int:
    """The sliding window, which all layers or none have."""
    if not config.get("use_sliding_window", True) or not config.get("sliding_window"):
        return 0
    window = count(config, "sliding_window")
    first, kinds = config.get("max_window_layers", 0), config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        named, windowed = "layer_types", kinds.count("sliding_attention")
    elif config["model_type"] in ("qwen2", "qwen3") and type(first) is int:
        named, windowed = f"max_window_layers {first}", max(layers - first, 0)
    else:
        return window
    if 0 < windowed < layers:
        raise LuminaError(
            "E002",
            f"config.json: {named} gives some layers a window and others none",
            "models with the same window in every layer can be imported",
        )
    return window if windowed else 0


def _check_plain(config: Mapping[str, Any], row: Format) -> None:
    """Refuse settings that change the function and that Lumina's model lacks."""
    expected: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("silu", "swish", None),
        "partial_rotary_factor": (1, None),
        "quantization_config": (None,),
        # V3's may lie in halves too (see `latent`).
        "rope_interleave": (True, None) if row.name != "deepseek_v3" else (True, False),
        **{key: (value, None) for key, value in row.constants.items()},
    }
    for key, allowed in expected.items():
        if config.get(key) not in allowed:
            raise LuminaError(
                "E002",
                f"config.json: {key}={config[key]!r} is not what Lumina's model does",
                f"{row.title} weights without it can be imported",
            )
