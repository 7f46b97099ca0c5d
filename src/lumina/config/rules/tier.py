"""The tier of contexts: what else says how long a row is."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse, set_of
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features import lacking


def check(settings: Settings) -> None:
    """Refuse a tier beside anything else that decides the length of the rows.

    Raises:
        LuminaError: E002.
    """
    tier = settings.system.tier
    if tier == "none":
        return
    if settings.is_chosen("seq_length"):
        refuse(
            f"tier {tier} says how long a row is, and seq_length is "
            f"{settings.model.seq_length}",
            "leave one of the two out",
        )
    kinds = lacking(settings, "context_tier")
    others = {str(kind.option): why for kind, why in kinds} | {
        "phases": "each phase may have a length of its own",
        "context_schedule": "rows grow by the schedule",
    }
    for leaf, why in set_of(settings, others):
        refuse(
            f"tier {tier} says how long a row is, and with {leaf} {why}",
            "leave --tier out, and name lengths",
        )


RULE = Rule(check=check)
