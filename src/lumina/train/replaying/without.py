"""What would have come of a run without one of its decisions: measured, not predicted.

The run goes on a second time from its last checkpoint before the decision, for some
steps, with the same rows of data and the same random draws, and nothing is decided in
it. So the losses of the two are compared step by step, on the same text.
"""

from __future__ import annotations

import io
import math
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.plan.gradient_steps import ROBUST
from lumina.plan.plan import Plan
from lumina.state.decisions_made import Made, decisions_made
from lumina.state.events import EventLog, read_events
from lumina.state.json_lines import JsonLinesFile
from lumina.state.liveness import state_of
from lumina.state.metrics import read_metrics
from lumina.state.reader import step_folders
from lumina.state.run_directory import RunDirectory
from lumina.train.branch import Branch, make_folder
from lumina.train.replaying.history import Event, History, Pass, Row, history_of
from lumina.train.resume import saved_config
from lumina.train.trainer import Trainer

EVENT = "counterfactual"
"""The kind of the event that the run gets."""

DEVIATIONS = 2.0
"""Standard errors from which a difference is one."""


@dataclass(frozen=True)
class Without:
    """A run with a decision, and the same steps without it.

    Attributes:
        number: of the decision.
        action: that was left out.
        checkpoint: completed steps of the checkpoint that the second run began at.
        first: the first step whose losses are compared.
        last: the last one.
        with_it: mean loss of those steps as the run was, in nats per token.
        without_it: the same without the decision.
        error: standard error of the mean of the differences of the pairs; None of one.
        verdict: "better" where the decision helped, "worse", or "same" where the
            difference is within two standard errors.
        repeated: the largest relative difference of the losses of steps before the
            decision, which both took; 0 where they are the same to the bit, None
            where there are none.
        steps: that were computed for it.
        tokens: input tokens of these steps: what it cost.
        rows: the file with the rows of the second run, in the run's folder.
    """

    number: int
    action: str
    checkpoint: int
    first: int
    last: int
    with_it: float
    without_it: float
    error: float | None
    verdict: str
    repeated: float | None
    steps: int
    tokens: int
    rows: str

    @property
    def text(self) -> str:
        """A sentence."""
        error = "not known" if self.error is None else f"{self.error:.4f}"
        return (
            f"without decision {self.number} ({self.action}) the mean loss of steps "
            f"{self.first:,} to {self.last:,} is {self.without_it:.4f}, and with it "
            f"{self.with_it:.4f} (standard error of the difference: {error}): "
            f"the decision made the run {_WORDS[self.verdict]}; {self.steps:,} steps "
            f"with {self.tokens:,} tokens were computed for that"
        )


_WORDS = {"better": "better", "worse": "worse", "same": "neither better nor worse"}


@dataclass(frozen=True)
class _Place:
    """Where a decision stands in the history of its run."""

    made: Made
    applied: int
    change: Event
    at: int  # of its pass
    history: History

    @property
    def steps(self) -> Pass:
        return self.history.passes[self.at]

    @property
    def goes_back(self) -> bool:
        return self.made.control == "rollback"

    def compared(self) -> list[Row]:
        """The rows of the run that the decision had a part in."""
        passes = self.history.passes
        rows = passes[self.at + 1 if self.goes_back else self.at].rows
        return [row for row in rows if row["step"] > self.applied]


