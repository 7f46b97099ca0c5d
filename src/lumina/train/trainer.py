"""`Trainer`: the public face of a run, in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lumina.assemble.assemble import check_fits
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.ending import at_end, closed_after, take_all
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.train.adjusting import Adjusting
from lumina.train.branch import begun, branch_of
from lumina.train.callbacks import Callback, Deliveries
from lumina.train.controls import Controls
from lumina.train.first_failure import failures_shared
from lumina.train.job import Job
from lumina.train.loop import Loop
from lumina.train.orchestrator.status import NO_STATUS
from lumina.train.preparation import Preparation
from lumina.train.pretests import BackgroundPretests
from lumina.train.result import TrainResult
from lumina.train.resume import find_run
from lumina.train.run_folder import RunFolder
from lumina.train.start import check_data
from lumina.train.start_checks import Beginning, check
from lumina.train.told_start import ToldStart
from lumina.train.visible_devices import use_cuda_ids

__all__ = ["TrainResult", "Trainer"]


class Trainer(Adjusting):
    """Trains the model a Config describes.

    Args:
        config: the settings.
        console: what a person sees; one on standard output when absent.
        on_step: called on every rank with the trainer and each finished metrics row.
        callbacks: called after it, in their order; see `Callback`.
        before_start: called once with the plan, the machine and the completed steps,
            before the run begins or goes on; gives a line about the run's supervisor
            for the banner.

    Attributes:
        plan: what the running program realises, and after the run what its last
            program realised; None before `train` has decided it.
        controls: the way to change a running job, once `train` has begun.
        planned: after `explain`: the settings with what weights and data decide.
        begins_and_ends: how texts and conversations of the data begin and end, in
            words, once `explain` has read the data.
    """

    def __init__(
        self,
        config: Config,
        *,
        console: Console | None = None,
        on_step: Callable[[Trainer, dict[str, Any]], None] | None = None,
        callbacks: Sequence[Callback] = (),
        before_start: Callable[[Plan, Environment, int], str] | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise LuminaError(
                "E005",
                f"a Trainer is given a {type(config).__name__}, not a Config",
                "make one: lumina.Config(preset=..., train_data=[...], ...)",
            )
        self.config = config = config.settled()
        use_cuda_ids(config.system.cuda_ids)
        self.ranks = Ranks.from_environment()
        self.console = console or Console(rank=self.ranks.rank)
        self.on_step = on_step
        self._before_start = before_start
        own: list[Callback] = [ToldStart()]
        if config.safety.safe_optimizations == "background":
            own.append(BackgroundPretests())
        self._deliveries = Deliveries(self, (*callbacks, *own))
        self.controls: Controls | None = None
        self._loop: Loop | None = None
        self._last_plan: Plan | None = None
        self._last_status: Mapping[str, Any] = NO_STATUS
        self.planned = self.config
        self.begins_and_ends: Mapping[str, str] = {}

    def train(self) -> TrainResult:
        """Run to the end, or to a signal.

        Raises:
            LuminaError: whatever stands in the way, with its code.
        """
        check("asked", Beginning(self.config, self.ranks))
        with begun(self.config, self.ranks) as config:
            job = Job(config, self.ranks, self.console)
            result = self._run(job)
        while (phase := job.next_phase) is not None:
            job = Job(job.to_go_on(), self.ranks, self.console, after_phase=phase - 1)
            result = self._run(job)
        return result

    def _run(self, job: Job) -> TrainResult:
        """One phase of a run, or a run that has none."""
        end = at_end(partial(self._end, job))
        with job.signals, end, failures_shared(self.ranks):
            return self._phase(job)

    def _end(self, job: Job, error: BaseException | None) -> None:
        self._last_status = self.get_adaptive_status()
        self._last_plan, self._loop = self.plan, None
        take_all(
            partial(job.close, error, leave=job.next_phase is None),
            self._deliveries.deliver,
        )

    def _phase(self, job: Job) -> TrainResult:
        finished = job.prepare()
        if finished is not None:
            return finished
        if self._before_start is not None:
            job.supervised = self._before_start(
                job.plan, job.prepared.environment, job.prepared.first_step
            )
            self._before_start = None
        loop = job.build(self._deliveries.row, self._deliveries.event)
        self._deliveries.begin(job.folder.directory.path)
        self._loop, self.controls = loop, loop.controls
        return job.run()

    def explain(
        self, machine: Environment | None = None
    ) -> tuple[Plan, Environment, int | None]:
        """What `train` would do: the plan, the machine, rows of an epoch.

        Nothing is trained and no run is begun. Without training data the plan is made
        for the model alone, and says so. The processes and the supervisor that are
        asked for are those that the command would start.

        Args:
            machine: plan for this one, which need not be present; default: the
                present one.

        Raises:
            LuminaError: whatever would stand in the way of the run.
        """
        here = machine is None
        check("asked", Beginning(self.config, self.ranks, planning=True), here=here)
        prepared = Preparation(self.config, self.ranks, self.console)
        with closed_after(self.console.close, self.ranks.disconnect):
            branch = branch_of(self.config)
            if branch is not None:
                prepared = Preparation(branch.config, self.ranks, self.console)
            run = find_run(self.config) if branch is None else branch.run
            RunFolder(self.config, self.ranks).check(None if branch else run)
            prepared.look_back(run)
            prepared.check("settings", planning=True, here=here)
            prepared.decide(planning=True, machine=machine)
            prepared.check("decided", planning=True, here=here)
            reader, weights = prepared.reader, prepared.start.weights
            source = reader or (weights.source if weights else None)
            if source is not None or prepared.plan.freeze:
                check_fits(prepared.plan, source)
            if reader is not None and prepared.has_data:
                check_data(prepared, reader.meta.extra)
            self.planned = prepared.config
            if prepared.has_data:
                self.begins_and_ends = prepared.data.stats.get("begins_and_ends", {})
            return (
                prepared.plan_to_show(),
                prepared.environment,
                prepared.rows_per_epoch,
            )

    @property
    def plan(self) -> Plan | None:
        """What the running program realises; see `Trainer`."""
        return self._last_plan if self._loop is None else self._loop.plan

    @property
    def program(self) -> Program | None:
        """What trains now; another one after a reassembly."""
        return None if self._loop is None else self._loop.program

    def stop(self) -> None:
        """End the run after the next step, with a checkpoint, as SIGTERM does.

        `train` then returns a result whose exit code is 143, and the run can be
        resumed, with another number of steps too.

        Raises:
            LuminaError: E005 when nothing is being trained.
        """
        self._running().end.stop_called = True

    def tell(self, kind: str, text: str, step: int, **data: Any) -> None:
        """Append an event to the run's record, and show it.

        Args:
            kind: of the event.
            text: a sentence for a person.
            step: completed steps.
            data: the figures behind it.
        """
        self._running().recorder.event(kind, "info", None, text, step, **data)

    def _running(self) -> Loop:
        if self._loop is None:
            raise LuminaError(
                "E002", "no run is under way", "call this from on_step, or a thread"
            )
        return self._loop
