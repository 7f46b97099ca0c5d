"""`lumina demo`: every part works, and the verdict is a verdict."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.train.demo import pace
from lumina.train.demo.pace import Budget, Pace, Watch
from lumina.train.demo.run import Demo, DemoOptions
from lumina.train.demo.scores import Scores
from lumina.train.trainer import TrainResult
from reported_run import numbers
from stand_ins import stand_in

pytestmark = pytest.mark.thorough


def test_the_quick_demo_goes_from_text_to_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--quick", "--dir", str(folder)]) == 0
    said = capsys.readouterr().out

    results = json.loads((folder / "results.json").read_text())
    scores = results["bits_per_byte"]
    assert set(scores) == {"byte_bigram", "gzip", "token_bigram", "model"}
    for bits in scores.values():
        assert 1 < bits < 9
        assert f"{bits:.3f}" in said
    assert f"s in {results['precision']} (" in said
    assert results["fine_tune"]["steps"] == 5

    assert "A sample" in said and "def read_file(path):" in said
    questions = re.findall(r"> What does (\S+) do\?   \((.*)\)", said)
    assert [seen for _, seen in questions] == ["in the training data"] * 2 + [
        "held out"
    ]
    trained_on = (folder / "data/questions.jsonl").read_text()
    assert f"{questions[0][0]} " in trained_on
    assert f"{questions[2][0]} " not in trained_on

    assert f"chat {folder / 'answers'}" in said
    for run in ("library", "answers"):
        assert numbers(folder / run / "report.html")["charts"], "it shows curves"
    assert f"{scores['model']:.3f}" in (folder / "library/report.html").read_text()
    assert questions[2][0] in (folder / "answers/report.html").read_text()

    assert main(["demo", "--quick", "--dir", str(folder)]) != 0
    assert "E002" in capsys.readouterr().err


def conclude(folder: Path, model: float, quick: bool = False) -> tuple[int, str]:
    """Judge a model of so many bits per byte; also what was said."""
    said: list[str] = []
    demo = Demo(DemoOptions(folder, quick=quick), said.append)
    runs = [TrainResult(folder / run, 2.0, 2.0, 5, 100) for run in ("a", "b")]
    scores = Scores(byte_bigram=3.5, gzip=2.1, token_bigram=1.9, model=model)
    code = demo._conclude(runs[0], runs[1], scores, Pace("float32", "", [0.1]))
    return code, "\n".join(said)


def test_a_model_that_does_not_beat_the_bigram_fails(tmp_path: Path) -> None:
    code, said = conclude(tmp_path, model=3.6)
    assert code == 1
    assert "FAILED" in said and "--minutes 10" in said
    assert conclude(tmp_path, model=math.nan)[0] == 1
    assert conclude(tmp_path, model=3.4)[0] == 0
    assert conclude(tmp_path, model=3.6, quick=True)[0] == 0


def test_each_yardstick_is_said_to_be_beaten_or_not() -> None:
    table = Scores(byte_bigram=3.5, gzip=2.1, token_bigram=1.9, model=2.0).table()
    verdicts = [line.split("   ")[-1] for line in table.splitlines()]
    assert verdicts[:3] == ["beaten", "beaten", "not beaten"]


def test_the_middle_of_the_trial_is_the_pace() -> None:
    pace = Pace("float32", "why", [1.0, 9.0, 2.0])
    assert pace.step_seconds == 2.0
    assert pace.describe() == "a step takes 2.000 s in float32 (why)"


@pytest.fixture
def a_second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever somebody looks."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr(pace, "time", clock)


@pytest.mark.usefixtures("a_second_a_step")
def test_a_run_on_a_machine_that_slowed_down_is_shortened(
    tmp_path: Path, tiny_config: Config
) -> None:
    said: list[str] = []
    demo = Demo(DemoOptions(tmp_path / "demo", minutes=1.0), said.append)
    result = demo._train(tiny_config, steps=100, seconds=0.1, share=1.0)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open("rb")]
    assert result.exit_code == 0
    assert 40 < result.steps == rows[-1]["step"] < 60
    assert f"{result.steps} steps instead of 100" in said[-1]
    # The schedule ends with the run, not where it was meant to end.
    assert rows[-1]["learning_rate"] < rows[25]["learning_rate"] / 5
    assert [row["step"] for row in rows] == list(range(1, result.steps + 1))


@pytest.mark.usefixtures("a_second_a_step")
def test_a_run_that_keeps_its_time_is_left_alone(
    tmp_path: Path, tiny_config: Config
) -> None:
    said: list[str] = []
    demo = Demo(DemoOptions(tmp_path / "demo", minutes=1.0), said.append)
    result = demo._train(tiny_config, steps=50, seconds=0.1, share=1.0)
    assert (result.steps, result.exit_code) == (50, 0)
    assert not any("slower" in line for line in said)


def test_steps_fill_a_share_of_the_time_left_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(pace, "time", stand_in(time, monotonic=lambda: now[0]))
    budget = Budget(120.0)
    now[0] = 20.0
    assert budget.steps(0.5, 0.125, least=10, most=9999) == 400
    assert budget.steps(0.5, 0.1, least=10, most=50) == 50
    assert Budget(0.0).steps(0.5, 0.1, least=10, most=50) == 10


@pytest.mark.parametrize("minutes", ["0", "-3", "nan"])
def test_nonsense_minutes_are_refused(
    minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--minutes", minutes]) == 2
    assert "E005" in capsys.readouterr().err


def test_a_moment_of_load_does_not_shorten_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    stops: list[int] = []
    trainer: Any = SimpleNamespace(
        plan=SimpleNamespace(steps=60), stop=lambda: stops.append(1)
    )
    watch = Watch(60.0)
    for step in range(1, 61):
        now += 2.0 if step <= 10 else 0.5
        watch.on_step(trainer, {"step": step})
    assert not stops and watch.shorter is None
    now = 0.0
    watch = Watch(60.0)
    for step in range(1, 17):
        now += 2.0
        watch.on_step(trainer, {"step": step})
    assert len(stops) == 1, "asked once, when half of the time was gone"
    assert watch.shorter == 15 + 1 + 13