def without(run: RunDirectory, number: int, steps: int | None = None) -> Without:
    """Measure what a decision was worth, and enter it in the events of the run.

    Args:
        run: that has ended.
        number: of the decision.
        steps: after the decision that are taken without it; the second half of them is
            compared, because a lower rate looks better at once. None: two cooldowns.

    Raises:
        LuminaError: E002 for a run that goes on, and for a decision that changed
            nothing; E004 for a decision that there is not; E304 where no checkpoint
            from before it is left; what a resume raises.
    """
    if state_of(run.path) == "running":
        raise LuminaError(
            "E002",
            f"{run.path} is still being trained",
            "wait until the training has ended",
        )
    place = _place(run, number)
    cooldown = place.history.plans[-1][1].orchestrator.get("cooldown_steps", 5)
    steps = steps or 2 * cooldown
    compared = [row for row in place.compared() if row["step"] <= place.applied + steps]
    if not compared:
        raise LuminaError(
            "E002",
            f"the run has no steps after decision {number}",
            "name an earlier decision",
        )
    step, checkpoint = _begin(run, place)
    rows = _go_on(run, place, step, checkpoint, int(compared[-1]["step"]))
    found = _compare(run, place, step, rows, compared, steps)
    log = EventLog(run.events)
    log.emit(EVENT, "info", None, found.text, place.made.step, **asdict(found))
    log.close()
    return found


def _place(run: RunDirectory, number: int) -> _Place:
    """The decision, and the change that it led to.

    Raises:
        LuminaError: E004 for one that there is not, E002 for one without a change.
    """
    standing = [one for one in decisions_made(read_events(run.path)) if not one.undone]
    made = next((one for one in standing if one.number == number), None)
    if made is None:
        numbers = ", ".join(str(one.number) for one in standing) or "none"
        raise LuminaError(
            "E004",
            f"{run.path} has no decision {number}",
            f"its decisions are {numbers}; `lumina explain {run.path}` tells of them",
        )
    history = history_of(run)
    changes = iter(
        (at, applied, event)
        for at, one in enumerate(history.passes)
        for applied, events in sorted(one.changes.items())
        for event in events
        if event["data"].get("rule") == "orchestrator"
        and event["data"].get("outcome") in _HELD
    )
    # A decision is entered when its change is applied, so both have one order.
    for one in standing:
        if not one.control or one.mode != "on":
            continue
        found = next(
            (c for c in changes if c[2]["data"].get("name") == one.control), None
        )
        if one is made and found is not None:
            at, applied, event = found
            return _Place(made, applied, event, at, history)
    raise LuminaError(
        "E002",
        f"decision {number} ({made.action}) changed nothing, so the run is what it "
        "would have been without it",
        "name a decision that was carried out",
    )


def _begin(run: RunDirectory, place: _Place) -> tuple[int, Path]:
    """The newest checkpoint from before the decision that its steps began with.

    A rollback writes the checkpoint of the step it goes to anew, so those of earlier
    passes are there up to that step only. A checkpoint of the step of the decision has
    it already, to be carried out. What was changed at a checkpoint's own step, or right
    after it, is not in it and cannot be asked for in time.

    Raises:
        LuminaError: E304 where there is none.
    """
    passes = place.history.passes
    least = max((one.back_to or 0 for one in passes[: place.at]), default=0)
    targets = [one.back_to for one in passes[place.at :] if one.back_to is not None]
    late = {
        step
        for step, events in place.steps.changes.items()
        if step < place.applied and any(_again(one, step, place) for one in events)
    }
    for step, path in sorted(step_folders(run.checkpoints), reverse=True):
        there = least <= step < place.made.step and all(step < one for one in targets)
        if there and not {step, step + 1} & {
            one for one in late if one < place.applied
        }:
            return step, path
    raise LuminaError(
        "E304",
        f"{run.path} has no checkpoint left from before decision {place.made.number}, "
        f"of step {place.made.step:,}",
        "train with a smaller --save-every-n-batches and a larger --save-total-limit",
    )


