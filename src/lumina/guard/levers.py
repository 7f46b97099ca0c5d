"""Pretests of the levers of a Plan, each in a process of its own, judged together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lumina.child_processes import reason_of_end
from lumina.features import FEATURES, active_features
from lumina.guard.findings import Findings
from lumina.guard.identity import identity
from lumina.guard.judge import Verdict, judge
from lumina.guard.lever_cache import cached, keep
from lumina.guard.pretest_logs import log
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan

TIMEOUT = 900.0
"""Seconds that the pretest of a lever may take, compiling included."""

LAUNCHED = frozenset(
    (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
)
"""What a launcher sets in the processes of a run."""

Tell = Callable[[str], object]


def levers_of(plan: Plan) -> tuple[str, ...]:
    """The levers that a Plan has and can do without."""
    return tuple(
        name
        for name in active_features(FEATURES, plan)
        if FEATURES[name].claim and FEATURES[name].has_fallback
    )


def pretest_levers(
    plan: Plan,
    machine: Environment,
    levers: Sequence[str] | None = None,
    *,
    checkpoint: str = "",
    fingerprint: str = "",
    plugins: Sequence[str] = (),
    timeout: float = TIMEOUT,
    why: str = "asked for",
    fresh: bool = False,
    background: bool = False,
    tell: Tell = lambda text: None,
) -> dict[str, Verdict]:
    """Try levers of a Plan on this machine, and the bundle of those that are trusted.

    Each is compared with the Plan without it. What was found before on the same
    machine, with the same model, shapes and versions, is not measured again. A process
    that crashes, hangs or is killed makes its lever untrusted, and is not remembered:
    it is tried again the next time.

    Args:
        plan: with the levers on.
        machine: this one.
        levers: their names; None: all that the Plan has.
        checkpoint: a folder with the weights to begin with; "" for initial ones.
        fingerprint: of these weights.
        plugins: files or modules to load there.
        timeout: seconds for each.
        why: for the history.
        fresh: measure again what was found before.
        background: give way to other processes.
        tell: called with a line about each.

    Returns:
        Lever -> verdict; with several trusted ones the bundle too, under their names
        with + between them.
    """
    names = list(levers_of(plan) if levers is None else levers)
    known: dict[str, bool] = {}

    def found_of(group: list[str]) -> Findings:
        name = "+".join(group)
        of = identity(plan, name, machine, fingerprint)
        found = None if fresh else cached(of)
        known[name] = found is not None
        if found is None:
            found, whole = _tried(plan, group, checkpoint, plugins, timeout, background)
            if whole:
                keep(of, found)
        found.steps = plan.steps
        return found

    verdicts = judge([found_of([name]) for name in names])
    bundle = [name for name in names if verdicts[name].trusted]
    if len(bundle) > 1:
        verdicts |= judge([found_of(bundle)])
    for name, one in verdicts.items():
        of = identity(plan, name, machine, fingerprint)
        log(plan, one, of, cached=known[name], why=why)
        said = "trusted" if one.trusted else "not trusted"
        tell(f"{name}  {said}: {one.text}")
    return verdicts


def used(verdicts: dict[str, Verdict]) -> tuple[str, ...]:
    """The levers that may be on together.

    Where the bundle of several is not trusted, the fastest of them alone.
    """
    single = [name for name, one in verdicts.items() if one.trusted and "+" not in name]
    bundles = [one for name, one in verdicts.items() if "+" in name]
    if len(single) > 1 and not all(one.trusted for one in bundles):
        return (max(single, key=lambda name: verdicts[name].speed or 0.0),)
    return tuple(single)


def _tried(
    plan: Plan,
    group: list[str],
    checkpoint: str,
    plugins: Sequence[str],
    timeout: float,
    background: bool,
) -> tuple[Findings, bool]:
    """What a process of its own finds, and whether it came to its end."""
    claims = {FEATURES[name].claim for name in group}
    empty = Findings(
        "+".join(group),
        "fp8" if "fp8" in claims else "exact",
        any(FEATURES[name].faster for name in group),
    )
    with tempfile.TemporaryDirectory(prefix="lumina-pretest-") as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        values: dict[str, Any] = {
            "plan": plan.to_dict(),
            "levers": group,
            "checkpoint": checkpoint,
            "plugins": list(plugins),
            "answer": str(answer),
            "parent": os.getpid(),
        }
        request.write_text(json.dumps(values))
        started = time.monotonic()
        problem = run_child(
            [sys.executable, "-m", "lumina.guard.lever_child", str(request)],
            timeout,
            nice=background,
        )
        if problem is None:
            try:
                return Findings.from_dict(json.loads(answer.read_bytes())), True
            except (OSError, ValueError, TypeError, KeyError):
                problem = "its pretest ended without a result"
        seconds = time.monotonic() - started
        empty.failure = f"{problem} (after {seconds:.0f} s)"
        return empty, False


def run_child(command: list[str], timeout: float, *, nice: bool) -> str | None:
    """Run a process to its end; why it has no result, or None.

    Args:
        command: what to run. It and what it starts are killed at the timeout.
        timeout: seconds.
        nice: give way to other processes.
    """
    # A rank of a run would be taken for one that joins it.
    environment = {n: x for n, x in os.environ.items() if n not in LAUNCHED}
    if nice:
        command = ["nice", "-n", "19", *command]
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=told,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"its pretest did not end within {timeout:g} s"
        finally:
            _end(process)
        if code == 0:
            return None
        if code < 0:
            return f"its pretest was killed by signal {-code}"
        told.seek(0)
        printed = told.read().decode(errors="replace")
        return f"its pretest ended with code {code}: {reason_of_end(printed)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
