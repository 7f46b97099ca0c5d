"""Two steps of a Plan on the present device, and what earlier ones have found."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lumina.errors import LuminaError
from lumina.plan.environment import Environment
from lumina.plan.measured_once import known_number, measured_once
from lumina.plan.plan import Plan
from lumina.train.batch_search import NOT_IN_KEY
from lumina.train.planned_memory.steps import STAGES

REMEMBERED = "step_memory.json"
"""In LUMINA_CACHE."""

_NOT_IN_KEY = set(NOT_IN_KEY) - {"micro_batch_size", "grad_accum"}

RESIDENT = "resident"
"""In place of a stage, of a process on a CPU."""


@dataclass(frozen=True)
class Measured:
    """Bytes that steps of a Plan took.

    Attributes:
        allocated: handed out by the device's allocator, by stage.
        reserved: taken from the device, by stage.
        resident: the largest resident size of the process, on a CPU; else 0.
        before: they were measured earlier.
    """

    allocated: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    resident: int = 0
    before: bool = False


def known(plan: Plan, machine: Environment) -> Measured | None:
    """What such steps took on this machine before; None: nothing is known."""
    key = _key(plan, machine)
    if machine.device != "cuda":
        resident = known_number(REMEMBERED, f"{key} {RESIDENT}")
        return (
            None if resident is None else Measured(resident=int(resident), before=True)
        )
    found: dict[str, dict[str, int]] = {"allocated": {}, "reserved": {}}
    for kind, stages in found.items():
        for stage in STAGES:
            number = known_number(REMEMBERED, f"{key} {kind} {stage}")
            if number is None:
                return None
            stages[stage] = int(number)
    return Measured(found["allocated"], found["reserved"], before=True)


def measure(plan: Plan, machine: Environment, plugins: Sequence[str] = ()) -> Measured:
    """Take two steps in a process of its own, or say what they took before.

    Args:
        plan: of one process.
        machine: the present one.
        plugins: what the Plan names parts of.

    Raises:
        LuminaError: E002 for several processes; E201 or E202 where the steps find no
            memory; E003 where the process ends in another way.
    """
    if plan.world_size > 1:
        raise LuminaError(
            "E002",
            f"--measure takes the steps of one process, and there are "
            f"{plan.world_size}",
            "plan for one process, or leave --measure out",
        )
    earlier = known(plan, machine)
    if earlier is not None:
        return earlier
    asked = json.dumps({"plan": plan.to_dict(), "plugins": list(plugins)})
    command = [sys.executable, "-m", "lumina.train.planned_memory.probe"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True)
    killed = done.returncode in (-9, 137)  # ended by the system for want of memory
    try:
        found: dict[str, Any] = (
            {"out_of_memory": True} if killed else _answer(done.stdout)
        )
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LuminaError(
            "E003",
            f"the steps of the plan could not be measured: {last}",
            "leave --measure out",
        ) from None
    if found.get("out_of_memory"):
        raise LuminaError(
            "E201" if machine.device == "cuda" else "E202",
            "two steps of the plan found no memory when they were measured",
            "use --gradient-checkpointing full, a shorter --seq-length or a smaller "
            "--batch-size",
        )
    key = _key(plan, machine)
    if machine.device != "cuda":
        resident = found["resident"]
        measured_once(REMEMBERED, f"{key} {RESIDENT}", lambda: resident)
        return Measured(resident=resident)
    for kind in ("allocated", "reserved"):
        for stage, size in found[kind].items():
            measured_once(REMEMBERED, f"{key} {kind} {stage}", partial(float, size))
    return Measured(found["allocated"], found["reserved"])


def _answer(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    if not isinstance(found, dict):
        raise ValueError(output)
    return found


def _key(plan: Plan, machine: Environment) -> str:
    """What the figures depend on: model, layout, device, versions."""
    facts = {k: v for k, v in plan.to_dict().items() if k not in _NOT_IN_KEY}
    facts |= {"device_name": machine.device_name, "torch": torch.__version__}
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
