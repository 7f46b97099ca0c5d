"""A feature's pretest, run by name in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from lumina.child_processes import reason_of_end

TIMEOUT = 120.0
"""Seconds that a pretest may take, the start of its process included."""


@dataclass(frozen=True)
class Result:
    """What a pretest found.

    Attributes:
        feature: its name.
        passed: whether the feature works on this machine.
        problem: why not; "" where it works.
        seconds: what the test took.
    """

    feature: str
    passed: bool
    problem: str
    seconds: float

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def run_pretest(
    name: str,
    plugins: Iterable[str] = (),
    *,
    device: str = "auto",
    timeout: float = TIMEOUT,
) -> Result:
    """Try a feature in another process, so that a crash or a hang does no harm here.

    Args:
        name: the feature.
        plugins: files or modules that register features, loaded in that process.
        device: "auto", "cpu" or "cuda".
        timeout: seconds after which the process is killed.
    """
    command = [sys.executable, "-m", "lumina.guard.child", name, "--device", device]
    if plugins := list(plugins):
        command += ["--plugins", *plugins]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {timeout:g} s"
        return Result(name, False, problem, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    answer = _answer(done.stdout)
    problem = _crash(done) if answer is None else answer
    return Result(name, not problem, problem, seconds)


def _answer(output: str) -> str | None:
    """The problem that the process reported on its last line; None: it did not."""
    lines = output.splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("problem"), str):
        return None
    return str(answer["problem"])


def _crash(done: subprocess.CompletedProcess[str]) -> str:
    """How a process ended that reported nothing."""
    if done.returncode < 0:
        return f"its process was killed by signal {-done.returncode}"
    reason = reason_of_end(done.stderr)
    return f"its process ended with code {done.returncode}: {reason}"
