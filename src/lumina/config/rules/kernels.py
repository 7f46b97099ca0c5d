"""Kernels under the names of the design documents: what contradicts other options."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features.precisions import PRECISIONS, asked_precision, precision_of_fp8


def check(settings: Settings) -> None:
    """Refuse a kernel that two options ask for differently.

    Raises:
        LuminaError: E002.
    """
    kernels, system = settings.kernels, settings.system
    wanted, attention = kernels.experimental_fa3, system.attention
    if wanted and attention not in ("auto", "flash3"):
        refuse(
            f"experimental_fa3 asks for flash3, and attention is {attention}",
            "leave one of the two out",
        )
    if wanted is False and attention == "flash3":
        refuse(
            "attention flash3 asks for what --no-experimental-fa3 leaves out",
            "leave one of the two out",
        )
    precision = system.precision
    wanted8 = kernels.experimental_fp8
    named8 = precision in PRECISIONS and PRECISIONS[precision].feature == "fp8"
    if wanted8 is False and named8:
        refuse(
            f"precision {precision} multiplies float8, which --no-experimental-fp8 "
            "leaves out",
            "leave one of the two out",
        )
    meant = precision_of_fp8(settings)
    if wanted8 and precision not in ("auto", meant):
        refuse(
            f"experimental_fp8 is precision {meant}, and precision is {precision}",
            "leave one of the two out",
        )
    asked = asked_precision(settings)
    if kernels.fp8_experts and (asked == "auto" or not PRECISIONS[asked].fp8):
        refuse(
            f"fp8_experts multiplies float8, and precision is {asked}",
            "use --precision mixed_fp8, or leave fp8_experts out",
        )
    if wanted8 and not system.amp:
        refuse(
            "--no-amp computes everything in the type of the weights, and "
            "experimental_fp8 multiplies float8",
            "leave one of the two out",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of kernels without effect, and why."""
    asked = asked_precision(settings)
    why = f"precision {asked} multiplies no float8"
    unused = {}
    if asked == "auto" or not PRECISIONS[asked].fp8:
        unused = {"fp8_scaling": why, "fp8_experts": why}
    if not settings.kernels.experimental_fp8:
        unused["fp8_format"] = "experimental_fp8 is off"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
