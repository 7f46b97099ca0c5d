"""The schedule of a run's learning rate: which one, its options and its lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.plan.decisions import Decisions, asked_for, source_of
from lumina.plan.declared_options import read_options
from lumina.plan.schedule_table import TENTH, Schedule, chosen_schedule

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.duration import Done


def warmup_ratio_for(steps: int) -> float:
    """Share of a run spent on warm-up, by its length."""
    if steps < 10_000:
        return 0.1
    return 0.05 if steps <= 100_000 else 0.02


def decide_schedule(
    config: Config, decisions: Decisions, done: Done | None = None
) -> None:
    """Fix warm-up, decay and the final learning rate.

    Raises:
        LuminaError: E002 where a warm-up that was asked for fills the whole run.
    """
    train = config.train
    schedule = chosen_schedule(train.lr_scheduler)
    peak, batch = (
        decisions.values["learning_rate"],
        decisions.values["global_batch_size"],
    )
    length = decisions.values["steps"] + decisions.values["schedule_offset"]
    meant = (done.batch if done else None) or batch
    decisions.decide("schedule_batch", meant, "the batch that the run began with")
    # Where steps are the limit, warm-up is that many steps, whatever their rows.
    scale = meant / batch if decisions.values["epochs"] is not None else 1.0
    warmup, why = _warmup(config, schedule, length, scale)
    decisions.decide("warmup_steps", warmup, why)
    why = f"{source_of(config, 'lr_scheduler')}: {schedule.words}"
    decisions.decide("lr_scheduler", schedule.name, why)
    options = read_options(
        train.lr_scheduler_options,
        schedule.options,
        "lr_scheduler_options",
        f"the schedule {schedule.name}",
        "OPTION=VALUE",
    )
    why = source_of(config, "lr_scheduler_options")
    decisions.decide("lr_scheduler_options", options, why)
    min_lr, why = train.min_lr, source_of(config, "min_lr")
    if not schedule.falls:
        if train.min_lr is not None and config.is_chosen("min_lr"):
            _no_effect(decisions, "min_lr", schedule)
        min_lr, why = peak, f"a {schedule.name} schedule never falls"
    elif min_lr is None:
        min_lr, why = peak * schedule.floor, f"{schedule.floor:g} of the peak"
        if schedule.floor == TENTH:
            min_lr, why = peak / 10, "a tenth of the peak"
    decisions.decide("min_lr", min_lr, why)
    _decide_decay(config, schedule, decisions, length, length - warmup, scale)


def _no_effect(decisions: Decisions, leaf: str, schedule: Schedule) -> None:
    decisions.warn(f"{leaf} is set but has no effect: lr_scheduler is {schedule.name}")


def _warmup(
    config: Config, schedule: Schedule, steps: int, scale: float
) -> tuple[int, str]:
    """(steps of warm-up, why); never the whole run, so that the peak is reached.

    Args:
        config: what was asked for.
        schedule: which may have a share of its own.
        steps: length of the schedule.
        scale: today's steps for each step that was meant when they were asked for.
    """
    train = config.train
    asked = asked_for(config, "warmup_steps") or asked_for(config, "warmup_ratio")
    if schedule.warmup_ratio is not None and not asked:
        ratio = schedule.warmup_ratio
        why = f"{ratio:g} of the run: as {schedule.name} has it"
        return min(round(ratio * steps), steps - 1), why
    if train.warmup_steps is not None and (
        asked_for(config, "warmup_steps") or not asked_for(config, "warmup_ratio")
    ):
        whole = round(train.warmup_steps * scale) >= steps
        if whole and asked_for(config, "warmup_steps"):
            raise LuminaError(
                "E002",
                f"warmup_steps {train.warmup_steps} leave nothing of {steps} steps",
                f"use --warmup-steps {max(steps - 1, 0)} or less, or more --steps",
            )
        source = source_of(config, "warmup_steps")
        most = steps - 1
        if config.provenance["warmup_steps"].kind == "decided":
            most, source = steps // 10, f"{source}, at most a tenth of the steps"
        return min(round(train.warmup_steps * scale), most), source
    if train.warmup_ratio is not None:
        ratio, why = train.warmup_ratio, source_of(config, "warmup_ratio")
    else:
        ratio = warmup_ratio_for(steps)
        why = f"the rule for {steps:,} steps"
    return min(round(ratio * steps), steps - 1), f"{ratio:g} of the run: {why}"


def _decide_decay(
    config: Config,
    schedule: Schedule,
    decisions: Decisions,
    length: int,
    after_warmup: int,
    scale: float,
) -> None:
    """Fix in how many steps the rate falls; `scale` as of `_warmup`."""
    train, name = config.train, schedule.name
    if not schedule.stable:
        for leaf in ("decay_ratio", "decay_steps"):
            if config.is_chosen(leaf):
                _no_effect(decisions, leaf, schedule)
        falls = schedule.falls
        why = f"{name} falls from the end of warm-up"
        why = why if falls else f"a {name} schedule never falls"
        decisions.decide("decay_steps", after_warmup if falls else 0, why)
        return
    if train.decay_steps is not None:
        decay = max(1, round(train.decay_steps * scale))
        why = source_of(config, "decay_steps")
    else:
        decay = max(1, round(train.decay_ratio * length))
        why = f"{train.decay_ratio:g} of the run: {source_of(config, 'decay_ratio')}"
    if decay > after_warmup:
        decay, why = max(1, after_warmup), "all that warm-up leaves"
    decisions.decide("decay_steps", decay, why)
