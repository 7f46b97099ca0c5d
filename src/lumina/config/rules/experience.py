"""The memory of runs: options that would do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse to begin with what is not remembered, and what would not be taken.

    Raises:
        LuminaError: E002.
    """
    asked = settings.experience
    if not asked.start_from_experience:
        return
    if asked.experience == "off":
        refuse(
            "start_from_experience needs a store, and experience is off",
            "leave one of the two out",
        )
    if settings.adaptive.adaptive != "on":
        refuse(
            "start_from_experience changes what a run begins with, and adaptive is "
            f"{settings.adaptive.adaptive}",
            "add --adaptive on; `lumina suggest` shows the values without a run",
        )
    for leaf, why in {
        "init_from": "the values are those of runs from random weights",
        "phases": "each phase has a schedule of its own",
        "training_mode": "it recommends values of its own",
        "context_schedule": "rows grow",
        "lr_transfer": "the rate carries over from a smaller model",
    }.items():
        if settings.get(leaf):
            refuse(
                f"start_from_experience does not go with {leaf}: {why}",
                "leave one of the two out",
            )


RULE = Rule(check=check)
"""What start_from_experience goes with."""
