"""What a profile suggests: a finding in plain English, and the option that helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lumina.plan.detail import choices_of
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.train.profiling.training import TrainingProfile

WAITS, UPDATES, IDLE, ROOMY = 0.1, 0.25, 0.7, 0.6
"""Shares of a step, and of memory, from which a finding is worth telling."""


@dataclass(frozen=True)
class Facts:
    """What a finding is made of."""

    plan: Plan
    machine: Environment
    profile: TrainingProfile
    threads: int

    def share(self, phase: str) -> float:
        """The part of a step that a phase takes."""
        return next(row.share for row in self.profile.rows if row.name == phase)


Finding = Callable[[Facts], str | None]


def _waits_for_data(facts: Facts) -> str | None:
    share = facts.share("data")
    if share < WAITS:
        return None
    return (
        f"{share:.0%} of a step waits for data: `lumina profile data` shows which "
        "stage is slow; raise --prefetch-factor, or --num-workers for streamed data"
    )


def _mostly_updates(facts: Facts) -> str | None:
    share = facts.share("optimizer")
    if share < UPDATES:
        return None
    return (
        f"{share:.0%} of a step updates the weights, whatever the number of tokens: "
        "raise --global-batch-size, if the training bears it, or --batch-size"
    )


def _not_compiled(facts: Facts) -> str | None:
    plan, machine = facts.plan, facts.machine
    if plan.device != "cuda" or plan.compile or not machine.compiler:
        return None
    return "blocks are not compiled: --compile fuses kernels; first steps take longer"


def _full_precision(facts: Facts) -> str | None:
    if facts.plan.compute_dtype != "float32" or not facts.machine.bf16:
        return None
    return "products are in float32: --precision bf16 is faster on this device"


def _idle_gpu(facts: Facts) -> str | None:
    busy = facts.profile.busy
    if busy is None or busy >= IDLE:
        return None
    return (
        f"the GPU was busy for {busy:.0%} of the traced steps: work is launched too "
        "slowly for it; raise --batch-size, or use --compile"
    )


def _room_for_rows(facts: Facts) -> str | None:
    plan, have = facts.plan, facts.machine.memory_bytes
    peak = facts.profile.memory_peak
    if plan.device != "cuda" or plan.grad_accum == 1 or not peak:
        return None
    if peak > ROOMY * have:
        return None
    return (
        f"the step took {peak / have:.0%} of the GPU's memory in {plan.grad_accum} "
        f"forwards: raise --batch-size above {plan.micro_batch_size}"
    )


def _needless_recomputing(facts: Facts) -> str | None:
    plan = facts.plan
    if plan.gradient_checkpointing == "none":
        return None
    for one in choices_of(plan, facts.machine.memory_bytes):
        same = one.micro_batch_size == plan.micro_batch_size
        if same and one.gradient_checkpointing == "none" and one.fits:
            return (
                f"checkpointing is {plan.gradient_checkpointing}, and the memory has "
                "room without it: --gradient-checkpointing none"
            )
    return None


def _idle_cores(facts: Facts) -> str | None:
    cores = facts.machine.cores
    if facts.plan.device != "cpu" or facts.threads >= cores:
        return None
    return (
        f"{facts.threads} of {cores} cores compute: set the environment variable "
        f"OMP_NUM_THREADS={cores}"
    )


def _slow_for_its_plan(facts: Facts) -> str | None:
    expected = facts.profile.expected
    if expected is None or facts.profile.median <= expected.slow:
        return None
    return (
        f"a step took {facts.profile.median:.3g} s, and at most {expected.slow:.3g} s "
        "was expected: do other programs use the device?"
    )


FINDINGS: tuple[Finding, ...] = (
    _waits_for_data,
    _full_precision,
    _not_compiled,
    _idle_gpu,
    _needless_recomputing,
    _room_for_rows,
    _mostly_updates,
    _idle_cores,
    _slow_for_its_plan,
)
"""In the order in which they are worth trying."""


def what_to_try(facts: Facts) -> list[str]:
    """The findings of a profile that has steps."""
    return [text for finding in FINDINGS if (text := finding(facts)) is not None]