def _go_on(
    run: RunDirectory, place: _Place, step: int, checkpoint: Path, last: int
) -> list[Row]:
    """Train from the checkpoint to a step without the decision; the rows of it."""
    folder = run.path / f".without-{place.made.number}"
    shutil.rmtree(folder, ignore_errors=True)
    saved = saved_config(run.path)
    made = make_folder(Branch(run.path, checkpoint, step, saved), str(folder))
    # Earlier changes are made again; of later ones those that no rule made.
    again = {
        at: [e["data"] for e in events if _again(e, at, place)]
        for at, events in place.steps.changes.items()
        if at > step
    }
    try:
        config = _config(made, place.history.plans[-1][1])
        trainer: Trainer

        def on_step(trainer: Trainer, row: Mapping[str, Any]) -> None:
            assert trainer.controls is not None
            for data in again.get(int(row["step"]) + 1, ()):
                trainer.controls.request(data["name"], data["value"], data["reason"])
            if row["step"] == last:
                trainer.stop()

        quiet = Console(stream=io.StringIO(), live=False)
        trainer = Trainer(config, console=quiet, on_step=on_step)
        trainer.train()
        return [row for row in read_metrics(made) if step < row["step"] <= last]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _again(event: Event, at: int, place: _Place) -> bool:
    """Whether a change of the run is made in the run without the decision, too."""
    if event is place.change or event["data"].get("outcome") not in _HELD:
        return False
    return at < place.applied or not event["data"].get("rule")


_HELD = ("applied", "undone")


def _config(folder: Path, plan: Plan) -> Config:
    """The settings of the second run: the same arithmetic, and nothing is decided."""
    return Config().override(
        {
            "resume": str(folder),
            "adaptive": "shadow",  # which changes nothing
            "robust_clip": ROBUST in plan.gradient_steps,
            "experience": "off",
            "supervise": False,
            "trackers": (),
            "report_samples": 0,
        },
        Source("flag", "without"),
    )


def _compare(
    run: RunDirectory,
    place: _Place,
    step: int,
    rows: list[Row],
    compared: list[Row],
    steps: int,
) -> Without:
    """Pairs of losses of the same steps."""
    other = {int(row["step"]): row for row in rows}
    begin = min(place.applied + steps // 2, int(compared[-1]["step"]) - 1)
    pairs = [
        (int(row["step"]), row["loss"], other[int(row["step"])]["loss"])
        for row in compared
        if row["step"] > begin and int(row["step"]) in other
    ]
    pairs = [one for one in pairs if _finite(one[1]) and _finite(one[2])]
    if not pairs:
        raise LuminaError(
            "E002",
            f"no step after decision {place.made.number} has a finite loss both with "
            "and without it",
            "name more --steps",
        )
    apart = [with_it - without_it for _, with_it, without_it in pairs]
    error = None
    if len(apart) > 1:
        error = statistics.stdev(apart) / math.sqrt(len(apart))
    mean, verdict = statistics.fmean(apart), "same"
    if error is not None and abs(mean) > DEVIATIONS * error:
        verdict = "better" if mean < 0 else "worse"
    before = [
        abs(row["loss"] - other[int(row["step"])]["loss"]) / abs(row["loss"])
        for row in place.steps.rows
        if step < row["step"] <= place.applied
        and int(row["step"]) in other
        and _finite(row["loss"])
    ]
    at_checkpoint = max(
        (int(row["tokens"]) for row in place.steps.rows if row["step"] <= step),
        default=0,
    )
    return Without(
        number=place.made.number,
        action=place.made.action,
        checkpoint=step,
        first=pairs[0][0],
        last=pairs[-1][0],
        with_it=statistics.fmean(one for _, one, _ in pairs),
        without_it=statistics.fmean(one for _, _, one in pairs),
        error=error,
        verdict=verdict,
        repeated=max(before, default=None),
        steps=len(rows),
        tokens=int(rows[-1]["tokens"]) - at_checkpoint,
        rows=_keep(run, place.made.number, rows),
    )


def _keep(run: RunDirectory, number: int, rows: list[Row]) -> str:
    """Write the rows of the second run into the run's folder; gives the file."""
    file = run.path / "without" / f"decision-{number}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    lines = JsonLinesFile(file)
    for row in rows:
        lines.append(dict(row))
    lines.close()
    return str(file.relative_to(run.path))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
