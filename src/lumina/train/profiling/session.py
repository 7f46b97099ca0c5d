"""A training without a run: its Program and its data, for a number of steps.

Nothing is written but what data leaves in LUMINA_CACHE, and no run is resumed. The
weights are first ones, or those of `init_from`, and are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from lumina.assemble.assemble import assemble
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.data.prefetch import Prefetcher
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.train.preparation import Preparation
from lumina.train.step import train_step
from lumina.train.torch_settings import configure_torch
from lumina.train.watch import Look, Watch


def prepared_for(
    config: Config,
    steps: int,
    console: Console,
    *,
    without_data: bool = False,
    several: bool = False,
) -> Preparation:
    """What a training of these settings would do, with its data; nothing is assembled.

    Args:
        config: the settings of the training.
        steps: how many are needed in all.
        console: shows what preparing the data shows.
        without_data: plan for the model alone, where no data is named.
        several: whether this is one of several ranks.

    Raises:
        LuminaError: E002 for several processes, phases or a run to go on with; as
            `lumina train` for the rest.
    """
    _check(config, several)
    asked = {"steps": steps, "epochs": None, "warmup_steps": 0, "warmup_ratio": None}
    asked |= {"eval_every_n_batches": 0, "early_stopping_patience": 0}
    prepared = Preparation(
        config.override(asked, Source("flag", "profile")),
        Ranks.from_environment(),
        console,
    )
    prepared.look_back(None)
    prepared.decide(planning=without_data)
    return prepared


class Feed(Protocol):
    """Where the data of the steps comes from."""

    def next(self) -> tuple[StepBatches | None, float]:
        """The next step's data, None where it ends, and the seconds of waiting."""

    def close(self) -> None:
        """Release everything."""


class Session:
    """What trains, ready for its steps.

    Attributes:
        plan: what is done.
        environment: where.
        program: what trains.
        prepare_seconds: how long data, weights and the Program took.
        done: steps so far.
        metrics: what the last step returned.
    """

    metrics: Tensor

    def __init__(
        self,
        config: Config,
        steps: int,
        console: Console,
        rows: Callable[[Plan], Feed] | None = None,
        several: bool = False,
    ) -> None:
        """Prepare the data and assemble the Program.

        Args:
            config: the settings of the training.
            steps: how many are needed in all.
            console: shows what preparing the data shows.
            rows: makes the rows to train on, in place of the data.
            several: whether this is one of several ranks.

        Raises:
            LuminaError: as `prepared_for`.
        """
        began = time.perf_counter()
        prepared = prepared_for(
            config, steps, console, without_data=rows is not None, several=several
        )
        ranks = prepared.ranks
        self.plan: Plan = prepared.plan
        self.environment: Environment = prepared.environment
        self._restore = configure_torch(self.plan, ranks, self.environment)
        weights = prepared.start.weights
        source = weights.source if weights else None
        self.program: Program = assemble(self.plan, source, ranks=ranks)
        self.prepare_seconds = time.perf_counter() - began
        self.done = 0
        self._feed: Feed
        if rows is not None:
            self._feed = rows(self.plan)
            return
        stream = prepared.stream
        self._feed = Prefetcher(
            stream,
            stream.start,
            rank=self.program.mesh.data.rank,
            data_ranks=self.program.mesh.data.size,
            micro_batch_size=self.plan.micro_batch_size,
            depth=config.loading.prefetch_factor,
            pin=config.loading.pin_memory is not False and self.on_gpu,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether steps are launched on a CUDA device, which runs behind the host."""
        return self.plan.device == "cuda"

    def data(self) -> tuple[StepBatches, float]:
        """The next step's data, and the seconds that were waited for it.

        Raises:
            LuminaError: E105 where the data ends.
        """
        batches, waited = self._feed.next()
        if batches is None:
            raise LuminaError(
                "E105",
                f"the data ends after {self.done} steps",
                "profile fewer --steps, or name more data",
            )
        return batches, waited

    def step(
        self, batches: StepBatches, looks: Sequence[Callable[..., Look]] = ()
    ) -> Watch:
        """Launch one step.

        Args:
            batches: its data.
            looks: makers of what looks at it, called as `Look` is.
        """
        watch = Watch([look(self.program, batches) for look in looks])
        self.metrics = train_step(self.program, batches, self.done, watch=watch)
        self.done += 1
        return watch

    def wait(self) -> None:
        """Until the device has come to the end of what was launched."""
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()
        elif self.plan.device == "mps":
            torch.mps.synchronize()

    def close(self) -> None:
        """Release everything."""
        self._feed.close()
        self.program.close()
        self._restore()


def _check(config: Config, several: bool) -> None:
    """Refuse what is not one training, in this process where it is not of several."""
    asked = (config.system.nproc or 1) * config.nodes.num_nodes
    if not several and (Ranks.from_environment().world_size > 1 or asked > 1):
        raise LuminaError(
            "E002",
            "a profile is made of one process",
            "leave --nproc and torchrun out; `lumina profile communication` takes them",
        )
    if config.stages.phases or config.stages.context_schedule:
        raise LuminaError(
            "E002",
            "the run trains in phases, and a profile is made of one",
            "leave the phases out, and profile each phase's settings",
        )
    if config.run.resume or config.run.auto_resume:
        raise LuminaError(
            "E002",
            "a profile starts from the beginning and cannot continue a run",
            "leave --resume out; --init-from RUN takes a run's weights",
        )
