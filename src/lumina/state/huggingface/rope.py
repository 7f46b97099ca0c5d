"""The rotary settings of a `config.json`, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.state.huggingface.numbers import count, positive

SCALINGS = ("linear", "yarn", "llama3")
"""Called alike here and there."""

DEEPSEEK = ("deepseek_v2", "deepseek_v3")

_LATENT_YARN: dict[str, Any] = {"mscale": 1.0, "mscale_all_dim": 1.0}
"""DeepSeek's way of scaling whole scores, which latent attention follows."""


def rope_of(spec: ModelSpec) -> dict[str, Any]:
    """The keys of a shape, in the spelling of transformers 5 and in the one before."""
    rope: dict[str, Any] = {"rope_type": "default"}
    theta = spec.rope_theta
    if spec.rope_scaling == "ntk":
        # A fixed NTK extension is nothing but a larger base.
        theta *= spec.rope_factor ** (spec.rotary_dim / (spec.rotary_dim - 2))
    elif spec.rope_scaling != "none":
        rope = {"rope_type": spec.rope_scaling, "factor": spec.rope_factor}
    if spec.rope_scaling in ("yarn", "llama3"):
        rope["original_max_position_embeddings"] = spec.rope_original_length
    if spec.rope_scaling == "yarn" and spec.mla_kv_rank:
        rope |= _LATENT_YARN
    if spec.rope_scaling == "llama3":
        rope["low_freq_factor"] = spec.rope_low_freq_factor
        rope["high_freq_factor"] = spec.rope_high_freq_factor
    return {
        "rope_parameters": rope | {"rope_theta": theta},
        "rope_theta": theta,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
    }


def rope_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """ModelSpec's rope fields, from either spelling: transformers 5's
    `rope_parameters`, or the older `rope_theta` and `rope_scaling`.

    Raises:
        LuminaError: E002 for what is not computed here, and for two spellings that
            contradict each other; E102 for impossible values.
    """
    rope = _rope_asked(config)
    theta = positive(rope, "rope_theta", config.get("rope_theta", 1e4))
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields: dict[str, Any] = {"rope_theta": theta}
    if rope.get("partial_rotary_factor") not in (1, None):
        raise LuminaError(
            "E002",
            "config.json: partial_rotary_factor is not what Lumina's model does",
            "only models that rotate whole heads can be imported",
        )
    if kind == "default":
        return fields
    if kind not in SCALINGS:
        raise LuminaError(
            "E002",
            f"config.json: rope_type {kind!r} is not one Lumina computes",
            f"default, {', '.join(SCALINGS)} can be imported",
        )
    fields |= {"rope_scaling": kind, "rope_factor": positive(rope, "factor")}
    if kind in ("yarn", "llama3"):
        original = config.get("max_position_embeddings")
        key = "original_max_position_embeddings"
        fields["rope_original_length"] = count(rope, key, original)
    if kind == "llama3":
        low, high = (positive(rope, f"{end}_freq_factor") for end in ("low", "high"))
        if low >= high:
            raise LuminaError(
                "E102",
                f"config.json: low_freq_factor {low:g} is not below high_freq_factor "
                f"{high:g}",
                "the configuration is damaged; fetch the folder again",
            )
        fields |= {"rope_low_freq_factor": low, "rope_high_freq_factor": high}
    if kind == "yarn":
        plain: dict[str, Any] = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
        if config.get("model_type") in DEEPSEEK:
            plain |= _LATENT_YARN
            rope = {"mscale": 0, "mscale_all_dim": 0} | rope  # what leaving out means
            if yarn_temperature(config) is not None:  # taken up by the queries
                rope |= _LATENT_YARN
        for key in ("attention_factor", "mscale", "mscale_all_dim", *plain):
            if rope.get(key) not in (plain.get(key), None):
                raise LuminaError(
                    "E002",
                    f"config.json: yarn with {key}={rope[key]!r} is not what Lumina "
                    "computes",
                    "only yarn with its default constants can be imported",
                )
    return fields


def _rope_asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings that hold where a file has both spellings.

    transformers lets a `rope_scaling` that says anything take the place of the whole
    of `rope_parameters`, its `rope_theta` included; so do we, except that a base
    which would get lost that way is refused.

    Raises:
        LuminaError: E002 for two different bases and for settings by kind of layer.
    """
    newer = _table(config, "rope_parameters")
    older = _table(config, "rope_scaling")
    if not older:
        return newer
    theta = older.get("rope_theta", config.get("rope_theta", 1e4))
    if newer.get("rope_theta") not in (theta, None):
        raise LuminaError(
            "E002",
            f"config.json: rope_scaling takes the place of rope_parameters, and with "
            f"it rope_theta would be {theta!r}, while rope_parameters says "
            f"{newer['rope_theta']!r}",
            "put the whole of the rotary settings, rope_theta too, in rope_parameters "
            "and take rope_scaling out",
        )
    return older


def _table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = config.get(key) or {}
    if not isinstance(table, Mapping):
        raise LuminaError(
            "E102",
            f"config.json: {key} is {table!r}, not a table of settings",
            "the configuration is damaged; fetch the folder again",
        )
    nested = [name for name, value in table.items() if isinstance(value, Mapping)]
    if nested:
        raise LuminaError(
            "E002",
            f"config.json: {key} has settings of their own for {', '.join(nested)}",
            "only models with one kind of rotary positions can be imported",
        )
    return dict(table)


def yarn_temperature(config: Mapping[str, Any]) -> float | None:
    """DeepSeek's `mscale_all_dim` under YaRN; None where that is not what is meant."""
    rope = _rope_asked(config)
    first, second = rope.get("mscale"), rope.get("mscale_all_dim")
    kind = rope.get("rope_type", rope.get("type"))
    if config.get("model_type") not in DEEPSEEK or kind != "yarn":
        return None
    if isinstance(first, bool) or not isinstance(first, int | float):
        return None
    # Only if they are the same do the rotary tables stay as they are.
    return float(first) if first == second and first > 0 else None
