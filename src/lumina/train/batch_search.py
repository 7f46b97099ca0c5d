"""The largest forward that fits, found by real steps, with the batch of a step kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lumina.child_processes import reason_of_end
from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.plan.batching import resolve_batching
from lumina.plan.decisions import asked_for
from lumina.plan.environment import Environment
from lumina.plan.measured_once import known_number, measured_once
from lumina.plan.plan import Plan
from lumina.quantities import byte_size

TOO_LARGE = ("E201", "E202")
MOST_FORWARDS = 2
"""Forwards of a measured step: with a second one, gradients are kept beside it."""

REMEMBERED = "batch_sizes.json"

NOT_IN_KEY = (
    "reasons", "warnings", "memory", "micro_batch_size", "grad_accum", "steps",
    "epochs", "learning_rate", "min_lr", "warmup_steps", "decay_steps", "seed",
    "eval_every", "eval_batches", "save_every", "save_total_limit", "log_every",
    "schedule_batch", "schedule_offset", "schedule_steps",
)  # fmt: skip
"""Fields of a Plan that change no memory of a step, or are what is looked for."""


@dataclass(frozen=True)
class Measured:
    """What some steps took.

    Attributes:
        size: sequences of a forward.
        peak: bytes of the device, or resident ones of a process on a CPU; None where
            they did not fit.
        tokens_per_second: of the last step; 0 where it did not fit.
    """

    size: int
    peak: int | None
    tokens_per_second: float = 0.0


def measure(plan: Plan, plugins: Sequence[str]) -> Measured:
    """Take steps of this plan in a process of its own.

    Raises:
        LuminaError: E003 where the process ends in another way than without memory.
    """
    forwards = min(plan.grad_accum, MOST_FORWARDS)
    plan = plan.replace(
        grad_accum=forwards, global_batch_size=forwards * plan.micro_batch_size
    )
    asked = json.dumps({"plan": plan.to_dict(), "plugins": list(plugins)})
    command = [sys.executable, "-m", "lumina.train.batch_probe"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True)
    size = plan.micro_batch_size
    if done.returncode in (-9, 137):  # ended by the system for want of memory
        return Measured(size, None)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = reason_of_end(done.stderr)
        raise LuminaError(
            "E003",
            f"steps with {size} sequences a forward could not be measured: {last}",
            "leave --auto-batch-size out, or name --batch-size",
        ) from None
    if found.get("out_of_memory"):
        return Measured(size, None)
    return Measured(size, found["peak"], found["tokens"] / found["seconds"])


def largest(
    sizes: Sequence[int], room: float, look: Callable[[int], Measured]
) -> Measured | None:
    """The largest size whose steps take no more than `room`; None: not even the first.

    Args:
        sizes: rising.
        room: bytes.
        look: measures a size.
    """
    best: Measured | None = None
    low, high = 0, len(sizes) - 1
    while low <= high:
        middle = (low + high + 1) // 2
        found = look(sizes[middle])
        if found.peak is not None and found.peak <= room:
            best, low = found, middle + 1
        else:
            high = middle - 1
    return best


def with_measured_batch(
    config: Config,
    planned: Callable[[Config], Plan],
    environment: Environment,
    tell: Callable[[str], None],
    *,
    planning: bool = False,
) -> Config:
    """The settings with the largest forward that real steps have room for.

    The sequences of a step stay what they are without it; accumulation makes up for
    the rest. What was found is remembered for this model, device and share of memory.

    Args:
        config: the settings.
        planned: makes the Plan of settings.
        environment: the device, which says how much memory there is.
        tell: shows a line of progress.
        planning: only look up what was found before; nothing is measured.

    Raises:
        LuminaError: E201 or E202 where a single sequence takes more than the share, or
            does not fit by the plan's own count.
    """
    share = config.batch_search.target_memory_usage
    first = planned(config)
    if first.world_size > 1:
        raise LuminaError(
            "E002",
            f"auto_batch_size measures one process, and there are {first.world_size}",
            "search with one process, and name the --batch-size that it finds",
        )
    sizes = fitting_sizes(config, first, planned)
    key = _key(first, environment, share)
    room = share * environment.memory_bytes

    def look(size: int) -> Measured:
        plan = planned(_with_size(config, first, size, "measured"))
        found = measure(plan, config.parts.plugins)
        took = "did not fit" if found.peak is None else byte_size(found.peak)
        tell(f"{size} sequences a forward: {took} of {byte_size(int(room))}")
        return found

    def search() -> float:
        found = largest(sizes, room, look)
        if found is None:
            code = "E201" if environment.device == "cuda" else "E202"
            raise LuminaError(
                code,
                f"steps with {sizes[0]} sequence a forward take more than {share:.0%} "
                f"of {byte_size(environment.memory_bytes)}",
                "use --gradient-checkpointing full, a shorter --seq-length or a larger "
                "--target-memory-usage",
            )
        return found.size

    known = known_number(REMEMBERED, key)
    if planning and known is None:
        tell("auto_batch_size is measured when the run begins; the plan estimates it")
        return config
    size = int(measured_once(REMEMBERED, key, search))
    config = config.override(
        {"auto_batch_size": False}, Source("decided", "it is found")
    )
    source = "found before" if known is not None else "measured"
    why = f"the largest that takes at most {share:.0%} of the memory, {source}"
    return _with_size(config, first, size, why)


def fitting_sizes(
    config: Config, first: Plan, planned: Callable[[Config], Plan]
) -> list[int]:
    """Sequences of a forward that divide a step and that a plan accepts, rising.

    Sizes that a plan would make room for by more recomputation are left out.
    """
    fixed = _with_size(config, first, None, "")
    choices = resolve_batching(fixed, first.data_parallel).choices
    found = []
    for size in sorted({choice.micro_batch_size for choice in choices}):
        try:
            plan = planned(_with_size(config, first, size, "measured"))
        except LuminaError as error:
            if error.code in TOO_LARGE:
                continue
            raise
        if plan.gradient_checkpointing == first.gradient_checkpointing:
            found.append(size)
    return found or [first.micro_batch_size]


def _with_size(config: Config, first: Plan, size: int | None, why: str) -> Config:
    """The settings with this many sequences a forward, and the same in a step."""
    kept = Source("decided", "kept by auto_batch_size")
    if not asked_for(config, "global_batch_size"):
        config = config.override({"global_batch_size": first.global_batch_size}, kept)
    return config.override({"batch_size": size}, Source("decided", why))


def _key(plan: Plan, environment: Environment, share: float) -> str:
    """What the answer depends on: model, layout, device, share of memory, versions."""
    facts = {k: v for k, v in plan.to_dict().items() if k not in NOT_IN_KEY}
    facts["device_name"] = environment.device_name
    facts["memory_bytes"] = round(environment.memory_bytes / 2**28)
    facts["share"], facts["torch"] = share, torch.__version__
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
