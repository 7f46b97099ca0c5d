"""Precision and the type of the weights: what contradicts, what is unusual."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features.precisions import PRECISIONS, TYPES


def check(settings: Settings) -> None:
    """Refuse mixed precision beside `--no-amp`.

    Raises:
        LuminaError: E002.
    """
    system = settings.system
    if system.amp or system.precision == "auto":
        return
    mode = PRECISIONS[system.precision]
    if mode.compute != TYPES[system.model_dtype] or mode.fp8:
        refuse(
            f"--no-amp computes everything in model_dtype {system.model_dtype}, and "
            f"precision {system.precision} computes in another type",
            "leave --precision or --no-amp out, or choose another --model-dtype",
        )


def advice(settings: Settings) -> list[str]:
    """Weights in float16 have little range."""
    if settings.system.model_dtype != "fp16":
        return []
    return [
        "model_dtype fp16: weights below 6e-8 become 0 and those above 65,504 do not "
        "exist; bf16 has the range of float32"
    ]


RULE = Rule(check=check, advice=advice)
