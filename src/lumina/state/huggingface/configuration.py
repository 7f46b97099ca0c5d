"""`config.json` of a Llama or Mixtral folder, from a ModelSpec and back.

What a format cannot hold is refused by name: an export that computes another function
than the run would be worse than none.
"""

from __future__ import annotations

from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, MoeSpec

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mixtral": "MixtralForCausalLM"}


def _refuse(what: str, hint: str) -> LuminaError:
    return LuminaError("E002", what, hint)


def check_expressible(spec: ModelSpec) -> str:
    """The format that holds `spec`: "llama" or "mixtral".

    Raises:
        LuminaError: E002 naming the setting that neither holds.
    """
    model_type = "llama" if spec.moe is None else "mixtral"
    name = model_type.capitalize()
    if spec.qk_norm != "none":
        raise _refuse(
            f"the {name} format has no place for qk_norm={spec.qk_norm}",
            "only models trained with --qk-norm none can be exported",
        )
    if spec.moe is None and spec.window_size:
        raise _refuse(
            f"the Llama format has no place for window_size={spec.window_size}",
            "a dense model must be trained with --window-size 0 to be exported",
        )
    if spec.moe is None and spec.hidden_size % spec.num_heads:
        raise _refuse(
            f"the Llama format wants hidden_size ({spec.hidden_size}) to be a multiple "
            f"of num_heads ({spec.num_heads})",
            "choose a hidden size that the number of heads divides",
        )
    if spec.moe is not None:
        _check_moe(spec, spec.moe)
    return model_type


def _check_moe(spec: ModelSpec, moe: MoeSpec) -> None:
    if moe.layers != tuple(range(spec.num_layers)):
        raise _refuse(
            "the Mixtral format has experts in all layers; here moe_pattern gives them "
            f"to {len(moe.layers)} of {spec.num_layers}",
            "only --moe-pattern all can be exported",
        )
    if not moe.normalise_top_k:
        raise _refuse(
            "the Mixtral format always renormalises the chosen experts' probabilities; "
            "here moe_normalise_top_k is off",
            "only models trained with moe_normalise_top_k on can be exported",
        )


def config_of(
    spec: ModelSpec, dtype: str, bos_id: int | None, eos_id: int | None
) -> dict[str, Any]:
    """`config.json` for transformers; refuses as `check_expressible`."""
    model_type = check_expressible(spec)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.seq_length,
        "initializer_range": spec.init_std,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": _rope_of(spec),
        "tie_word_embeddings": spec.tie_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
    }
    if spec.moe is None:
        return config | {"attention_bias": False, "mlp_bias": False}
    return config | {
        "intermediate_size": spec.moe.intermediate_size,
        "num_local_experts": spec.moe.num_experts,
        "num_experts_per_tok": spec.moe.top_k,
        "sliding_window": spec.window_size or None,
        "output_router_logits": False,
        "router_aux_loss_coef": spec.moe.balance_weight,
        "router_jitter_noise": 0.0,
    }


def _rope_of(spec: ModelSpec) -> dict[str, Any]:
    if spec.rope_scaling == "none":
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.rope_scaling == "ntk":
        # A fixed NTK extension is nothing but a larger base.
        power = spec.head_dim / (spec.head_dim - 2)
        return {
            "rope_type": "default",
            "rope_theta": spec.rope_theta * spec.rope_factor**power,
        }
    rope = {
        "rope_type": spec.rope_scaling,
        "rope_theta": spec.rope_theta,
        "factor": spec.rope_factor,
    }
    if spec.rope_scaling == "yarn":
        rope["original_max_position_embeddings"] = spec.rope_original_length
    return rope


