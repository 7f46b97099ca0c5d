"""Checkpoints: what contradicts in what they hold, and what does nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse to go on with states that no checkpoint holds.

    Raises:
        LuminaError: E002.
    """
    kept = settings.stages.phase_optimizer == "keep"
    if kept and not settings.saving.save_optimizer_states:
        refuse(
            "phase_optimizer keep goes on with the optimizer's states, and "
            "save_optimizer_states no leaves them out of checkpoints",
            "use phase_optimizer reset, or save the states",
        )
    if settings.saving.keep_best_only and not settings.saving.track_best_model:
        refuse(
            "keep_best_only keeps the best checkpoint, and track_best_model no saves "
            "none",
            "leave one of the two out",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of checkpoints without effect, and why."""
    unused: dict[str, str] = {}
    if settings.saving.keep_best_only:
        why = "keep_best_only keeps no regular checkpoints"
        unused |= {"save_total_limit": why, "checkpoint_pruning": why}
    if settings.data.eval_fraction == 0 and not settings.data.eval_data:
        unused["keep_best_only"] = "nothing is held out, so that no model is the best"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
