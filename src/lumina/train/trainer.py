"""`Trainer`: the public face of a run, in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.config.validation import check_trainable
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.train.aliases import with_aliases
from lumina.train.controls import Controls
from lumina.train.job import Job, TrainResult
from lumina.train.loop import Loop
from lumina.train.preparation import Preparation
from lumina.train.resume import find_run

__all__ = ["TrainResult", "Trainer"]


class Trainer:
    """Trains the model a Config describes.

    Args:
        config: the settings.
        console: what a person sees; one on standard output when absent.
        on_step: called on every rank with the trainer and each finished metrics row.

    Attributes:
        plan: what is being done, once `train` has decided it.
        controls: the way to change a running job, once `train` has begun.
    """

    def __init__(
        self,
        config: Config,
        *,
        console: Console | None = None,
        on_step: Callable[[Trainer, dict[str, Any]], None] | None = None,
    ) -> None:
        check_trainable(config)
        self.config = config
        self.ranks = Ranks.from_environment()
        if self.ranks.world_size == 1 and (config.system.nproc or 1) > 1:
            raise LuminaError(
                "E002",
                f"nproc {config.system.nproc} was asked of a single process",
                "use `lumina train --nproc N` or torchrun; Python starts one process",
            )
        self.console = console or Console(rank=self.ranks.rank)
        self.on_step = on_step
        self.plan: Plan | None = None
        self.controls: Controls | None = None
        self._loop: Loop | None = None

    def train(self) -> TrainResult:
        """Run to the end, or to a signal.

        Raises:
            LuminaError: whatever stands in the way, with its code.
        """
        job = Job(self.config, self.ranks, self.console)
        try:
            finished = job.prepare()
            if finished is not None:
                return finished
            loop = job.build(self._row)
            self.plan, self.controls = loop.plan, loop.controls
            self._loop = loop
            return job.run()
        finally:
            self._loop = None
            job.close()

    def explain(self) -> tuple[Plan, Environment, int | None]:
        """What `train` would do: the plan, the machine, rows of an epoch.

        Without training data the plan is made for the model alone.
        """
        prepared = Preparation(self.config, self.ranks, self.console)
        try:
            prepared.look_back(find_run(self.config))
            prepared.decide(planning=True)
            return prepared.plan, prepared.environment, prepared.rows_per_epoch
        finally:
            self.console.close()
            self.ranks.disconnect()

    @property
    def program(self) -> Program | None:
        """What trains now; another one after a reassembly."""
        return None if self._loop is None else self._loop.program

    def get_current_metrics(self) -> dict[str, Any]:
        """The newest finished row, under its own and the documents' names."""
        return with_aliases(self._loop.recorder.last_row if self._loop else {})

    def adjust_learning_rate(self, value: float, reason: str = "asked for") -> int:
        """Set the learning rate from the next step on; the schedule scales with it."""
        return self._request("learning_rate", value, reason)

    def emergency_lr_reduction(self, factor: float = 10.0) -> int:
        """Divide the learning rate by `factor`."""
        loop = self._running()
        rate = loop.program.live.learning_rate.item() / factor
        return self._request("learning_rate", rate, f"emergency: divided by {factor:g}")

    def adjust_weight_decay(self, value: float, reason: str = "asked for") -> int:
        """Set the weight decay from the next step on."""
        return self._request("weight_decay", value, reason)

    def adjust_max_grad_norm(self, value: float, reason: str = "asked for") -> int:
        """Set the clipping threshold from the next step on; 0 clips nothing."""
        return self._request("max_grad_norm", value, reason)

    def adjust_batch_size(self, value: int, reason: str = "asked for") -> int:
        """Set sequences per device and forward; the global batch stays."""
        return self._request("micro_batch_size", value, reason)

    def _request(self, name: str, value: Any, reason: str) -> int:
        return self._running().controls.request(name, value, reason)

    def _running(self) -> Loop:
        if self._loop is None:
            raise LuminaError(
                "E002", "no run is under way", "call this from on_step, or a thread"
            )
        return self._loop

    def _row(self, row: dict[str, Any]) -> None:
        if self.on_step is not None:
            self.on_step(self, row)
