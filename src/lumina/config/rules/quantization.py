"""Weights in few bits: what they need, and what does not go together."""

from __future__ import annotations

from lumina.config.bundles import SCENARIOS
from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError
from lumina.features.few_bits import (
    BITS,
    METHODS,
    asked_base_storage,
    asked_few_bits,
)


def check(settings: Settings) -> None:
    """Refuse few bits that there are not, or that nothing would use.

    Raises:
        LuminaError: E002; E003 for gptq, which is not for training.
    """
    asked = settings.quantization
    method, bits = asked.quantization_method, int(asked.quantization_bits or 0)
    if asked.load_in_4bit and asked.load_in_8bit:
        refuse("load_in_4bit and load_in_8bit are both set", "keep one of the two")
    loaded = 4 if asked.load_in_4bit else 8 if asked.load_in_8bit else None
    if loaded is not None and (method not in (None, "bnb") or bits not in (0, loaded)):
        refuse(
            f"load_in_{loaded}bit is --quantization-method bnb --quantization-bits "
            f"{loaded}, and others are named",
            f"leave out --load-in-{loaded}bit, or the other options",
        )
    scenario = SCENARIOS.get(asked.quantization_scenario or "")
    if scenario is not None and scenario.export:
        raise LuminaError(
            "E003",
            f"quantization_scenario {asked.quantization_scenario} is for a trained "
            f"model: {scenario.use}",
            f"train first, then {scenario.command}",
        )
    if method == "gptq":
        raise LuminaError(
            "E003",
            "quantization_method gptq chooses the codes of a model that is trained, by "
            "looking at its inputs; nothing trains with it",
            f"train without it, then `lumina export RUN FOLDER --quantize "
            f"--quantization-method gptq --quantization-bits {bits or 4}`; adapters "
            "train beside a base in 4 bits with --load-in-4bit",
        )
    if method is not None and (method, bits or BITS[method]) not in METHODS:
        known = [str(b) for m, b in METHODS if m == method]
        refuse(
            f"quantization_method {method} has no codes of {bits} bits",
            f"use --quantization-bits {' or '.join(known)}",
        )
    found = asked_few_bits(settings)
    if found is None:
        return
    if found.use == "base" and not settings.adapters.use_peft:
        refuse(
            "weights in few bits are frozen, and nothing trains beside them",
            "add --use-peft, which trains adapters (QLoRA); or round weights as they "
            "train with --quantization-method quanto",
        )
    if found.use == "base" and settings.stages.preserve_base_knowledge:
        refuse(
            "preserve_base_knowledge keeps a second copy of the base, and the base is "
            "in few bits and frozen",
            "leave out --preserve-base-knowledge",
        )
    if found.use == "training" and settings.adapters.use_peft:
        refuse(
            f"quantization_method {method} trains the weights themselves, and use_peft "
            "freezes them",
            "leave out --use-peft, or use --load-in-4bit or --load-in-8bit",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of few bits without effect, and why."""
    asked = settings.quantization
    unused = {}
    loads = asked.load_in_4bit or asked.load_in_8bit
    if asked.quantization_method is None and not loads:
        unused["quantization_bits"] = "quantization_method is not named"
    if not asked_base_storage(settings):
        unused["quantization_eval_batches"] = "no base is held in few bits"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
