"""Adapters: what they need, and what does not go together with them."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse, set_of
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features import lacking, named_option
from lumina.features.few_bits import asked_base_storage

APART = {
    "expert_id": "a named expert trains alone on a base of its own",
    "lr_transfer": "it carries rates over from a narrower base to all matrices",
    "qk_clip": "it scales rows of query and key, which are frozen",
}
"""Options that do not go together with adapters, and why."""

RANKLESS = ("ia3",)
"""Methods that have no rank, and so neither alpha nor dropout."""


def check(settings: Settings) -> None:
    """Refuse adapters without a base, and beside what changes the base.

    Raises:
        LuminaError: E002.
    """
    if not settings.adapters.use_peft:
        return
    if not (settings.train.init_from or settings.run.resume):
        refuse(
            "use_peft trains adapters beside weights, and there are none",
            "name a run, a checkpoint or an exported folder with --init-from",
        )
    for kind, why in lacking(settings, "adapters"):
        refuse(
            f"use_peft and {named_option(kind, settings)} do not go together: {why}",
            "leave out --use-peft",
        )
    if settings.adapters.peft_method == "loftq" and not asked_base_storage(settings):
        refuse(
            "peft_method loftq begins with what a base in few bits lacks, and the base "
            "has all of its bits",
            "add --load-in-4bit, or use --peft-method lora",
        )
    for leaf, why in set_of(settings, APART):
        refuse(
            f"use_peft and {leaf} do not go together: {why}",
            f"leave out --{leaf.replace('_', '-')}",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of adapters without effect, and why."""
    adapters = settings.adapters
    options = [name for name in type(adapters).model_fields if name != "use_peft"]
    if not adapters.use_peft:
        return dict.fromkeys(options, "use_peft is off")
    found = {}
    if adapters.peft_method != "lora_plus":
        found["lora_plus_ratio"] = f"peft_method is {adapters.peft_method}"
    if adapters.peft_method in RANKLESS:
        why = f"peft_method {adapters.peft_method} has vectors in place of matrices"
        found |= dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout"), why)
    return found


RULE = Rule(check=check, without_effect=without_effect)
