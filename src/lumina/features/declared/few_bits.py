"""Weights in few bits: a frozen base, and weights that train for few bits."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.few_bits import asked_base_storage, asked_rounding
from lumina.features.table import register
from lumina.features.trial import Trial

register(
    Feature(
        name="base_storage",
        option="quantization_method",
        plan_field="base_storage",
        summary="the frozen matrices of the base of adapters are in 8 or 4 bits",
        without="no --load-in-4bit, --load-in-8bit and --quantization-method",
        change_cost="restart",
        requested=lambda c: bool(asked_base_storage(c)),
        active=lambda p: bool(p.base_storage),
        excludes=(
            Exclusion(
                "fp8",
                "a matrix in few bits is widened to 16 bits, not multiplied in float8",
                "use --precision mixed_bf16",
            ),
        ),
        memory=lambda spec, layout: layout.base_in_few_bits(spec),
        trial=Trial(
            {"load_in_4bit": True},
            beside={"init_from": "{base}", "use_peft": True, "lora_dropout": 0.0},
            # The same rounded matrices, wide: what rounding them costs is no matter of
            # how they are multiplied, and a recurrent model makes much of it.
            reference={"init_from": "{base in nf4_double}"},
            calls=("lumina.model.stored:StoredWeight.multiplied",),
        ),
    )
)
register(
    Feature(
        name="rounded_training",
        option="quantization_method",
        plan_field="rounded_to",
        summary="weights are rounded to 8 or 4 bits in each forward pass as they train",
        without="no --quantization-method quanto or quanto_dynamic",
        change_cost="restart",
        requested=lambda c: bool(asked_rounding(c)),
        active=lambda p: bool(p.rounded_to),
        excludes=(
            Exclusion(
                "fp8",
                "both say how the blocks' linear layers multiply",
                "use --precision mixed_bf16",
            ),
        ),
        build="lumina.model.rounded:round_weights",
        trial=Trial(
            {"quantization_method": "quanto", "quantization_bits": 8},
            keeps=False,
            calls=("lumina.model.rounded:rounded_product",),
        ),
    )
)
