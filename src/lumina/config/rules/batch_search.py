"""The search for the largest batch: what it cannot measure."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse, set_of
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse a search beside a batch that is named, and what steps of text cannot show.

    Raises:
        LuminaError: E002.
    """
    if not settings.batch_search.auto_batch_size:
        return
    for leaf in ("batch_size", "grad_accum"):
        if settings.is_chosen(leaf) and settings.get(leaf) is not None:
            refuse(
                f"auto_batch_size looks for the batch_size, and {leaf} is "
                f"{settings.get(leaf)}",
                "leave one of the two out; --global-batch-size sets a whole step",
            )
    if (settings.system.nproc or 1) > 1:
        refuse(
            "auto_batch_size measures one process, and nproc is "
            f"{settings.system.nproc}",
            "search with one process, and name the --batch-size that it finds",
        )
    others = {
        "use_hrm": "reasoners solve puzzles or keep states between steps",
        "tasks": "its rows belong to tasks",
        "objective": "a registered objective may read other rows",
        "phases": "each phase has a batch of its own",
        "context_schedule": "rows grow",
    }
    for leaf, why in set_of(settings, others):
        refuse(
            f"auto_batch_size measures rows of text of one length, and with {leaf} "
            f"{why}",
            "name --batch-size instead",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of the search without effect, and why."""
    if settings.batch_search.auto_batch_size:
        return {}
    return {"target_memory_usage": "auto_batch_size is off"}


RULE = Rule(check=check, without_effect=without_effect)
