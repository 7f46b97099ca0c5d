"""The Plan of a resumed run: made again, plus the changes its controls made."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.plan.figures import with_spec
from lumina.plan.kinds.parts import as_begun
from lumina.plan.plan import Plan
from lumina.state.reader import CheckpointReader
from lumina.state.state import State
from lumina.train.controls import Controls, control_named, known_controls


def as_left(
    plan: Plan,
    config: Config,
    reader: CheckpointReader,
    changes: Collection[str],
    events: list[dict[str, Any]],
) -> Plan:
    """The Plan as the run and its controls left it, where nothing newer was asked for.

    Args:
        plan: what would be decided today.
        config: the settings.
        reader: the checkpoint to go on from.
        changes: options that were given another value now.
        events: receives a change that can no longer be made.

    Raises:
        LuminaError: E002 for a change by a control that is not registered.
    """
    meta = reader.meta
    plan = _as_begun(plan, config, meta, changes)
    plan = _without_new_features(plan, config, meta)
    spec = replace(as_begun(plan.spec, meta.spec), context=meta.spec.get("context", 0))
    if spec != plan.spec:
        plan = with_spec(plan, spec)
    standing = Controls(meta.journal).standing()
    _check_registered(standing, config)
    for name in dict.fromkeys([*known_controls(), *standing]):
        try:
            last = standing.get(name)
            plan = control_named(name).as_left(plan, meta, last, changes)
        except LuminaError as error:
            events.append(
                {
                    "kind": "control_dropped",
                    "severity": "warning",
                    "code": error.code,
                    "message": f"{name} {last and last.value}: {error.message}",
                }
            )
    return plan


def _without_new_features(plan: Plan, config: Config, meta: State) -> Plan:
    """The Plan without features that chose themselves only since the run began."""
    before = meta.plan.get("features", ())
    for name in plan.features:
        feature = FEATURES[name]
        if name not in before and not feature.is_requested(config):
            plan = plan.replace(
                features=tuple(kept for kept in plan.features if kept != name),
                reasons=plan.reasons | {feature.reason_key: "off when the run began"},
            )
            plan = with_spec(plan, plan.spec)
    return plan


def _check_registered(names: Iterable[str], config: Config) -> None:
    """Refuse to go on without a control that has changed the run.

    Raises:
        LuminaError: E002, naming the control and the option that loads it.
    """
    for name in names:
        try:
            control_named(name)
        except LuminaError as error:
            raise LuminaError(
                "E002",
                f"the run was changed by {name}, a control that no file has registered",
                f"add --plugins {' '.join(config.parts.plugins) or 'FILE'}",
            ) from error


def _as_begun(
    plan: Plan, config: Config, meta: State, changes: Collection[str]
) -> Plan:
    """Automatic choices as the run began with them: others would change its bits.

    A measured precision and a micro-batch that follows the free memory may come
    out differently on the same machine a day later.
    """
    before = meta.plan
    if "optimizer_options" not in changes:
        held = before.get("optimizer_options", {})
        options = {
            name: now | held.get(name, {})
            for name, now in plan.optimizer_options.items()
        }
        plan = plan.replace(optimizer_options=options)
    if before["device"] != plan.device:
        return plan
    if config.system.precision == "auto":
        plan = plan.replace(compute_dtype=before["compute_dtype"])
    same = all(
        before[field] == getattr(plan, field)
        for field in ("world_size", "global_batch_size")
    ) and plan.context_parallel == before.get("context_parallel", 1)
    chosen = {"batch_size", "grad_accum", "gradient_checkpointing"} & set(changes)
    if same and not chosen:
        plan = plan.replace(
            micro_batch_size=before["micro_batch_size"],
            grad_accum=before["grad_accum"],
            gradient_checkpointing=before["gradient_checkpointing"],
            block_checkpointing=tuple(before.get("block_checkpointing", ())),
        )
    return plan
