"""Options for going on with a run: refused where no run is resumed."""

from __future__ import annotations

from lumina.config.leaves import canonical
from lumina.config.modifications import MODIFIERS, modifications
from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse changes of a run where there is none, and values that contradict.

    Raises:
        LuminaError: E002, and as `modifications`.
    """
    asked = [leaf for leaf in MODIFIERS if not settings.is_default(leaf)]
    if not asked:
        return
    run = settings.run
    if run.resume is None and run.branch_from is None and not run.auto_resume:
        refuse(
            f"{asked[0]} changes a run that is gone on with, and this one is new",
            "name the run with resume, auto_resume or branch_from, or leave it out",
        )
    changed = modifications(settings)
    start = {"resume", "auto_resume", "branch_from", "run_dir", "nproc", *MODIFIERS}
    for leaf in sorted(start & {canonical(name) for name in changed}):
        refuse(
            f"modify_config cannot set {leaf}",
            "it says how the run is started: give the option by itself",
        )


RULE = Rule(check=check)
