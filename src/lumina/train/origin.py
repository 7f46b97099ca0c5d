"""What a run was started with, for its own record: command, versions, device, data."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lumina
from lumina.config import Config
from lumina.plan.environment import Environment

FOUND = (
    "documents",
    "conversations",
    "skipped",
    "skipped_codes",
    *(f"{side}_{what}" for side in ("train", "eval")
      for what in ("documents", "tokens", "loss_tokens")),
)  # fmt: skip
"""Figures of the data that the run's report shows."""


def origin(
    config: Config, environment: Environment, stats: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts of this start, as JSON values.

    Args:
        config: names the data.
        environment: the machine.
        stats: what was found in the data.
    """
    data = config.data
    kind = [f"data of kind {data.data_kind}"] if data.data_kind else []
    counts = ("documents", "conversations", "train_tokens", "eval_tokens")
    found = {name: stats[name] for name in FOUND if stats.get(name)}
    return {
        "command": command(sys.argv),
        "lumina": lumina.__version__,
        "torch": environment.torch_version,
        "python": platform.python_version(),
        "device": environment.device_name,
        "hardware": hardware(environment),
        "data": [*kind, *data.train_data, *data.tasks, *config.mixture.sources],
        "counts": {name: stats[name] for name in counts if stats.get(name)},
        "found": found,
    }


def hardware(environment: Environment) -> dict[str, Any]:
    """What the machine has, for a reader who does not know it."""
    found: dict[str, Any] = {
        "cores": environment.cores,
        "host_memory_bytes": environment.host_memory_bytes,
    }
    if environment.device == "cuda":
        found |= {
            "devices": environment.device_count,
            "device_memory_bytes": environment.memory_bytes,
            "cuda": environment.cuda_version,
        }
    return found


def command(arguments: list[str]) -> str:
    """The command of a process as one types it; a Python program by its name."""
    program, *options = arguments or [""]
    path = Path(program)
    if path.name == "lumina" or path.parent.name == "lumina":
        return shlex.join(["lumina", *options])
    return f"{path.name or 'Python'}, a Python program"
