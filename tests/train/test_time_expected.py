"""A run estimates its time before the first step, and compares it at the end."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lumina.config import Config
from lumina.observe.console import Console
from lumina.plan.speeds import comparable
from lumina.state.metrics import read_metrics
from lumina.train import Trainer, time_expected
from machines import cpu, plan_for


@pytest.mark.covers("TRN-35")
def test_the_time_is_estimated_compared_and_remembered(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    for name in ("first", "second"):
        said, run = io.StringIO(), tmp_path / name
        config = tiny_config.replace(run_dir=str(run), steps=14, save_every_n_batches=9)
        trainer = Trainer(config, console=Console(stream=said))
        trainer.train()
        lines = (run / "events.jsonl").read_text().splitlines()
        events = {one["kind"]: one for one in map(json.loads, lines)}
        estimated, taken = events["time_estimated"], events["time_taken"]
        assert estimated["step"] == 0 and taken["step"] == 14
        measured = name == "second"
        basis = "measured" if measured else "assumed"
        assert basis in estimated["message"] and basis in taken["message"]
        figures = taken["data"]
        assert figures["measured"] is measured
        quick, slow = figures["expected_step_range"]
        assert 0 < quick < figures["expected_step_seconds"] < slow
        seconds = [row["step_seconds"] for row in read_metrics(run)]
        assert figures["seconds"] == pytest.approx(sum(seconds))
        assert "14 steps took" in said.getvalue()
        assert " ".join(estimated["message"].split()) in " ".join(
            said.getvalue().split()
        )
        plan = trainer.plan
        assert plan is not None
        (speed, *earlier) = comparable(plan, estimated_on(plan, tmp_path / "cache"))
        assert len(earlier) == int(measured)
        tokens = plan.global_batch_size * plan.spec.seq_length
        median = sorted(seconds[3:])[5]
        assert speed.rate == pytest.approx(plan.flops_per_token * tokens / median)
        rate = speed.rate if not measured else earlier[0].rate
        if measured:
            likely = plan.flops_per_token * tokens / rate
            assert figures["expected_step_seconds"] == pytest.approx(likely)


def estimated_on(plan: object, cache: Path) -> str:
    """The device whose speed was remembered last."""
    last = (cache / "speeds.jsonl").read_text().splitlines()[-1]
    return str(json.loads(last)["device_name"])


@pytest.mark.thorough
def test_a_run_that_goes_on_estimates_the_steps_that_are_left(
    tiny_config: Config, tmp_path: Path
) -> None:
    Trainer(tiny_config.replace(steps=4)).train()
    run = str(tiny_config.run.run_dir)
    Trainer(Config(resume=run, steps=6)).train()
    lines = (Path(run) / "events.jsonl").read_text().splitlines()
    told = [one for one in map(json.loads, lines) if one["kind"] == "time_estimated"]
    assert [one["data"]["expected_steps"] for one in told] == [4, 2]


def test_a_row_that_comes_a_second_time_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_expected, "estimate_here", lambda *given: None)
    plan = plan_for(Config.resolve(preset="debug", flags={"steps": 9}))
    expected = time_expected.TimeExpected(plan, cpu(), 3)
    given: list[int] = []
    take = expected.counting(lambda row: given.append(row["step"]))
    for step, seconds in ((4, 1.0), (5, 2.0), (5, 2.0), (6, 4.0)):
        take({"step": step, "step_seconds": seconds})
    told: dict[str, object] = {}

    class Told:
        def event(self, *words: object, **data: object) -> None:
            told.update(data, message=words[3])

    expected.compare(plan, Told())  # type: ignore[arg-type]
    assert given == [4, 5, 5, 6]
    assert (told["steps"], told["seconds"], told["step"]) == (3, 7.0, 6)
    assert told["message"] == "3 steps took 7 s"
    assert "unknown" in expected.in_words()
