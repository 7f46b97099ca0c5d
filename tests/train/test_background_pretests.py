"""Optimisations proven beside a run: off, then on where proven, off where they fail."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from levers_on_trial import lever
from lumina.guard import pretest_logs
from lumina.guard import safe_optimizations as module
from lumina.guard.background import Background
from lumina.guard.identity import identity
from lumina.guard.judge import Verdict
from tiny_runs import Run, Runs
from training import PATIENCE, wait_until

Found = dict[str, tuple[bool, str]]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    with lever("lever", "other"):
        yield


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


class Pretests:
    """Stands for what processes find, and remembers what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[str, str], bool] = lambda name, weights: True
        monkeypatch.setattr(module, "pretest_levers", self.tried)
        begin = Background.begin

        def at_once(self: Background, *rest: Any, **more: Any) -> None:
            begin(self, *rest, **more)
            assert self._thread is not None
            self._thread.join()

        monkeypatch.setattr(Background, "begin", at_once)

    def tried(
        self, plan: Any, machine: Any, names: Any, *, checkpoint: str, fingerprint: str,
        why: str, **more: Any,
    ) -> dict[str, Verdict]:  # fmt: skip
        assert more["background"] and set(names) <= set(plan.features)
        assert threading.current_thread().name == "lumina-pretests"
        self.asked.append({"names": list(names), "checkpoint": checkpoint, "why": why})
        found = {}
        for name in names:
            good = self.answer(name, checkpoint)
            problems = () if good else ("it is 0.9x as fast",)
            found[name] = Verdict(name, good, problems, 0.0, 1.2, 1.1, 1.0)
            of = identity(plan, name, machine, fingerprint)
            pretest_logs.log(plan, found[name], of, cached=False, why=why)
        return found


@pytest.fixture
def pretests(monkeypatch: pytest.MonkeyPatch) -> Pretests:
    return Pretests(monkeypatch)


@contextmanager
def once_saved(program: Any, batches: Any) -> Iterator[None]:
    """From the sixth step on a step waits until the first checkpoint is written."""
    yield
    folder = Path(os.environ["LUMINA_CACHE"]).parent
    if batches.cursor["row"] >= 24:
        assert wait_until(
            lambda: any(
                "checkpoint_saved" in file.read_text()
                for file in folder.glob("run-*/events.jsonl")
            )
        )


def trained(runs: Runs, around: Any = None, **options: Any) -> Run:
    start: dict[str, Any] = {
        "safe_optimizations": "background", "features": ("lever", "other"), "steps": 6,
        "experimental_throughput_drop_threshold": 1e-6, "eval_fraction": 0.0,
    }  # fmt: skip
    return runs.train(around, **(start | options))


def switched(run: Run) -> list[tuple[str, bool, str]]:
    return [
        (event["data"]["name"], event["data"]["value"], event["data"]["source"])
        for event in run.events
        if event["kind"] == "control" and event["data"]["outcome"] == "applied"
    ]


def told(run: Run) -> str:
    return " | ".join(e["message"] for e in run.events if e["kind"] == "pretest")


@pytest.mark.covers(
    "KRN-05: runs on configuration change",
    "KRN-01: monitors, disables with fallback, logs",
)
def test_what_is_proven_is_switched_on_and_the_rest_stays_off(
    runs: Runs, pretests: Pretests
) -> None:
    pretests.answer = lambda name, weights: name == "lever"
    run = trained(runs, save_every_n_batches=100)
    assert pretests.asked[0]["names"] == ["lever", "other"]
    assert "not tried here" in pretests.asked[0]["why"]
    assert switched(run) == [("lever", True, "pretest")]
    assert "other is not proven: it is 0.9x as fast" in told(run)
    history = Path(pretest_logs.cache_root()) / "pretest_logs"
    assert (history / "pretest_history.json").is_file()
    assert len(list(history.glob("pretest_*_2*.json"))) == 1

    # A second run rests on what was found, and tries nothing before its checkpoint.
    before = len(pretests.asked)
    again = trained(runs, save_every_n_batches=100)
    assert len(pretests.asked) == before and not switched(again)
    assert "lever is left out" not in again.printed
    # Another configuration has to be proven anew.
    trained(runs, save_every_n_batches=100, label_smoothing=0.1)
    assert "configuration changed" in pretests.asked[before]["why"]


@pytest.mark.covers("KRN-05: model-size change")
def test_another_size_of_the_model_is_tried(runs: Runs, pretests: Pretests) -> None:
    trained(runs)
    before = len(pretests.asked)
    trained(runs, hidden_size=64)
    assert "another model size" in pretests.asked[before]["why"]


@pytest.mark.covers("KRN-05: new checkpoint")
def test_each_checkpoint_is_tried_and_what_fails_is_switched_off(
    runs: Runs, pretests: Pretests
) -> None:
    pretests.answer = lambda name, weights: not (weights and name == "lever")
    run = trained(runs, once_saved, steps=14, save_every_n_batches=4)
    assert switched(run)[:3] == [
        ("lever", True, "pretest"),
        ("other", True, "pretest"),
        ("lever", False, "pretest"),
    ]
    of_checkpoint = [one for one in pretests.asked if one["checkpoint"]]
    assert of_checkpoint and "new checkpoint" in of_checkpoint[0]["why"]
    assert Path(of_checkpoint[0]["checkpoint"]).name.startswith("step")


def test_a_pretest_that_breaks_off_is_told_and_leaves_the_run_alone(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, pretests: Pretests
) -> None:
    def broken(*rest: Any, **more: Any) -> Any:
        raise OSError("no room for its log")

    monkeypatch.setattr(module, "pretest_levers", broken)
    run = trained(runs)
    assert not switched(run) and run.result.exit_code == 0
    assert "OSError: no room for its log" in told(run)


def test_a_run_does_not_wait_for_its_pretests(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end when they end; the run is over before."""
    over, ended = threading.Event(), []

    def slow(*rest: Any, **more: Any) -> Any:
        over.wait(PATIENCE)
        ended.append(True)
        return {}

    monkeypatch.setattr(module, "pretest_levers", slow)
    run = trained(runs, steps=3)
    assert run.result.steps == 3 and not ended
    over.set()


def test_a_run_that_repeats_bit_for_bit_switches_nothing(runs: Runs) -> None:
    message = runs.refused("E002", safe_optimizations="background", deterministic=True)
    assert "--deterministic" in message


def test_a_resume_has_what_was_switched_on(runs: Runs, pretests: Pretests) -> None:
    """At the same step: the journal has it."""
    half = trained(runs, steps=4)
    assert len(switched(half)) == 2
    asked = len(pretests.asked)
    again = runs.train(
        resume=str(half.folder), run_dir=None, steps=8, features=("lever", "other"),
        safe_optimizations="background", eval_fraction=0.0,
        experimental_throughput_drop_threshold=1e-6,
    )  # fmt: skip
    rows = [e for e in again.events if e["kind"] == "control"]
    assert len({(e["step"], e["data"]["name"]) for e in rows}) == len(rows)
    assert len(pretests.asked) >= asked
