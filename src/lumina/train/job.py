"""One call of `Trainer.train`, in the order things happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.config.leaves import field
from lumina.config.modifications import MODIFIERS
from lumina.data.recorded_encoding import encoding_of
from lumina.data.sources.patient import tell_retries
from lumina.ending import noted_on, take_all
from lumina.errors import LuminaError
from lumina.heartbeat import beat
from lumina.memory_shortage import shortage_code, shortage_text
from lumina.observe.console import Console
from lumina.observe.trackers import Session, Trackers, chosen_tracker
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.train.banner import banner_facts, live_facts
from lumina.train.beside_run import backup_of, log_of
from lumina.train.edits import write_edits
from lumina.train.end_of_run import EndOfRun
from lumina.train.evaluations import Evaluations
from lumina.train.finish import (
    already_finished,
    finish,
    leave_failure,
    mark_failed,
    outcome,
)
from lumina.train.first_failure import failures_shared
from lumina.train.held_out import held_out_batches
from lumina.train.last_save import save_before_crash
from lumina.train.loop import Loop
from lumina.train.memory_ladder.recovery import MemoryRecovery
from lumina.train.origin import origin
from lumina.train.preparation import Preparation
from lumina.train.recorder import Recorder
from lumina.train.recovery.preflight import tested
from lumina.train.recovery.recovery import Recovery
from lumina.train.restarted import tell_restart
from lumina.train.result import TrainResult
from lumina.train.resume import find_run
from lumina.train.run_folder import RunFolder
from lumina.train.samples import Samples
from lumina.train.saving import Saving
from lumina.train.signals import StopSignals
from lumina.train.stage_evaluation import tell_stages
from lumina.train.start import begin, go_on
from lumina.train.stopping import Stops
from lumina.train.time_expected import TimeExpected
from lumina.train.torch_settings import configure_torch

Taker = Callable[[dict[str, Any]], None]
"""Takes a row or an event."""


class Job:
    """One call of `Trainer.train`, in the order things happen.

    Attributes:
        prepared: what was decided: settings, data, plan.
        folder: where the run is recorded.
        supervised: whether the run is supervised and why, for the banner; empty: that
            is not said.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        console: Console,
        after_phase: int | None = None,
    ) -> None:
        self.asked = config
        self.ranks = ranks
        self.console = console
        self.prepared = Preparation(config, ranks, console, after_phase)
        self.folder = RunFolder(config, ranks)
        self.signals = StopSignals(ranks.main)
        self.signals.leave_word = self._leave_interruption
        self.started = time.monotonic()
        self.supervised = ""
        self._recorder: Recorder | None = None
        self._store: CheckpointStore | None = None
        self._loop: Loop | None = None
        self._restore_torch: Callable[[], None] | None = None
        self._expected: TimeExpected | None = None

    @property
    def plan(self) -> Plan:
        """What was decided."""
        return self.prepared.plan

    def prepare(self) -> TrainResult | None:
        """Find the run to go on with, take its directory, decide the plan.

        Returns:
            The result of a run that is already finished, else None.
        """
        beat("preparing")
        run = find_run(self.asked)
        try:
            if run is not None:
                # Before anything is read: a second writer is refused at once.
                self.folder.take(run, resume=True)
            elif self.ranks.main:
                self.folder.refuse_existing()
            self.prepared.look_back(run)
            resumption = self.prepared.resumption
            if resumption is not None and resumption.finished:
                return already_finished(resumption, self.console)
            self.prepared.check("settings")
            self.prepared.decide()
            self.prepared.check("decided")
        except LuminaError as error:
            with noted_on(error):
                self.folder.leave_word(error, self.prepared.events)
            raise
        except BaseException as error:
            if self.signals.received is not None:
                with noted_on(error):
                    self._leave_interruption()
            raise
        return None

    def build(self, on_row: Taker, on_event: Taker | None = None) -> Loop:
        """Take the run directory and assemble everything the loop needs.

        Args:
            on_row: called with each finished row.
            on_event: called with each event, from either thread; the first rank's only.

        The directory says that the run goes on before it does. A failure in between
        is therefore recorded there, so that no rank waits for a run that has ended. A
        new run that is refused leaves no directory.

        Raises:
            LuminaError: E201 or E202 where there is no room for the model; what else
                stands in the way, with its code.
        """
        try:
            loop = self._build(on_row, on_event)
            # From here on the loop sees a signal.
            self.signals.looping = True
            return loop
        except BaseException as error:
            with noted_on(error):
                self._leave_failure(error)
            if (code := shortage_code(error)) is None:
                raise
            raise LuminaError(
                code,
                f"no room to build the model: {shortage_text(error)}",
                "use an optimizer with smaller states, a smaller preset, or several "
                "devices with --parallel fsdp2; `lumina plan` shows what it takes",
            ) from error

    def _leave_failure(self, error: BaseException) -> None:
        """Record in a directory that this process holds why building the run failed."""
        if not self.folder.held:
            return
        directory, reader = self.folder.directory, self.prepared.reader
        step = reader.meta.step if reader is not None else 0
        recorder = self._recorder
        if self.signals.received is not None:
            # No failure to look into: the process was asked to end.
            self._leave_interruption()
        elif _is_refusal(error) and self.prepared.resumption is None:
            self.folder.withdraw()
        elif recorder is None:
            mark_failed(directory, step)
        else:
            leave_failure(error, self.prepared.config, directory, recorder, step)

    def _leave_interruption(self) -> None:
        """A run that a signal ended before its first step is not running."""
        if not self.folder.held or not self.folder.directory.is_run:
            return
        directory = self.folder.directory
        status = directory.status() or {"status": "running"}
        if status.get("status") == "running":
            step = status.get("step", 0)
            directory.mark("interrupted", step, reason="stopped by a signal")

    def _build(self, on_row: Taker, on_event: Taker | None) -> Loop:
        prepared, plan = self.prepared, self.plan
        beat("assembling")
        self._restore_torch = configure_torch(plan, self.ranks, prepared.environment)
        if prepared.config.recovery.preflight:
            prepared.events.append(tested(plan, self.ranks))
        self._open_folder()
        if self.ranks.main:
            self._expected = TimeExpected(
                plan, prepared.environment, prepared.first_step
            )
            on_row = self._expected.counting(on_row)
        recorder, store = self._open_records(on_row, on_event)
        if self._expected is not None:
            self._banner()
            self._expected.tell(recorder)
        if prepared.reader is None:
            outset = begin(prepared, recorder, store)
        else:
            outset = go_on(prepared, recorder, store)
        data, progress = prepared.data, outset.progress
        tell_restart(recorder, self.folder.directory.path, progress.step)
        self._loop = Loop(
            program=outset.program,
            stream=prepared.stream,
            evaluations=self._evaluations(outset.evaluation_owed),
            progress=progress,
            recorder=recorder,
            checkpoints=store,
            controls=outset.controls,
            config=prepared.to_save.to_dict(),
            end=EndOfRun(
                self.signals,
                Stops.of(
                    prepared.config,
                    prepared.stream.order.epochs_before(progress.cursor),
                ),
            ),
            saving=Saving(
                progress.step if prepared.reader else -1,
                prepared.to_save.run.save_every_n_hours,
            ),
            rules=outset.rules,
            memory=MemoryRecovery.of(
                prepared.config.memory_ladder,
                plan,
                prepared.environment,
                self.folder.directory.path,
            ),
            best=outset.best,
            recovery=Recovery(plan),
            encoding=encoding_of(data.tokenizer),
            samples=Samples.of(
                self.folder.directory, data, prepared.config, recorder, outset.controls
            ),
        )
        self.console.start(plan, progress.step, live_facts(self.prepared))
        return self._loop

    def _evaluations(self, owed: bool) -> Evaluations:
        """What the run does with its held-out data."""
        prepared, recorder = self.prepared, self._recorder
        assert recorder is not None
        data, reader = prepared.data, prepared.reader
        return Evaluations(
            (lambda program: held_out_batches(data, program))
            if data.holds_out
            else None,
            recorder,
            score=data.score,
            owed=owed,
            first=bool(self.plan.sources) and prepared.begins_from_weights,
            outset=reader.meta.extra.get("outset", {}) if reader else {},
        )

    def run(self) -> TrainResult:
        """The loop, and what follows its end."""
        loop, recorder = self._loop, self._recorder
        assert loop is not None and recorder is not None
        directory = self.folder.directory
        try:
            with failures_shared(self.ranks):
                loop.run()
            result = outcome(loop, directory)
            if self._expected is not None:
                self._expected.compare(loop.plan, recorder)
            if self.ranks.main:
                tell_stages(loop.plan, directory, recorder)
                if self.next_phase is None:
                    self._finish(result, loop)
        except BaseException as error:
            with noted_on(error):
                save_before_crash(loop, error)
            if self.ranks.main:
                config, step = self.prepared.config, loop.progress.step
                with noted_on(error):
                    leave_failure(error, config, directory, recorder, step)
            raise
        return result

    @property
    def next_phase(self) -> int | None:
        """The phase that follows the one that has ended here, if there is one."""
        loop = self._loop
        if loop is None or not loop.phase_over:
            return None
        plan = loop.plan
        index = plan.phases.index(plan.phase) + 1
        return index if index < len(plan.phases) else None

    def to_go_on(self) -> Config:
        """What is asked for in the next phase: to go on with this run."""
        again = {"resume": str(self.folder.directory.path), "auto_resume": False}
        config = self.asked.override(again | {"run_dir": None}, Source("python"))
        # What changed the run as it was resumed has been done.
        done = {leaf: field(leaf).default for leaf in MODIFIERS}
        config = config.override(done, Source("default"))
        # The first phase has begun with these weights.
        return config.override({"init_from": None}, Source("default"))

    def _finish(self, result: TrainResult, loop: Loop) -> None:
        """Mark the run, report it, and say what to do next."""
        beat("ending")
        data, config = self.prepared.data, self.prepared.config
        samples: list[tuple[str, str]] = []
        # A run that was asked to stop ends at once.
        if loop.samples is not None and not result.exit_code:
            samples = loop.samples.at_end(
                loop.program, loop.progress.step, loop.recorder
            )
        finish(
            result,
            config,
            loop.plan,
            self.folder.directory,
            loop.recorder,
            self.console,
            time.monotonic() - self.started,
            conversations=bool(data.stats.get("conversations")),
            samples=samples,
        )

    def close(self, error: BaseException | None, *, leave: bool = True) -> None:
        """Release everything, whatever happened.

        Args:
            error: what ended the job; a checkpoint that other ranks have yet to finish
                is given up then.
            leave: the ranks part; False where the next phase follows.
        """
        beat("ending")
        steps: list[Callable[[], object]] = [self.console.close]
        if self._store is not None:
            steps.append(partial(self._store.close, wait=error is None))
        if self._recorder is not None:
            recorder = self._recorder
            steps.append(lambda: recorder.close(self._status()))
        steps.append(self.folder.close)
        if self._restore_torch is not None:
            steps.append(self._restore_torch)
        if leave:
            steps.append(self.ranks.disconnect)
        take_all(*steps)

    def _status(self) -> str:
        """How the run ended, as its directory says; a failure where it says nothing."""
        found = (self.folder.directory.status() or {}).get("status", "failed")
        return "failed" if found == "running" else str(found)

    def _open_folder(self) -> None:
        """A new directory or the resumed run's own, with what was decided in it."""
        prepared, folder = self.prepared, self.folder
        if prepared.resumption is None:
            folder.take(folder.new(), resume=False)
        prepared.config = folder.named_in(prepared.config)
        prepared.whole = folder.named_in(prepared.whole)
        if self.ranks.main:
            folder.write_decisions(
                prepared.to_save,
                self.plan,
                prepared.data.tokenizer,
                prepared.first_step,
            )
            if prepared.resumption is not None:
                write_edits(folder.directory.path, prepared.resumption.edits)

    def _open_records(
        self, on_row: Taker, on_event: Taker | None
    ) -> tuple[Recorder, CheckpointStore]:
        """Rows and events, and the checkpoints; the events so far are recorded."""
        path, plan, ranks = self.folder.directory.path, self.plan, self.ranks
        logging = self.prepared.config.logging
        recorder = self._recorder = Recorder(
            path,
            plan,
            self.console,
            main=ranks.main,
            device_name=self.prepared.environment.device_name,
            memory_bytes=self.prepared.environment.memory_bytes,
            log=log_of(self.prepared.config, plan.log_every) if ranks.main else None,
            log_level=logging.log_level,
            rotate_bytes=round((logging.metrics_rotate_mib or 0) * 2**20),
            on_row=on_row,
            on_event=on_event,
        )
        asked = self.prepared.config.saving
        store = self._store = CheckpointStore(
            path,
            keep=0 if asked.keep_best_only else plan.save_total_limit,
            pruning=asked.checkpoint_pruning,
            rank=ranks.rank,
            world_size=ranks.world_size,
            on_event=recorder.event,
            backup=backup_of(self.prepared.config, path),
        )
        prepared = self.prepared
        if ranks.main:
            recorder.trackers = self._open_trackers(recorder)
        recorder.note(
            "run_started",
            "the run begins, or goes on",
            prepared.first_step,
            **({"phase": self.plan.phase} if self.plan.phase else {}),
            **origin(prepared.config, prepared.environment, prepared.data.stats),
            data_fingerprint=prepared.stream.fingerprint,
        )
        for event in prepared.events:
            recorder.event(**({"step": None} | event))
        tell_retries(lambda event: recorder.event(**event))
        return recorder, store

    def _open_trackers(self, recorder: Recorder) -> Trackers | None:
        """Sessions with the services that show the run, where there are any."""
        prepared, path = self.prepared, self.folder.directory.path
        asked = prepared.config.tracking
        if not asked.trackers:
            return None
        session = Session(
            folder=path,
            project=asked.tracker_project,
            name=asked.tracker_run_name or path.resolve().name,
            settings=prepared.config.to_dict(),
            step=prepared.reader.meta.step if prepared.reader else 0,
            options=asked.model_dump(),
        )
        return Trackers(
            [chosen_tracker(name) for name in dict.fromkeys(asked.trackers)],
            session,
            every=prepared.config.run.log_every_n_batches,
            tell=recorder.event,
        )

    def _banner(self) -> None:
        facts = banner_facts(self.prepared)
        if self._expected is not None:
            facts["time"] = self._expected.in_words()
        if self.supervised:
            facts["supervised"] = self.supervised
        self.console.banner(
            self.plan,
            self.prepared.environment,
            facts,
            self.prepared.config.provenance,
            title=f"Lumina  {self.folder.directory.path}",
        )


def _is_refusal(error: BaseException) -> bool:
    """Whether what was asked for cannot be done; not for want of memory or room."""
    return isinstance(error, LuminaError) and not error.code.startswith("E2")
