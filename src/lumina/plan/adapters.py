"""Adapters in the shape of a model: from options, and back to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.model.adapters.settings import DEFAULT, AdapterSpec
from lumina.model.adapters.table import chosen_method
from lumina.model.declared import parameters
from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    from lumina.config import Config

HEADS = "heads"
"""Of `peft_also_train`: every head."""


def without_word(patterns: Sequence[str], spec: ModelSpec) -> tuple[str, ...]:
    """The patterns with `heads` replaced by the names of a model's heads.

    These are what gives the scores of tokens (of tied models the token vectors) and
    what decides to halt.
    """
    heads = [
        name
        for one in parameters(spec)
        if one.role == "head"
        or one.name.startswith("backbone.halting")
        or (spec.tie_embeddings and one.role == "embedding")
        for name in one.logical_names
    ]
    found = [heads if pattern == HEADS else [pattern] for pattern in patterns]
    return tuple(dict.fromkeys(name for names in found for name in names))


def with_adapters(config: Config, spec: ModelSpec) -> ModelSpec:
    """The shape with the adapter that the options describe, if they ask for one."""
    asked = config.adapters
    if not asked.use_peft:
        return spec
    options: dict[str, Any] = {}
    rank = chosen_method(asked.peft_method).first_rank(asked.lora_r)
    if rank != asked.lora_r:
        options["rank"] = asked.lora_r
    if asked.peft_method == "lora_plus":
        options["ratio"] = asked.lora_plus_ratio
    adapter = AdapterSpec(
        name=DEFAULT,
        method=asked.peft_method,
        rank=rank,
        alpha=asked.lora_alpha,
        dropout=asked.lora_dropout,
        targets=tuple(asked.lora_target_modules),
        also=without_word(asked.peft_also_train, spec),
        options=options,
    )
    return replace(spec, adapters=(adapter,))


def adapter_options(spec: ModelSpec) -> dict[str, Any]:
    """The options that describe the adapter of a model; none for one without."""
    if not spec.adapters:
        return {}
    first = spec.adapters[0]
    found = {
        "use_peft": True,
        "peft_method": first.method,
        "lora_r": first.options.get("rank", first.rank),
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "lora_target_modules": first.targets,
        "peft_also_train": first.also,
    }
    if "ratio" in first.options:
        found["lora_plus_ratio"] = first.options["ratio"]
    return found
