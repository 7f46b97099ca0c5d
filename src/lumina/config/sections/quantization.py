"""Options of weights in few bits: a frozen base, and training for few bits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lumina.config.sections.section import Section, number_as_word

QuantizationMethod = Literal[
    "bnb", "llm_int8", "int4", "fp8", "quanto", "quanto_dynamic", "gptq"
]

QuantizationScenario = Literal[
    "max_performance",
    "balanced",
    "memory_constrained",
    "inference_quality",
    "inference_memory",
]


class QuantizationSection(Section):
    """Weights in few bits."""

    load_in_4bit: bool = Field(
        False,
        description="hold the frozen matrices of the base of adapters in 4 bits: NF4 "
        "with double quantisation (QLoRA); the same as --quantization-method bnb "
        "--quantization-bits 4",
    )
    load_in_8bit: bool = Field(
        False,
        description="hold the frozen matrices of the base of adapters in 8-bit "
        "integers with a scale for each row; the same as --quantization-method bnb "
        "--quantization-bits 8",
    )
    quantization_method: QuantizationMethod | None = Field(
        None,
        description="bnb (NF4 or 8-bit integers, the codes of bitsandbytes), llm_int8 "
        "(its 8-bit integers, multiplied as such, but for columns of outliers), int4 "
        "(groups of 128) and fp8 (e4m3) hold the frozen base of adapters; quanto "
        "trains all weights so that they do well when they are rounded to 8 or 4 bits; "
        "quanto_dynamic also rounds what they multiply to 8 bits, as llm_int8 does; "
        "gptq is for trained models (lumina export --quantize) and refused in training",
    )
    quantization_bits: Literal["8", "4", "3", "2"] | None = Field(
        None,
        description="bits of each number: bnb 8 or 4, quanto 8 or 4, gptq 4, 3, 2 or "
        "8; default: 4, and 8 of quanto, quanto_dynamic, fp8 and llm_int8",
    )
    quantization_scenario: QuantizationScenario | None = Field(
        None,
        description="sets precision, few bits and learning rate where they are not "
        "named: max_performance, balanced (8 bits), memory_constrained (4 bits); "
        "inference_quality and inference_memory are for lumina export; `lumina presets "
        "scenarios` lists them",
    )
    quantization_eval_batches: int = Field(
        0,
        ge=0,
        description=(
            "before the first step, compare the base in few bits with the base in its "
            "files on this many held-out batches: divergence of their scores, and "
            "perplexity of each; 0: do not"
        ),
    )

    _bits = field_validator("quantization_bits", mode="before")(number_as_word)
