"""What is measured: what a model cannot have, and options without effect."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features import lacking

_LOOKS = {
    "attention_stats_every": "attention_statistics",
    "attention_logits_every": "attention_statistics",
    "layer_profile_every": "layer_profile",
}
"""Options that look at the layers of a model -> what its kinds must not lack."""


def check(settings: Settings) -> None:
    """Refuse looks at layers that a kind of model does not have in that form.

    Raises:
        LuminaError: E002.
    """
    for leaf, ability in _LOOKS.items():
        for kind, why in lacking(settings, ability) if settings.get(leaf) else ():
            refuse(
                f"{leaf} looks at layers that every token goes through, and a model "
                f"of {kind.option} {why}",
                f"leave {leaf} at 0",
            )
    others = [name for name in settings.parts.attention_type if name != "standard"]
    for leaf in ("attention_stats_every", "attention_logits_every"):
        if settings.get(leaf) and others:
            refuse(
                f"{leaf} cannot see into the attention {others[0]}",
                f"leave {leaf} at 0",
            )


def without_effect(settings: Settings) -> dict[str, str]:
    """The frequency of a log that is off, and of what every step has anyway."""
    asked = settings.metrics
    found = {}
    if not asked.log_expert_usage:
        found["expert_usage_frequency"] = "log_expert_usage is off"
    if settings.train.qk_clip:
        found["attention_logits_every"] = (
            "with qk_clip every step has the largest logit"
        )
    return found


RULE = Rule(check=check, without_effect=without_effect)
