"""Which rules a run has: decided before it starts, with reasons in the Plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lumina.errors import LuminaError
from lumina.model.registry import comes_with
from lumina.plan.plan import Plan
from lumina.train.controls import control_named
from lumina.train.rules.rule import RULES, Rule


def with_rules(
    plan: Plan,
    *,
    plugins: Collection[str] = (),
    held: Iterable[str] = (),
    begun_with: Collection[str] = (),
) -> Plan:
    """The Plan with the rules that are on, and why.

    Args:
        plan: what was decided so far; `pinned` among it.
        plugins: the plug-ins that are named now. Only their rules are on, besides
            Lumina's own and those of imported modules.
        held: the rules of the checkpoint that the run goes on from.
        begun_with: the plug-ins that the run was begun with, for the hint of a refusal.

    Raises:
        LuminaError: E004 for a pinned control that does not exist, E002 for a rule of
            the checkpoint that is not there and for one that can change nothing.
    """
    rules = {n: rule for n, rule in RULES.items() if comes_with(rule, plugins)}
    missing = [name for name in held if name not in rules]
    if missing:
        raise LuminaError(
            "E002",
            f"the run has the rule {', '.join(missing)}, which no file has registered",
            f"add --plugins {' '.join(begun_with) or 'FILE'}",
        )
    wanted = {name: why for name in rules if (why := rules[name].wanted(plan))}
    for name in wanted:
        _check_changes(plan, rules[name])
    reason = "; ".join(f"{name}: {why}" for name, why in wanted.items())
    warnings = list(plan.warnings)
    for name in plan.pinned:
        warnings += _useless_pin(plan, name, [rules[rule] for rule in wanted])
    return plan.replace(
        rules=tuple(wanted),
        reasons=plan.reasons | {"rules": reason or "no rule is wanted"},
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _check_changes(plan: Plan, rule: type[Rule]) -> None:
    """Refuse a rule that could change nothing in this run.

    Raises:
        LuminaError: E004 for a control that does not exist, E002 when the run has none
            of the rule's controls.
    """
    objections = []
    for name in rule.changes:
        try:
            control_named(name).check_plan(plan)
        except LuminaError as error:
            if error.code != "E002":
                raise
            objections.append(f"{name}: {error.message}")
    if objections and len(objections) == len(rule.changes):
        raise LuminaError(
            "E002",
            f"the rule {rule.name} can change nothing here ({'; '.join(objections)})",
            "leave out its plug-in, or train a model that has one of its controls",
        )


def _useless_pin(plan: Plan, name: str, rules: list[type[Rule]]) -> list[str]:
    """Advice on a pin that changes nothing in this run."""
    control = control_named(name)
    try:
        control.check_plan(plan)
    except LuminaError as error:
        return [f"pin {name} has no effect: {error.message}"]
    if any(name in rule.changes for rule in rules):
        return []
    return [f"pin {name} has no effect: no rule of this run changes it"]
