"""One run: its directory, the loop in it, and what is left behind at its end."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.assemble.assemble import Progress, assemble
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.data.puzzles import PuzzleStore, eval_puzzles
from lumina.data.stream import Cursor, eval_batches
from lumina.errors import LuminaError
from lumina.model.interface import Batch
from lumina.observe.console import Console
from lumina.observe.events import EventLog
from lumina.observe.metrics import read_metrics
from lumina.observe.report import write_report
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.state.durable import write_error, write_file
from lumina.state.exact_json import dumps
from lumina.state.reader import CheckpointReader
from lumina.state.run_directory import RunDirectory, RunStatus
from lumina.train.controls import Controls
from lumina.train.expert_training import keep_expert
from lumina.train.loop import Best, Loop
from lumina.train.preparation import Preparation, configure_torch
from lumina.train.recorder import Recorder
from lumina.train.resume import Resumption, find_run
from lumina.train.signals import StopSignals


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        run_dir: where everything is.
        final_loss: of the last step; NaN if no step ran.
        best_eval_loss: None if nothing was evaluated.
        steps: completed steps.
        tokens: tokens seen.
        reason: "done", or why it stopped.
        exit_code: 0, or 130/143 when a signal stopped it.
    """

    run_dir: Path
    final_loss: float
    best_eval_loss: float | None
    steps: int
    tokens: int
    reason: str = "done"
    exit_code: int = 0


