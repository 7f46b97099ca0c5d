"""Runs that something happens to, and what has to hold once they have recovered."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lumina.state.reader import open_checkpoint, read_pointer, step_folders
from lumina.state.run_directory import RunDirectory
from training import DENSE, Trainings, assert_same_run, checkpoints, rows, words

STEPS = 8
FLAGS = [
    *DENSE,
    *words(f"--precision fp32 --steps {STEPS} --save-every-n-batches 2"),
    *words("--eval-every-n-batches 4 --dropout 0.1 --ema-decay 0.9"),
    *words("--save-total-limit 9 --report-samples 0"),
]
"""Everything that a resume has to bring back: dropout, averages, evaluations, data."""

Act = Callable[[], None]


@dataclass
class Faulty:
    """Runs of one test, with the run that nothing happened to.

    Attributes:
        trainings: makes runs in processes of their own.
        undisturbed: the reference: the same settings from beginning to end.
        half: the same run, killed with SIGKILL in step 7, to be copied.
    """

    trainings: Trainings
    undisturbed: Path
    half: Path

    @property
    def folder(self) -> Path:
        return self.trainings.folder

    def copy(self, name: str = "run") -> Path:
        """A copy of the killed run, with checkpoints of steps 2, 4 and 6."""
        return Path(shutil.copytree(self.half, self.folder / name))

    def ended(
        self, *flags: str, before: Act | None = None, name: str = "run", **more: str
    ) -> tuple[int, str]:
        """A run to its end, whichever that is: its exit code, and what it said."""
        running = self.trainings.start(name, *FLAGS, *flags, before=before, **more)
        return running.wait(), running.output

    def recover(self, *flags: str, name: str = "run") -> Path:
        """Go on with a run, to its end."""
        return self.trainings.train(name, *FLAGS, "--auto-resume", *flags)

    def assert_recovered(self, *flags: str, name: str = "run") -> Path:
        """Going on ends in what the undisturbed run ended in, to the bit."""
        run = self.recover(*flags, name=name)
        assert_same_run(run, self.undisturbed)
        assert_sound(run)
        return run


def assert_sound(run: Path, steps: int = STEPS) -> None:
    """A finished run as it has to be, whatever happened on the way."""
    assert [row["step"] for row in rows(run)] == list(range(1, steps + 1))
    for name in ("metrics.jsonl", "events.jsonl"):
        text = (run / name).read_bytes()
        assert text.endswith(b"\n")
        for line in text.splitlines():
            json.loads(line, parse_constant=_no_number)
    folder = run / "checkpoints"
    for _, path in step_folders(folder):
        open_checkpoint(path, from_device=True).close()
    newest = read_pointer(folder, "LATEST")
    assert newest is not None and newest.name == f"step-{steps:08d}"
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
    with RunDirectory(run).acquire(resume=True) as directory:  # nothing holds it
        assert directory.finished
    # What was taken back is the rows after the checkpoint that was gone on from.
    events = [json.loads(x) for x in (run / "events.jsonl").read_text().splitlines()]
    resumed = {0, *(e["step"] for e in events if e["kind"] == "resumed")}
    for path in run.glob("metrics.discarded-*.jsonl"):
        lost = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert lost[0] - 1 in resumed
        assert lost == list(range(lost[0], lost[0] + len(lost)))


def _no_number(token: str) -> None:
    raise AssertionError(f"{token} is not strict JSON")


def unchanged(run: Path) -> dict[str, bytes]:
    """All files of a run but its events, lock and status, to be compared later."""
    told = {"events.jsonl", ".lock", "status.json", "report.html"}
    files = (p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in told)
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


def die(number: int = signal.SIGKILL) -> None:
    """End this process as a signal ends it; nothing of Python runs any more."""
    os.kill(os.getpid(), number)
    time.sleep(60)  # the signal may take a moment


def segfault() -> None:
    """Read the address 0."""
    ctypes.string_at(0)


def exit_bare(code: int) -> None:
    """End the process without any of Python's own endings."""
    os._exit(code)


def at_step(step: int, act: Act) -> None:
    """In the process of a run: `act` when so many steps are done."""
    from lumina.train.loop import Loop

    take_step = Loop._guarded_step

    def step_or_act(loop, *arguments):
        if loop.progress.step == step:
            loop.checkpoints.idle()  # what is saved by then does not depend on luck
            act()
        return take_step(loop, *arguments)

    Loop._guarded_step = step_or_act


def killed_at(step: int) -> Act:
    """For `before`: kill -9 in that step."""
    return partial(at_step, step, die)


def saved(run: Path) -> list[int]:
    """Steps of the checkpoints that are there."""
    return [int(name.removeprefix("step-")) for name in checkpoints(run)]
