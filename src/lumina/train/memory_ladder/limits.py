"""What a run needed in order to fit, kept for the next run of the same shape.

A small file in `LUMINA_CACHE`: for a machine, a model, a length of rows and the options
that memory depends on, the values that controls had in the end. A file that is damaged
or was written by something else counts as empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lumina.assemble.ranks import Ranks
from lumina.cache_root import cache_root
from lumina.config.sections.memory_ladder import MemoryLadderSection
from lumina.durable import changing, write_file
from lumina.errors import LuminaError
from lumina.plan.environment import Environment
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.train.controls import control_named
from lumina.train.memory_ladder.rung import numbers_after, rungs

FILE = "memory_limits.json"
VERSION = 1
MOST_BYTES, MOST_ENTRIES = 2**20, 500

IN_KEY = (
    "spec", "device", "compute_dtype", "fp8", "weights_dtype", "parallel", "world_size",
    "optimizer", "optimizer_groups", "optimizer_options", "qk_clip", "gradient_steps",
    "ema_decay", "swa_start", "lookahead_steps", "freeze", "compile", "attention",
    "optimizer_in_backward", "loss_chunk_bytes", "features", "preservation_method",
    "watch_vocabulary",
)  # fmt: skip
"""Fields of a Plan that the memory of a step depends on, beside what rungs change."""


def key_of(plan: Plan, environment: Environment) -> str:
    """Names the machine, the model, the length of its rows and the options."""
    values = plan.to_dict()
    facts = {name: values[name] for name in IN_KEY}
    facts["keeps"] = plan.keeps
    facts["device_name"] = environment.device_name
    facts["memory_bytes"] = round(environment.memory_bytes / 2**28)
    facts["torch"] = torch.__version__
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Limit:
    """What runs of one shape need in order to fit.

    Attributes:
        controls: control -> its value in the end.
        run: the directory of the run that found it.
        text: what was seen, for a person.
        proven: a step has fitted with these values.
    """

    controls: dict[str, Any]
    run: str
    text: str
    proven: bool


class Limits:
    """The limit of one key.

    Args:
        key: of `key_of`.
        run: the directory of the run that reads and writes.
    """

    def __init__(self, key: str, run: str = "") -> None:
        self.key = key
        self.run = run

    def known(self) -> Limit | None:
        """What is known; None: nothing."""
        return _limit(_entries().get(self.key))

    def remember(self, controls: dict[str, Any], text: str, proven: bool) -> None:
        """Keep what a run needed. A cache that cannot be written keeps nothing."""
        entry = {
            "controls": controls,
            "run": self.run,
            "text": text,
            "proven": proven,
            "time": round(time.time()),
        }
        self._write(entry)

    def forget(self) -> bool:
        """Drop what is known; whether there was anything."""
        if self.key not in _entries():
            return False
        self._write(None)
        return True

    def _write(self, entry: dict[str, Any] | None) -> None:
        with contextlib.suppress(OSError, LuminaError):
            cache_root().mkdir(parents=True, exist_ok=True)
            with changing(file := cache_root() / FILE):
                entries = _entries()
                entries.pop(self.key, None)
                if entry is not None:
                    entries[self.key] = entry
                kept = dict(list(entries.items())[-MOST_ENTRIES:])
                values = {"version": VERSION, "limits": kept}
                write_file(file, (json.dumps(values, indent=1) + "\n").encode())


def _entries() -> dict[str, Any]:
    """Every entry of the file, the oldest first."""
    try:
        path = cache_root() / FILE
        if path.stat().st_size > MOST_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, LuminaError):
        return {}
    if not isinstance(found, dict) or found.get("version") != VERSION:
        return {}
    limits = found.get("limits")
    return limits if isinstance(limits, dict) else {}


def _limit(entry: Any) -> Limit | None:
    """An entry of the file, if it is one."""
    if not isinstance(entry, dict) or set(entry) != {
        "controls", "run", "text", "proven", "time",
    }:  # fmt: skip
        return None
    controls, run, text = entry["controls"], entry["run"], entry["text"]
    known = {rung.control for rung in rungs() if rung.control}
    if not isinstance(controls, dict) or not set(controls) <= known:
        return None
    if not isinstance(run, str) or not isinstance(text, str):
        return None
    try:
        for name, value in controls.items():
            control_named(name).check_value(value)
    except (LuminaError, TypeError):
        return None
    return Limit(controls, run, text, entry["proven"] is True)


def held_values(plan: Plan) -> dict[str, Any]:
    """What a Plan has of everything that a rung can change."""
    names = {rung.control: None for rung in rungs() if rung.control}
    return {name: getattr(plan, name) for name in names}


def with_known_limits(
    plan: Plan,
    environment: Environment,
    ranks: Ranks,
    *,
    asked: MemoryLadderSection,
    resumed: Path | None = None,
    tell: Callable[[str], None],
) -> Plan:
    """The Plan on the rung that an earlier run of the same shape needed.

    Args:
        plan: what would be done.
        environment: the machine.
        ranks: this process's place; the first rank's file holds.
        asked: the options; without recovery nothing is looked up.
        resumed: the directory of the run that goes on; only what it found itself
            changes it.
        tell: shows a line, and keeps it for the record.
    """
    if not asked.memory_recovery:
        return plan
    limits, note = Limits(key_of(plan, environment)), ""
    limit: Limit | None = None
    if ranks.main:
        if asked.forget_memory_limits and limits.forget():
            note = "what earlier runs of this shape found out about memory is forgotten"
        limit = limits.known()
    limit, note = ranks.share((limit, note))
    if note:
        tell(note)
    if limit is None or (resumed is not None and limit.run != str(resumed.resolve())):
        return plan
    changed: dict[str, tuple[Any, Any]] = {}
    taken, first = [], plan
    for rung in rungs():
        value = limit.controls.get(rung.control)
        wanted = None if value is None else rung.known_to_fit(plan, value)
        if wanted is None or rung.control in plan.pinned:
            continue
        taken.append(rung.name)
        changed[rung.control] = (getattr(plan, rung.control), wanted)
        plan = control_named(rung.control).edit(plan, wanted)
    if not changed:
        return plan
    listed = ", ".join(
        f"{k} {new} instead of {old}" for k, (old, new) in changed.items()
    )
    here = "this run" if resumed is not None else f"the run in {limit.run}"
    numbers = numbers_after(first, taken)
    tell(
        f"{listed}: memory ran out in {here} ({limit.text}); "
        + (f"{numbers}; " if numbers else "")
        + "--forget-memory-limits begins without it"
    )
    why = {name: "an earlier run of this shape ran out of memory" for name in changed}
    return with_spec(plan.replace(reasons=plan.reasons | why), plan.spec)
