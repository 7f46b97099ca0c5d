"""What a run leaves behind at its end: word in its directory, a report, a result."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Sequence

from lumina.config import Config
from lumina.errors import LuminaError, OtherRankError, shell_path
from lumina.model.kinds.table import kinds_of
from lumina.observe.console import Console
from lumina.observe.report import write_report
from lumina.plan.duration import length_in_words
from lumina.plan.plan import Plan
from lumina.state.run_directory import RunDirectory, RunStatus
from lumina.train.experience import remember
from lumina.train.expert_training import keep_expert
from lumina.train.loop import Loop
from lumina.train.recorder import Recorder
from lumina.train.result import TrainResult
from lumina.train.resume import Resumption


def outcome(loop: Loop, directory: RunDirectory) -> TrainResult:
    """The result of a loop that has ended without an error."""
    return TrainResult(
        run_dir=directory.path,
        final_loss=loop.recorder.last_loss,
        best_eval_loss=None if math.isinf(loop.best.loss) else loop.best.loss,
        steps=loop.progress.step,
        tokens=loop.progress.tokens,
        reason=loop.end.reason,
        exit_code=loop.end.exit_code,
        paused=loop.end.paused,
    )


def already_finished(resumption: Resumption, console: Console) -> TrainResult:
    """An auto-resumed run that is done stays as it is."""
    assert resumption.reader is not None
    meta = resumption.reader.meta
    status = RunDirectory(resumption.run).status() or {}
    console.message(
        f"{resumption.run} is finished at step {meta.step}; raise --steps or "
        "--epochs to train on"
    )
    return TrainResult(
        run_dir=resumption.run,
        final_loss=status.get("data", {}).get("final_loss") or math.nan,
        best_eval_loss=meta.extra["best_loss"],
        steps=meta.step,
        tokens=meta.counters["tokens"],
    )


def finish(
    result: TrainResult,
    config: Config,
    plan: Plan,
    directory: RunDirectory,
    recorder: Recorder,
    console: Console,
    seconds: float,
    conversations: bool,
    samples: Sequence[tuple[str, str]] = (),
) -> None:
    """Mark the run, write its report, and tell a person what to do next.

    Args:
        result: how it ended.
        config: its settings.
        plan: what was done.
        directory: where it is recorded.
        recorder: its event log.
        console: what the person sees.
        seconds: how long it took.
        conversations: there were conversations among the training data.
        samples: (prompt, continuation) pairs for the report.
    """
    early = bool(result.exit_code) or result.paused
    status: RunStatus = "interrupted" if early else "finished"
    recorder.event(
        "run_" + status,
        "warning" if result.exit_code else "info",
        None,
        result.reason,
        step=result.steps,
    )
    loss = result.final_loss if math.isfinite(result.final_loss) else None
    if config.train.expert_id and not result.exit_code:
        _keep_expert(config, directory, recorder, result.steps, loss)
    reason = result.reason
    if reason == "done":
        reason = f"done: {length_in_words(plan)}"
    directory.mark(status, result.steps, final_loss=loss, reason=reason)
    remember(config, directory, recorder)
    report = write_report(directory.path, samples=samples)
    console.finish(
        {
            "reason": reason,
            "steps": result.steps,
            "tokens": result.tokens,
            "seconds": seconds,
            "final_loss": loss,
            "best_eval_loss": result.best_eval_loss,
            "run_dir": str(result.run_dir),
            "report": str(report),
            "next": _next_command(result, plan, conversations),
        }
    )


def _next_command(result: TrainResult, plan: Plan, conversations: bool) -> str:
    """What to run next: go on with a run that was stopped, or try the model.

    It can be copied into a shell as it stands.
    """
    run = shell_path(result.run_dir)
    # Puzzles are answered, not prompted.
    if result.exit_code or plan.spec.solves_puzzles:
        return f"lumina train --resume {run}"
    needed = [
        w for kind in kinds_of(plan.spec) for w in kind.loading_options(plan.spec)
    ]
    options = f" {shlex.join(needed)}" if needed else ""
    if conversations:
        return f"lumina chat {run}{options}"
    return f"lumina generate {run}{options} --prompt 'Once'"


def _keep_expert(
    config: Config,
    directory: RunDirectory,
    recorder: Recorder,
    steps: int,
    loss: float | None,
) -> None:
    """The expert that trained alone, as a file of its own and in the registry."""
    kept = keep_expert(config, directory.path, loss, steps)
    name = config.train.expert_id
    recorder.event(
        "expert_saved", "info", None, f"the expert {name} is in {kept}", step=steps
    )


def leave_failure(
    error: BaseException,
    config: Config,
    directory: RunDirectory,
    recorder: Recorder,
    step: int,
) -> None:
    """Leave word of what went wrong; the error itself goes on to the caller."""
    code, data = None, {}
    if isinstance(error, LuminaError | OtherRankError):
        code = error.code
    if isinstance(error, OtherRankError):
        data["rank"] = error.rank
    # With the disk full, word of it may not fit; the error itself is what counts.
    with contextlib.suppress(LuminaError):
        recorder.event(
            "run_failed",
            "critical",
            code,
            getattr(error, "message", f"{type(error).__name__}: {error}"),
            step=step,
            **data,
        )
    mark_failed(directory, step)
    remember(config, directory, recorder)
    # The page tells what happened; what went wrong is told whether or not it fits.
    with contextlib.suppress(LuminaError):
        write_report(directory.path)


def mark_failed(directory: RunDirectory, step: int) -> None:
    """Record that a run has ended with an error, where a run has begun at all."""
    # A folder without a run stays free for the next attempt, and a run whose report
    # alone could not be written has ended as its directory says.
    if directory.is_run and not directory.finished:
        with contextlib.suppress(LuminaError):
            directory.mark("failed", step)
