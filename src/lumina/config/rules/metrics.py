"""What is measured: what a model cannot have, and options without effect."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

_CHOOSES = "chooses the tokens that its layers attend to"

_OTHERS = {
    "use_hrm": "reasons in modules of its own",
    "use_mod": _CHOOSES,
    "use_mor": _CHOOSES,
}
"""Kinds of model whose layers are not each passed by every token once."""


def check(settings: Settings) -> None:
    """Refuse looks at layers that a kind of model does not have in that form.

    Raises:
        LuminaError: E002.
    """
    asked = settings.metrics
    kinds = {
        "use_hrm": settings.hrm.use_hrm,
        "use_mod": settings.mod.use_mod,
        "use_mor": settings.mor.use_mor,
    }
    for leaf, wanted, those in (
        ("attention_stats_every", asked.attention_stats_every, tuple(_OTHERS)),
        ("layer_profile_every", asked.layer_profile_every, ("use_hrm",)),
    ):
        for kind in those if wanted else ():
            if kinds[kind]:
                refuse(
                    f"{leaf} looks at layers that every token goes through, and a "
                    f"model of {kind} {_OTHERS[kind]}",
                    f"leave {leaf} at 0",
                )
    others = [name for name in settings.parts.attention_type if name != "standard"]
    if asked.attention_stats_every and others:
        refuse(
            f"attention_stats_every cannot see into the attention {others[0]}",
            "leave attention_stats_every at 0",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """The expert-usage log without experts, and its frequency without it."""
    asked = settings.metrics
    found = {}
    if asked.log_expert_usage and not settings.moe.use_moe:
        found["log_expert_usage"] = "use_moe is off"
    if not asked.log_expert_usage:
        found["expert_usage_frequency"] = "log_expert_usage is off"
    return found


RULE = Rule(check=check, without_effect=without_effect)
