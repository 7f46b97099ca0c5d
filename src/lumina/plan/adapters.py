"""Adapters in the shape of a model: from options, and back to them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.model.adapters.settings import DEFAULT, AdapterSpec
from lumina.model.adapters.table import chosen_method
from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    from lumina.config import Config


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
        also=tuple(asked.peft_also_train),
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
