"""Recovery: what contradicts, and what does nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse to compare what need not be the same.

    Raises:
        LuminaError: E002.
    """
    every = settings.recovery.repeat_check_every
    if every and not settings.system.deterministic:
        refuse(
            f"repeat_check_every {every} compares two computations bit for bit, and "
            "without deterministic they may differ on a device that is whole",
            "add --deterministic, or leave repeat_check_every out",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of snapshots without effect, and why."""
    recovery = settings.recovery
    every, adaptive = recovery.snapshot_every, settings.adaptive.adaptive == "on"
    if every or (every is None and adaptive):
        return {}
    why = "there are no snapshots: snapshot_every is not set"
    return {"snapshots_kept": why, "known_good_after": why}


RULE = Rule(check=check, without_effect=without_effect)
