"""What fails while a run is closed does not replace the error that ended it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lumina
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.train import finish, loop, lr_range
from lumina.train.bench import against
from lumina.train.callbacks import Callback
from lumina.train.graphs import captured
from lumina.train.lr_range import swept
from lumina.train.prove import loss_parity, sessions
from lumina.train.run_folder import RunFolder


class EndedError(Exception):
    """What ends the work."""


def failing(*_: Any, **__: Any) -> Any:
    raise OSError(5, "closing fails")


def ending(*_: Any, **__: Any) -> Any:
    raise EndedError("the cause")


class OnFailure(Callback):
    """Fails at the event that tells of the failure of the run."""

    def on_event(self, trainer: lumina.Trainer, event: dict[str, Any]) -> None:
        if event["kind"] == "run_failed":
            failing()


def raised(config: lumina.Config, **options: Any) -> list[str]:
    """The notes on the cause, which a run raises."""
    with pytest.raises(EndedError, match="the cause") as found:
        lumina.Trainer(config, **options).train()
    return getattr(found.value, "__notes__", [])


def test_a_run_raises_its_cause_whatever_its_end_says(
    tiny_config: lumina.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed, the memory of runs, the locks and the callbacks all fail after it."""
    monkeypatch.setattr(loop, "train_step", ending)
    close = loop.Prefetcher.close

    def closing(feed: Any) -> None:
        close(feed)
        failing()

    monkeypatch.setattr(loop.Prefetcher, "close", closing)
    monkeypatch.setattr(finish, "remember", failing)
    monkeypatch.setattr(RunFolder, "close", failing)
    notes = raised(tiny_config, callbacks=[OnFailure()])
    assert len(notes) == 4 and set(notes) == {"OSError: [Errno 5] closing fails"}
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed"


def test_a_run_that_cannot_be_built_says_why_though_that_cannot_be_recorded(
    tiny_config: lumina.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina.train.job.begin", ending)
    monkeypatch.setattr("lumina.train.job.leave_failure", failing)
    assert raised(tiny_config) == ["OSError: [Errno 5] closing fails"]


def test_a_plan_that_fails_says_why(
    tiny_config: lumina.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina.train.trainer.find_run", ending)
    monkeypatch.setattr(Console, "close", failing)
    with pytest.raises(EndedError):
        lumina.Trainer(tiny_config).explain()


class Session:
    """Stands for a training that is measured; closing it fails."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.close: Callable[[], None] = failing


@pytest.mark.parametrize(
    ("command", "worker"),
    [
        ("bench train", "lumina.train.bench.training.measure_training"),
        ("profile training", "lumina.train.profiling.training.profile_training"),
        ("profile memory", "lumina.train.profiling.memory.profile_memory"),
        (
            "profile communication",
            "lumina.train.profiling.communication.profile_communication",
        ),
    ],
)
def test_a_measurement_that_fails_says_why(
    command: str,
    worker: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise LuminaError("E002", "that is not measured")

    monkeypatch.setattr("lumina.train.profiling.session.Session", Session)
    monkeypatch.setattr(worker, refused)
    if command == "profile communication":  # as a launcher of two starts the first
        place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 1}
        for name, value in (place | {"MASTER_ADDR": "127.0.0.1"}).items():
            monkeypatch.setenv(name, str(value))
    words = [*command.split(), "--preset", "debug"]
    if command.startswith("profile"):
        words += ["--output", str(tmp_path / "profile")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "E002" in said and "besides: OSError: [Errno 5] closing fails" in said


def rate_sweep(patch: pytest.MonkeyPatch, config: lumina.Config) -> None:
    patch.setattr(lr_range, "find_run", ending)
    patch.setattr(lr_range.Ranks, "disconnect", failing)
    swept(config, lowest=1e-4, highest=1e-2, steps=10, console=Console(), tell=print)


def peers(patch: pytest.MonkeyPatch, config: lumina.Config) -> None:
    patch.setattr(against, "_started", lambda *_: [Session(), Session()])
    any_: Any = None
    against.compare_one(any_, any_, "peer", any_, any_, ending, any_)


def proof(patch: pytest.MonkeyPatch, config: lumina.Config) -> None:
    patch.setattr(sessions, "Session", Session)
    with sessions.session_of(SimpleNamespace(config=config)):  # type: ignore[arg-type]
        ending()


def parity(patch: pytest.MonkeyPatch, config: lumina.Config) -> None:
    program = SimpleNamespace(model=torch.nn.Module(), close=failing)
    patch.setattr(loss_parity, "assemble", lambda plan: program)
    patch.setattr(loss_parity, "_rows", ending)
    loss_parity._losses(SimpleNamespace(tf32=False), 1, bool)  # type: ignore[arg-type]


@pytest.mark.parametrize("work", [rate_sweep, peers, proof, parity])
def test_other_work_that_fails_says_why(
    work: Callable[[pytest.MonkeyPatch, lumina.Config], None],
    tiny_config: lumina.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(EndedError) as found:
        work(monkeypatch, tiny_config)
    assert set(found.value.__notes__) == {"OSError: [Errno 5] closing fails"}


def test_a_step_that_cannot_be_recorded_says_what_it_did() -> None:
    """Whatever breaks a capture off, ending the capture fails as well."""

    class Recorder:
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

        def record(self, work: Callable[[], torch.Tensor]) -> Any:
            try:
                raise self.cause
            finally:
                raise RuntimeError("operation failed due to a previous error")

    program: Any = SimpleNamespace(
        device=torch.device("cpu"), optimizer=SimpleNamespace(zero_grad=lambda: None)
    )
    numbers: Any = SimpleNamespace(shares=[])

    def recorded(cause: Exception) -> None:
        step = captured.CapturedStep(program, 0, Recorder(cause))  # type: ignore[arg-type]
        step._record(program, [], numbers, failing)

    with pytest.raises(LuminaError, match="graph: a value was read back") as found:
        recorded(RuntimeError("a value was read back"))
    assert found.value.code == "E309"
    for cause in (torch.OutOfMemoryError("no room"), LuminaError("E302", "overflow")):
        with pytest.raises(type(cause)) as told:
            recorded(cause)
        assert told.value is cause
