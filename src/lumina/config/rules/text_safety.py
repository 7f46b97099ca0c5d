"""What is measured of samples: options that do nothing without one another."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.sections.text_safety import TextSafetySection
from lumina.config.settings import Settings
from lumina.features import reason_lacking


def without_effect(settings: Settings) -> dict[str, str]:
    """Limits of what is not measured, and all of it where no text is written."""
    asked = settings.text_safety
    leaves = list(TextSafetySection.model_fields)
    if settings.run.report_samples == 0:
        return dict.fromkeys(leaves, "report_samples is 0")
    if why := reason_lacking(settings, "samples"):
        return dict.fromkeys(leaves, why)
    found: dict[str, str] = {}
    if not asked.monitor_toxic_generation:
        found["max_toxic_rate"] = "monitor_toxic_generation is off"
    if not asked.monitor_bias:
        found["max_bias_score"] = "monitor_bias is off"
    limited = asked.monitor_toxic_generation or asked.monitor_bias
    if not limited:
        nothing = "neither monitor_toxic_generation nor monitor_bias is on"
        found["pause_on_safety_violation"] = found["safety_words"] = nothing
    elif settings.run.sample_every_n_batches == 0:
        found["pause_on_safety_violation"] = "sample_every_n_batches is 0"
    if not (limited or asked.monitor_hallucination):
        found["generate_safety_report"] = "nothing is monitored"
    return found


RULE = Rule(without_effect=without_effect)
"""How the texts of a run are watched."""