class Job:
    """One call of `Trainer.train`, in the order things happen.

    Attributes:
        prepared: what was decided: settings, data, plan.
        directory: where the run is recorded.
    """

    directory: RunDirectory

    def __init__(self, config: Config, ranks: Ranks, console: Console) -> None:
        self.asked = config
        self.ranks = ranks
        self.console = console
        self.prepared = Preparation(config, ranks, console)
        self.started = time.monotonic()
        self._held: RunDirectory | None = None
        self._recorder: Recorder | None = None
        self._store: CheckpointStore | None = None
        self._loop: Loop | None = None

    @property
    def plan(self) -> Plan:
        """What was decided."""
        return self.prepared.plan

    # -- before the first step ----------------------------------------------

    def prepare(self) -> TrainResult | None:
        """Find the run to go on with, take its directory, decide the plan.

        Returns:
            The result of a run that is already finished, else None.
        """
        run = find_run(self.asked)
        try:
            if run is not None:
                # Before anything is read: a second writer is refused at once.
                self._take_directory(run, resume=True)
            elif self.ranks.main:
                self._refuse_existing()
            self.prepared.look_back(run)
            resumption = self.prepared.resumption
            if resumption is not None and resumption.finished:
                return self._already_finished(resumption)
            self.prepared.decide()
        except LuminaError as error:
            self._leave_word(error)
            raise
        return None

    def _refuse_existing(self) -> None:
        folder = self.asked.run.run_dir
        if folder and not self.asked.run.auto_resume and RunDirectory(folder).is_run:
            raise LuminaError(
                "E002",
                f"there is a run in {folder} already",
                "add --auto-resume to go on with it, or name another --run-dir",
            )

    def _leave_word(self, error: LuminaError) -> None:
        """Why an existing run did not go on, in its own events.jsonl."""
        if self._held is None:
            return
        log = EventLog(self.directory.events)
        for event in self.prepared.events:
            log.emit(**event)
        log.emit("run_failed", "error", error.code, error.message)
        log.close()

    # -- the run ---------------------------------------------------------------

    def build(self, on_row: Callable[[dict[str, Any]], None]) -> Loop:
        """Take the run directory and assemble everything the loop needs."""
        prepared, plan = self.prepared, self.plan
        configure_torch(plan, self.ranks, prepared.environment)
        if prepared.resumption is None:
            self._take_directory(self._new_directory(), resume=False)
        self._name_directory()
        if self.ranks.main:
            self._write_decisions()
        folder = self.directory.path
        recorder = self._recorder = Recorder(
            folder,
            plan,
            self.console,
            main=self.ranks.main,
            device_name=prepared.environment.device_name,
            on_row=on_row,
        )
        store = self._store = CheckpointStore(
            folder,
            keep=plan.save_total_limit,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            on_event=recorder.event,
        )
        for event in prepared.events:
            recorder.event(**({"step": None} | event))
        if self.ranks.main:
            self._banner()
        if prepared.reader is None:
            progress, best, controls, program = self._begin(recorder)
        else:
            progress, best, controls, program = self._go_on(
                prepared.reader, recorder, store
            )
        self._loop = Loop(
            program=program,
            stream=prepared.stream,
            eval_batches=None if prepared.prepared.eval is None else self._eval_batches,
            progress=progress,
            recorder=recorder,
            checkpoints=store,
            controls=controls,
            signals=StopSignals(),
            config=prepared.config.to_dict(),
            best=best,
            saved=progress.step if prepared.reader else -1,
        )
        self.console.start(plan, progress.step)
        return self._loop

    def run(self) -> TrainResult:
        """The loop, and what follows its end."""
        loop = self._loop
        assert loop is not None
        try:
            with loop.signals:
                loop.run()
        except BaseException as error:
            self._failed(error)
            raise
        result = TrainResult(
            run_dir=self.directory.path,
            final_loss=loop.recorder.last_row.get("loss", math.nan),
            best_eval_loss=None if math.isinf(loop.best.loss) else loop.best.loss,
            steps=loop.progress.step,
            tokens=loop.progress.tokens,
            reason=loop.reason,
            exit_code=(loop.signals.exit_code or 143) if loop.interrupted else 0,
        )
        self._finished(result)
        return result

    def close(self) -> None:
        """Let go of everything, whatever happened."""
        self.console.close()
        try:
            if self._store is not None:
                self._store.close(wait=sys.exc_info()[0] is None)
        finally:
            if self._recorder is not None:
                self._recorder.close()
            if self._held is not None:
                self._held.close()
            self.ranks.disconnect()

    def _begin(self, recorder: Recorder) -> tuple[Progress, Best, Controls, Program]:
        """A Program with initial weights, or those of `--init-from`."""
        weights = self.prepared.weights
        if recorder.metrics is not None:
            recorder.metrics.truncate_after(0)
        program = assemble(
            self.plan, weights.source if weights else None, ranks=self.ranks
        )
        return Progress(cursor=Cursor().to_dict()), Best(), Controls(), program

    def _go_on(
        self, reader: CheckpointReader, recorder: Recorder, store: CheckpointStore
    ) -> tuple[Progress, Best, Controls, Program]:
        """The Program and the loop's memory, from a checkpoint."""
        meta = reader.meta
        self._check_data(meta.extra)
        program = assemble(self.plan, reader, ranks=self.ranks, meta=meta)
        progress = Progress(
            step=meta.step,
            tokens=meta.counters["tokens"],
            skipped=meta.counters["skipped"],
            cursor=meta.cursor,
        )
        best = Best(
            math.inf if meta.extra["best_loss"] is None else meta.extra["best_loss"],
            meta.extra["best_step"],
            meta.extra["worse_evaluations"],
        )
        recorder.skipped = progress.skipped
        store.rewind(progress.step)
        if recorder.metrics is not None:
            recorder.metrics.truncate_after(progress.step)
            rows = read_metrics(self.directory.path)
            recorder.last_row = rows[-1] if rows else {}
        self._tell_resumed(reader.path, progress.step)
        reader.close()
        return progress, best, Controls(meta.journal), program

    def _check_data(self, extra: dict[str, Any]) -> None:
        """The position in the data means nothing in other data."""
        if extra["data_fingerprint"] != self.prepared.stream.store.fingerprint:
            raise LuminaError(
                "E002",
                "the training data is not what this run was begun with",
                "restore it, or start another run with --init-from",
            )

    def _tell_resumed(self, checkpoint: Path, step: int) -> None:
        assert self._recorder is not None and self.prepared.resumption is not None
        changes = self.prepared.resumption.changes
        told = "; ".join(f"{k}: {old} -> {new}" for k, (old, new) in changes.items())
        self._recorder.event(
            "resumed",
            "info",
            None,
            f"going on from {checkpoint.name}" + (f" with {told}" if told else ""),
            step=step,
            checkpoint=checkpoint.name,
            world_size=self.ranks.world_size,
        )
        if {"steps", "epochs"} & changes.keys():
            self._recorder.event(
                "schedule_recomputed",
                "info",
                None,
                f"the run now ends at step {self.plan.steps}; the learning rate "
                "follows the schedule of that length from here on",
                step=step,
            )

    def _eval_batches(self, program: Program) -> Iterator[Batch]:
        """This rank's share of the held-out batches, the same rows on any split."""
        held_out = self.prepared.prepared.eval
        assert held_out is not None
        plan, ranks = program.plan, program.ranks
        size = plan.micro_batch_size
        rows = plan.eval_batches * plan.global_batch_size
        if isinstance(held_out, PuzzleStore):
            return eval_puzzles(
                held_out,
                size,
                max(rows // size, 1),
                rank=ranks.rank,
                world_size=ranks.world_size,
            )
        return eval_batches(
            held_out,
            plan.spec.seq_length,
            size,
            max(rows // size, 1),
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    # -- the run directory -------------------------------------------------------

    def _new_directory(self) -> Path:
        """Where a new run goes: as asked, or a fresh name that all ranks agree on."""
        named = self.asked.run.run_dir
        if named is None and self.ranks.main:
            named = str(RunDirectory.new(self.asked.preset or "run").path)
        return Path(self.ranks.share(named))

    def _take_directory(self, path: Path, *, resume: bool) -> None:
        self.directory = RunDirectory(path)
        if self.ranks.main:
            auto = self.asked.run.auto_resume
            self._held = self.directory.acquire(resume=resume or auto)

    def _name_directory(self) -> None:
        """A run that was given no directory says which one it got."""
        path, config = str(self.directory.path), self.prepared.config
        if config.run.run_dir != path:
            named = Source("default", "named after the preset and the time")
            self.prepared.config = config.override({"run_dir": path}, named)

    def _write_decisions(self) -> None:
        """config.yaml, plan.json and the tokenizer."""
        plan = dumps(self.plan.to_dict(), indent=1) + "\n"
        try:
            # The settings first: with them, a killed run can be gone on with.
            write_file(self.directory.config, self.prepared.config.to_yaml().encode())
            write_file(self.directory.plan, plan.encode())
            self._save_tokenizer()
        except OSError as error:
            raise write_error(error, self.directory.path) from error
        reader = self.prepared.reader
        self.directory.mark("running", reader.meta.step if reader else 0)

    def _save_tokenizer(self) -> None:
        """Whole or not at all: a resume reads the run's own tokenizer."""
        tokenizer = self.prepared.prepared.tokenizer
        if tokenizer is None:  # puzzles have none
            return
        folder = self.directory.tokenizer
        if folder.is_dir():
            return
        unfinished = folder.with_name(f".{folder.name}.tmp")
        tokenizer.save(unfinished)
        os.replace(unfinished, folder)

    def _banner(self) -> None:
        stats, stream = self.prepared.prepared.stats, self.prepared.stream
        shown = ("documents", "conversations", "skipped", "train_tokens", "eval_tokens")
        told = {key: stats.get(key, 0) for key in shown}
        told["packing"] = f"{stream.utilisation:.1%} of positions used"
        self.console.banner(
            self.plan,
            self.prepared.environment,
            told,
            self.prepared.config.provenance,
            title=f"Lumina  {self.directory.path}",
        )

    def _already_finished(self, resumption: Resumption) -> TrainResult:
        """An auto-resumed run that is done stays as it is."""
        assert resumption.reader is not None
        meta = resumption.reader.meta
        status = RunDirectory(resumption.run).status() or {}
        self.console.message(
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

    def _finished(self, result: TrainResult) -> None:
        if not self.ranks.main:
            return
        assert self._recorder is not None
        status: RunStatus = "interrupted" if result.exit_code else "finished"
        self._recorder.event(
            "run_" + status,
            "warning" if result.exit_code else "info",
            None,
            result.reason,
            step=result.steps,
        )
        loss = result.final_loss if math.isfinite(result.final_loss) else None
        if self.prepared.config.train.expert_id and not result.exit_code:
            self._keep_expert(result.steps, loss)
        self.directory.mark(status, result.steps, final_loss=loss, reason=result.reason)
        report = write_report(self.directory.path)
        again = f"lumina train --resume {self.directory.path}"
        chat = f"lumina generate {self.directory.path} --prompt 'Once'"
        if self.plan.spec.hrm is not None:  # answers puzzles, not prompts
            chat = again
        self.console.finish(
            {
                "reason": result.reason,
                "steps": result.steps,
                "tokens": result.tokens,
                "seconds": time.monotonic() - self.started,
                "final_loss": loss,
                "best_eval_loss": result.best_eval_loss,
                "run_dir": str(result.run_dir),
                "report": str(report),
                "next": again if result.exit_code else chat,
            }
        )

    def _keep_expert(self, steps: int, loss: float | None) -> None:
        """The expert that trained alone, as a file of its own and in the registry."""
        assert self._recorder is not None
        config = self.prepared.config
        kept = keep_expert(config, self.directory.path, loss, steps)
        name = config.train.expert_id
        self._recorder.event(
            "expert_saved", "info", None, f"the expert {name} is in {kept}", step=steps
        )

    def _failed(self, error: BaseException) -> None:
        """Leave word of what went wrong; the error itself goes on to the caller."""
        loop, recorder = self._loop, self._recorder
        if loop is None or recorder is None or not self.ranks.main:
            return
        code = error.code if isinstance(error, LuminaError) else None
        # With the disk full, word of it may not fit; the error itself is what counts.
        with contextlib.suppress(LuminaError):
            recorder.event(
                "run_failed",
                "critical",
                code,
                getattr(error, "message", f"{type(error).__name__}: {error}"),
                step=loop.progress.step,
            )
        with contextlib.suppress(LuminaError):
            self.directory.mark("failed", loop.progress.step)
