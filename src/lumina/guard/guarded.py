"""A Plan whose features were tried on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lumina.assemble.ranks import Ranks
from lumina.features import FEATURES, active_features
from lumina.guard.history import known_failures, remember
from lumina.guard.levers import levers_of, pretest_levers, used
from lumina.guard.pretest import run_pretest
from lumina.guard.safe_optimizations import PretestHook
from lumina.model.registry import plugins_of
from lumina.plan.environment import Environment
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan


def guarded(
    plan: Callable[[Environment], Plan],
    environment: Environment,
    ranks: Ranks,
    tries: bool = True,
) -> tuple[Plan, Environment]:
    """Plan, try what the Plan relies on, and plan again without what fails.

    Where the run proves its optimisations, those that are not proven are left out.

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
    tried = {name for name, one in FEATURES.items() if not one.tries_first}
    if tries:
        known = known_failures(environment.device_name, tried) if ranks.main else None
        failed = environment.failed_pretests | ranks.share(known)
        environment = replace(environment, failed_pretests=failed)
    while True:
        made = plan(environment)
        untried = [
            name
            for name in active_features(FEATURES, made)
            if FEATURES[name].pretest is not None and name not in tried
        ]
        if not untried or not tries:
            if tries and made.safe.get("proves"):
                made = _proven(made, environment, ranks)
            if tries and made.safe.get("background"):
                made = _waiting(made, environment, ranks)
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


def _waiting(plan: Plan, machine: Environment, ranks: Ranks) -> Plan:
    """The Plan without the levers that wait for their proof, which it lists.

    Those whose newest result holds for this Plan are on or off by it from the start;
    what a running job cannot switch stays as it was planned.
    """
    levers = [
        name
        for name in levers_of(plan)
        if FEATURES[name].change_cost == "reassemble" and FEATURES[name].can_switch_on
    ]
    out: dict[str, str] = {}
    if ranks.main:
        hook = PretestHook()
        for name in levers:
            if why := hook.why(plan, name):
                out[name] = f"waits for its pretest beside the run: {why}"
            elif not hook.passed(plan, name):
                out[name] = "failed its pretest here"
    out = ranks.share(out)
    for name, why in out.items():
        feature = FEATURES[name]
        plan = feature.fallen_back(plan, machine)
        plan = plan.replace(reasons=plan.reasons | {feature.reason_key: why})
    plan = plan.replace(safe=plan.safe | {"waiting": levers})
    return with_spec(plan, plan.spec) if out else plan


def _proven(plan: Plan, machine: Environment, ranks: Ranks) -> Plan:
    """The Plan without the optimisations that are not proven here, and why.

    Each is tried in one process with the rows of one: how ranks share the work is not
    what an optimisation changes.
    """
    alone = plan.replace(
        world_size=1,
        parallel="none",
        global_batch_size=plan.micro_batch_size * plan.grad_accum,
    )
    found: dict[str, str] = {}
    if ranks.main:
        verdicts = pretest_levers(alone, machine, why="before a run")
        may = used(verdicts)
        found = {
            name: one.text
            if not one.trusted
            else "another is faster alone than both together"
            for name, one in verdicts.items()
            if "+" not in name and name not in may
        }
    found = ranks.share(found)
    for name, why in found.items():
        feature, text = FEATURES[name], f"left out, since it is not proven: {why}"
        plan = feature.fallen_back(plan, machine)
        plan = plan.replace(
            reasons=plan.reasons | {feature.reason_key: text},
            warnings=(*plan.warnings, f"{name} is {text}"),
        )
    return with_spec(plan, plan.spec) if found else plan
