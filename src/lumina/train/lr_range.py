"""The learning-rate range test: a short sweep from a run's first weights.

Smith, 2015, arXiv:1506.01186. The weights are thrown away, and no run is written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lumina.assemble.assemble import assemble
from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.ending import closed_after
from lumina.errors import LuminaError
from lumina.measure.lr_range import Suggestion, diverges, suggest
from lumina.observe.console import Console
from lumina.plan.plan import Plan
from lumina.train.preparation import Preparation
from lumina.train.resume import find_run
from lumina.train.step import train_step
from lumina.train.torch_settings import configure_torch


@dataclass(frozen=True)
class Sweep:
    """A sweep and what it says.

    Attributes:
        plan: what was trained.
        rates: of the steps, rising.
        losses: of the same steps; NaN where it was not finite.
        suggestion: the rate to use.
    """

    plan: Plan
    rates: list[float]
    losses: list[float]
    suggestion: Suggestion


def swept(
    config: Config,
    *,
    lowest: float,
    highest: float,
    steps: int,
    console: Console,
    tell: Callable[[str], None],
) -> Sweep:
    """Train with a rate that rises exponentially, and look at the loss.

    Begins where a run of this configuration would: with random weights, with those of
    `init_from`, or, with `resume`, with weights and moments of a run's checkpoint.

    Args:
        config: the settings; the rate, its schedule and the length are the sweep's.
        lowest: the first rate.
        highest: the rate of the last step.
        steps: of the sweep; it ends earlier where the loss diverges.
        console: what preparing data shows.
        tell: shows a line of progress.

    Raises:
        LuminaError: E002 for phases or several processes, E005 for rates or steps that
            make no sweep; as `lumina train` for the rest.
    """
    _check(config, lowest, highest, steps)
    ranks = Ranks.from_environment()
    prepared = Preparation(_sweeping(config, lowest, highest, steps), ranks, console)
    with closed_after(ranks.disconnect):
        run = find_run(prepared.config)
        prepared.look_back(run)
        prepared.decide()
        reader = prepared.reader
        begin = reader.meta.step if reader is not None else 0
        plan = prepared.plan.replace(
            schedule_steps=steps, schedule_offset=-begin, steps=begin + steps
        )
        configure_torch(plan, ranks, prepared.environment)
        weights = prepared.start.weights
        source = reader or (weights.source if weights else None)
        meta = reader.meta if reader is not None else None
        program = assemble(plan, source, ranks=ranks, meta=meta)
        rates, losses = list[float](), list[float]()
        cursor = reader.meta.cursor if reader is not None else prepared.stream.start
        for number in range(steps):
            batches = prepared.stream.step(
                cursor, micro_batch_size=plan.micro_batch_size
            )
            if batches is None:
                tell(f"the data ends after {number} steps")
                break
            metrics = train_step(program, batches, begin + number)
            cursor = batches.cursor
            rates.append(float(program.live.learning_rate))
            losses.append(float(metrics[0]))
            if number % max(steps // 20, 1) == 0:
                tell(f"step {number + 1} of {steps}: rate {rates[-1]:.2g}, loss "
                     f"{losses[-1]:.4g}")  # fmt: skip
            if diverges(losses) and len(losses) > 1:
                break
    return Sweep(plan, rates, losses, suggest(rates, losses))


def _check(config: Config, lowest: float, highest: float, steps: int) -> None:
    if not 0 < lowest < highest <= 1 or not all(map(math.isfinite, (lowest, highest))):
        raise LuminaError(
            "E005",
            f"a sweep from {lowest:g} to {highest:g} does not rise",
            "use rates above 0 and at most 1, such as --from-rate 1e-6 --to-rate 1",
        )
    if steps < 10:
        raise LuminaError(
            "E005",
            f"{steps} steps are too few for a sweep of rates",
            "give --range-steps 10 or more; 100 are usual",
        )
    if config.stages.phases or config.stages.context_schedule:
        raise LuminaError(
            "E002",
            "the run trains in phases, and a sweep is one phase",
            "leave the phases out, and sweep each phase's settings",
        )
    asked = (config.system.nproc or 1) * config.nodes.num_nodes
    if Ranks.from_environment().world_size > 1 or asked > 1:
        raise LuminaError(
            "E002",
            "a sweep runs as one process",
            "leave --nproc and torchrun out; a step has the same rows on one device",
        )


def _sweeping(config: Config, lowest: float, highest: float, steps: int) -> Config:
    """The settings of the sweep."""
    return config.override(
        {
            "learning_rate": highest,
            "min_lr": lowest,
            "lr_scheduler": "lr_range",
            "lr_scheduler_options": (),
            "auto_adjust_lr": False,
            "warmup_steps": 0,
            "warmup_ratio": None,
            "decay_steps": None,
            "steps": steps,
            "epochs": None,
            "early_stopping_patience": 0,
            "eval_every_n_batches": 0,
        },
        Source("flag", "lr-range"),
    )
