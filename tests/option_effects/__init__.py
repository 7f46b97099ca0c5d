"""For every option, a function that shows what it does to the work of a run."""

from __future__ import annotations

from collections.abc import Callable

from tiny_runs import Runs

Effect = Callable[[Runs], None]

EFFECTS: dict[str, Effect] = {}
"""Option -> what shows its effect. A value that changes nothing fails there."""


def shows(*leaves: str) -> Callable[[Effect], Effect]:
    """Declare that a function shows the effect of these options."""

    def declare(effect: Effect) -> Effect:
        for leaf in leaves:
            assert leaf not in EFFECTS, leaf
            EFFECTS[leaf] = effect
        return effect

    return declare
