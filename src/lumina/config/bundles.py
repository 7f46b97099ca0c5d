"""Options whose value stands for values of others, which may still be named apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from lumina.config.provenance import Source
from lumina.config.sections import LEAVES
from lumina.config.settings import Settings

Values = Mapping[str, object]

PEFT_PRESETS: dict[str, Values] = {
    "budget": {
        "lora_r": 4, "lora_alpha": 8.0, "lora_target_modules": ("minimal",),
    },
    "efficient": {
        "lora_r": 8, "lora_alpha": 16.0, "lora_target_modules": ("balanced",),
    },
    "balanced": {
        "lora_r": 16, "lora_alpha": 32.0, "lora_target_modules": ("full",),
    },
    "high_quality": {
        "lora_r": 64, "lora_alpha": 128.0, "lora_target_modules": ("full",),
        "peft_method": "dora", "peft_also_train": ("heads",),
    },
    "adaptive": {
        "lora_r": 16, "lora_alpha": 32.0, "lora_target_modules": ("full",),
        "peft_method": "adalora",
    },
}  # fmt: skip
"""Sets of parameters of adapters."""


class Scenario(NamedTuple):
    """A use of few bits.

    Attributes:
        use: what it is for.
        values: options of training; empty for one of a trained model.
        export: words after `lumina export RUN FOLDER`; empty for one of training.
    """

    use: str
    values: Values = MappingProxyType({})
    export: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """How to use it."""
        if self.export:
            return f"lumina export RUN FOLDER {' '.join(self.export)}"
        return "lumina train --init-from BASE --quantization-scenario {}"


SCENARIOS: dict[str, Scenario] = {
    "max_performance": Scenario(
        "all weights train, in 16 bits: nothing is rounded to few bits",
        {"precision": "mixed_bf16", "learning_rate": 2e-5},
    ),
    "balanced": Scenario(
        "adapters beside a base in 8 bits",
        {
            "precision": "mixed_bf16", "use_peft": True, "load_in_8bit": True,
            "learning_rate": 1e-5,
        },
    ),
    "memory_constrained": Scenario(
        "adapters beside a base in NF4 with double quantisation",
        {
            "precision": "mixed_bf16", "use_peft": True, "load_in_4bit": True,
            "learning_rate": 5e-6,
        },
    ),
    "inference_quality": Scenario(
        "a trained model in 8 bits, a scale for each row",
        export=("--quantize",),
    ),
    "inference_memory": Scenario(
        "a trained model in 4 bits by GPTQ",
        export=("--quantize", "--quantization-method", "gptq", "--bits", "4"),
    ),
}  # fmt: skip
"""Five uses of few bits. The rates are the specification's, and fall with the bits."""

BUNDLES: dict[str, dict[str, Values]] = {
    "peft_preset": PEFT_PRESETS,
    "quantization_scenario": {name: one.values for name, one in SCENARIOS.items()},
}
"""Option -> its values -> the options that each stands for."""


def opened(settings: Settings) -> Settings:
    """The settings with what such options stand for, where nothing else was named.

    A value that another value of the same option had brought is replaced.
    """
    for option, values in BUNDLES.items():
        name = settings.get(option)
        if name is not None:
            settings = _laid(settings, option, str(name), values[str(name)])
    return settings


def _laid(settings: Settings, option: str, name: str, values: Values) -> Settings:
    sections, sources = dict(settings.sections), dict(settings.provenance)
    brought = f"of {option} "
    source = replace(sources[option], detail=f"{brought}{name}", previous=None)
    for leaf, value in values.items():
        if _named(sources[leaf]) and not sources[leaf].detail.startswith(brought):
            continue
        section = LEAVES[leaf]
        sections[section] = sections[section].model_copy(update={leaf: value})
        sources[leaf] = source
    return Settings(settings.preset, sections, sources)


def _named(source: Source) -> bool:
    """Whether a value was named by itself."""
    return source.kind not in ("default", "preset")