def spec_of(config: dict[str, Any]) -> ModelSpec:
    """The shape a folder's `config.json` describes.

    Raises:
        LuminaError: E002 for what Lumina's model cannot compute, E102 for missing or
            impossible values; both name the key.
    """
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise _refuse(
            f"config.json: model_type {model_type!r} is not one Lumina reads",
            f"folders of type {' and '.join(ARCHITECTURES)} can be imported",
        )
    _check_plain(config)
    heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    kv_heads = _count(config, "num_key_value_heads", heads)
    head_dim = _count(config, "head_dim", hidden // heads)
    if heads % kv_heads or head_dim % 2 or head_dim < 2:
        raise LuminaError(
            "E102",
            f"config.json: {heads} heads, {kv_heads} key/value heads, head_dim "
            f"{head_dim} do not go together",
            "query heads are a multiple of key/value heads; a head's width is even",
        )
    vocab, width = _count(config, "vocab_size"), _count(config, "intermediate_size")
    layers = _count(config, "num_hidden_layers", limit=2**16)
    length = _count(config, "max_position_embeddings")
    moe = None
    if model_type == "mixtral":
        moe = _moe_of(config, layers, width)
    window = config.get("sliding_window") if model_type == "mixtral" else None
    return ModelSpec(
        vocab_size=vocab,
        padded_vocab_size=-(-vocab // 64) * 64,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=width,
        seq_length=length,
        norm_eps=_positive(config, "rms_norm_eps"),
        window_size=_count(config, "sliding_window") if window else 0,
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        init_std=_positive(config, "initializer_range", 0.02),
        moe=moe,
        **_rope_from(config, 1e6 if model_type == "mixtral" else 1e4),
    )


def _moe_of(config: dict[str, Any], layers: int, width: int) -> MoeSpec:
    experts = _count(config, "num_local_experts")
    top_k = _count(config, "num_experts_per_tok")
    if top_k > experts:
        raise LuminaError(
            "E102",
            f"config.json: num_experts_per_tok {top_k} of num_local_experts {experts}",
            "a token cannot go to more experts than there are",
        )
    balance = config.get("router_aux_loss_coef", 0.001)
    return MoeSpec(
        num_experts=experts,
        top_k=top_k,
        intermediate_size=width,
        layers=tuple(range(layers)),
        balance_weight=float(balance),
    )


def _check_plain(config: dict[str, Any]) -> None:
    """Refuse settings that change the function and that Lumina's model lacks."""
    expected: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("silu", "swish", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "partial_rotary_factor": (1, None),
        "quantization_config": (None,),
    }
    for key, allowed in expected.items():
        if config.get(key) not in allowed:
            raise _refuse(
                f"config.json: {key}={config[key]!r} is not what Lumina's model does",
                "only plain SwiGLU Llama and Mixtral weights can be imported",
            )


def _rope_from(config: dict[str, Any], default_theta: float) -> dict[str, Any]:
    """ModelSpec's rope fields, from either spelling: transformers 5's
    `rope_parameters`, or the older `rope_theta` and `rope_scaling`.
    """
    rope = dict(config.get("rope_scaling") or {}) | dict(
        config.get("rope_parameters") or {}
    )
    theta = _positive(rope, "rope_theta", config.get("rope_theta", default_theta))
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields: dict[str, Any] = {"rope_theta": theta}
    if rope.get("partial_rotary_factor") not in (1, None):
        raise _refuse(
            "config.json: partial_rotary_factor is not what Lumina's model does",
            "only models that rotate whole heads can be imported",
        )
    if kind == "default":
        return fields
    if kind not in ("linear", "yarn"):
        raise _refuse(
            f"config.json: rope_type {kind!r} is not one Lumina computes",
            "default, linear and yarn can be imported",
        )
    fields |= {"rope_scaling": kind, "rope_factor": _positive(rope, "factor")}
    if kind == "yarn":
        original = config.get("max_position_embeddings")
        key = "original_max_position_embeddings"
        fields["rope_original_length"] = _count(rope, key, original)
        plain = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
        for key in ("attention_factor", "mscale", "mscale_all_dim", *plain):
            if rope.get(key) not in (plain.get(key), None):
                raise _refuse(
                    f"config.json: yarn with {key}={rope[key]!r} is not what Lumina "
                    "computes",
                    "only yarn with its default constants can be imported",
                )
    return fields


def _count(
    values: dict[str, Any], key: str, default: int | None = None, limit: int = 2**40
) -> int:
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= limit:
        said = "is missing" if value is None else f"is {value!r}"
        raise LuminaError(
            "E102", f"config.json: {key} {said}", "a positive whole number is needed"
        )
    return value


def _positive(values: dict[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        said = "is missing" if value is None else f"is {value!r}"
        raise LuminaError(
            "E102", f"config.json: {key} {said}", "a positive number is needed"
        )
    return float(value)
