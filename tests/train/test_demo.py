"""`lumina demo`: every part works, and the verdict is a verdict."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.train.demo import pace
from lumina.train.demo.pace import Budget, Pace
from lumina.train.demo.run import Demo, DemoOptions
from lumina.train.demo.scores import Scores
from lumina.train.trainer import TrainResult


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
    assert f"training in {results['precision']}" in said
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
        page = (folder / run / "report.html").read_text()
        assert "<svg" in page, "the report shows curves"
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
    code = demo._conclude(runs[0], runs[1], scores, Pace({"fp32": [0.1]}))
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


def test_bf16_is_chosen_only_where_it_is_clearly_faster() -> None:
    assert Pace({"fp32": [1.0], "bf16": [0.5]}).precision == "bf16"
    assert Pace({"fp32": [1.0], "bf16": [0.97]}).precision == "fp32"
    assert Pace({"fp32": [1.0], "bf16": [3.0]}).step_seconds == 1.0
    assert Pace({"fp32": [1.0]}).precision == "fp32"
    disturbed = Pace({"fp32": [1.0, 9.0, 8.0], "bf16": [3.0, 3.0, 3.0]})
    assert disturbed.precision == "fp32"
    assert disturbed.step_seconds == 8.0


def test_steps_fill_a_share_of_the_time_left_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
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
