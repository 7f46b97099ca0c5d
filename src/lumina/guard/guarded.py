"""A Plan whose features were tried on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lumina.assemble.ranks import Ranks
from lumina.features import FEATURES, active_features
from lumina.guard.history import remember
from lumina.guard.pretest import run_pretest
from lumina.model.registry import plugins_of
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan


def guarded(
    plan: Callable[[Environment], Plan],
    environment: Environment,
    ranks: Ranks,
    tries: bool = True,
) -> tuple[Plan, Environment]:
    """Plan, try what the Plan relies on, and plan again without what fails.

    A feature that was named and fails is refused by the planning itself (E003); one
    that chose itself falls back, with the reason.

    Args:
        plan: makes the Plan for a machine.
        environment: the machine.
        ranks: all of them call this together; rank 0 tries for all.
        tries: False for a machine that is described and not present: nothing can be
            tried on it.

    Returns:
        The Plan, and the machine with what failed on it.
    """
    tried: set[str] = set()
    while True:
        made = plan(environment)
        untried = [
            name
            for name in active_features(FEATURES, made)
            if FEATURES[name].pretest is not None and name not in tried
        ]
        if not untried or not tries:
            return made, environment
        tried |= set(untried)
        failed = _failures(untried, made.device, environment) if ranks.main else None
        failed = ranks.share(failed)
        environment = replace(
            environment, failed_pretests=environment.failed_pretests | failed
        )


def _failures(
    names: Iterable[str], device: str, machine: Environment
) -> dict[str, str]:
    """Feature -> why its pretest failed, for those that failed; all are recorded."""
    results = [
        run_pretest(name, plugins_of(FEATURES[name].pretest), device=device)
        for name in names
    ]
    for found in results:
        remember(found, machine.device_name)
    return {found.feature: found.problem for found in results if not found.passed}
