"""What is said of the end of a run, and with which exit code its process ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina.errors import LuminaError
from lumina.train.end_of_run import EndOfRun
from lumina.train.signals import StopSignals
from lumina.train.stopping import Stops


def signalled(end: EndOfRun) -> None:
    end.signals.received = signal.SIGINT


def called(end: EndOfRun) -> None:
    end.stop_called = True


def epoch_over(end: EndOfRun) -> None:
    end.after_epoch(0.9)
    assert not end.reached
    end.after_epoch(1.0)


def paused(end: EndOfRun) -> None:
    ending = {"reason": "wait", "failed": False, "advice": "", "paused": True}
    end.by_control(ending, 7)


def done(end: EndOfRun) -> None:
    end.by_control({"reason": "converged", "failed": False, "advice": ""}, 7)


@pytest.mark.parametrize(
    ("causes", "reason", "exit_code", "is_paused"),
    [
        ([signalled], "stopped by a signal", 130, False),
        ([called], "stopped by Trainer.stop", 143, False),
        ([called, signalled], "stopped by a signal", 130, False),
        # The signal comes while the last step of the epoch is computed.
        ([epoch_over, signalled], "the epoch is over (stop_after_epoch)", 0, True),
        ([paused, signalled], "wait", 0, True),
        ([done, signalled], "stopped by a signal", 130, False),
    ],
)
def test_an_interrupted_run_says_what_ended_it(
    causes: list[Callable[[EndOfRun], None]],
    reason: str,
    exit_code: int,
    is_paused: bool,
) -> None:
    end = EndOfRun(StopSignals(), Stops(epoch=1))
    assert not end.is_asked()
    for cause in causes:
        cause(end)
    if end.is_asked():
        end.interrupt()
    end.name_interruption()
    assert end.reached
    assert (end.reason, end.exit_code, end.paused) == (reason, exit_code, is_paused)


def test_a_stop_file_pauses_a_run_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "stop"
    end = EndOfRun(StopSignals(), Stops(str(file)))
    file.touch()
    assert end.is_asked()
    end.interrupt()
    end.name_interruption()
    assert end.reason == f"stopped: {file} was found (stop_file)"
    assert end.paused and end.exit_code == 0


def test_a_run_that_a_control_fails_ends_with_an_error() -> None:
    end = EndOfRun(StopSignals())
    ending = {"reason": "it diverged", "failed": True, "advice": "lower the rate"}
    with pytest.raises(LuminaError, match="it diverged"):
        end.by_control(ending, 7)
