"""What a decision was worth is measured: the run again, without it."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.state.run_directory import RunDirectory
from lumina.train.replaying.replay import replay
from lumina.train.replaying.without import without
from option_effects.adaptive import alarm, decisions
from tiny_runs import Run, Runs

BASE: dict[str, Any] = {
    "steps": 24,
    "adaptive_cooldown_steps": 4,
    "save_every_n_batches": 4,
    "save_total_limit": 20,
    "experience": "off",
    "eval_fraction": 0.0,
}
HALVED = BASE | {
    "adaptive": "on",
    "adaptive_without": ("rollback_lower_rate", "reset_moments", "stop_with_diagnosis"),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def measured(run: Run, number: int = 1, **options: Any) -> Any:
    return without(RunDirectory(run.folder), number, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_run_without_a_decision_is_the_one_that_decides_nothing(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row by row, and the difference is that of the losses of the same steps."""
    plain = runs.train(**BASE, adaptive="shadow", robust_clip=True)
    with alarm("divergence", 10):
        run = runs.train(**HALVED)
    decision = decisions(run)[0]
    assert decision["action"] == "lower_rate"
    before = {path.name for path in run.folder.iterdir()}
    assert main(["replay", str(run.folder), "--without", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = lines(run.folder / found["rows"])
    wanted = {row["step"]: row["loss"] for row in plain.rows}
    assert [row["loss"] for row in rows] == [wanted[row["step"]] for row in rows]
    # From the checkpoint of step 8; applied after step 11; 8 steps, of which 4 count.
    assert found["checkpoint"] == 8 and rows[0]["step"] == 9
    assert (found["first"], found["last"]) == (16, 19) and rows[-1]["step"] == 19
    assert found["repeated"] == 0
    mine = {row["step"]: row["loss"] for row in run.rows}
    apart = [mine[step] - wanted[step] for step in range(16, 20)]
    assert found["with_it"] - found["without_it"] == pytest.approx(sum(apart) / 4)
    error = statistics.stdev(apart) / 2
    assert found["error"] == pytest.approx(error)
    clear = abs(sum(apart) / 4) > 2 * error
    assert found["verdict"] == (
        "same" if not clear else "worse" if sum(apart) > 0 else "better"
    )
    # 11 steps were computed, of tokens that the run has counted too.
    assert found["steps"] == 11
    assert found["tokens"] == run.rows[18]["tokens"] - run.rows[7]["tokens"]
    [event] = [e for e in run.events if e["kind"] == "counterfactual"]
    assert event["data"]["tokens"] == found["tokens"]
    assert f"{found['tokens']:,} tokens were computed" in event["message"]
    assert {p.name for p in run.folder.iterdir()} == before | {"without"}
    assert main(["explain", str(run.folder)]) == 0
    told = capsys.readouterr().out
    assert f"  without it  {event['message']}" in told
    with alarm("divergence", 10):
        assert replay(RunDirectory(run.folder)).differences == []
    assert Run(run.result, "").rows[-1]["step"] == 24


@pytest.mark.thorough
def test_what_was_changed_before_stays_changed(runs: Runs) -> None:
    """The second decision is left out; the first, after the checkpoint, is made."""
    with alarm("divergence", 5, 24):
        run = runs.train(**HALVED | {"save_every_n_batches": 3, "steps": 32})
    first, second = [d for d in decisions(run) if d["action"] == "lower_rate"][:2]
    assert (first["new"], second["new"]) == (1.5e-3, 7.5e-4)
    found = measured(run, second["number"], steps=4)
    rates = {r["step"]: r["learning_rate"] for r in lines(run.folder / found.rows)}
    assert set(rates.values()) == {1.5e-3} and found.repeated == 0
    # The newest checkpoint that is left is from before the first decision.
    for name in run.checkpoints:
        if int(name.split("-")[1]) not in (3,):
            path = run.folder / "checkpoints" / name
            path.rename(run.folder / f"away-{name}")
    again = measured(run, second["number"], steps=4)
    assert again.checkpoint == 3 and again.repeated == 0
    rates = {r["step"]: r["learning_rate"] for r in lines(run.folder / again.rows)}
    assert [rates[step] for step in (6, 7, 8, 28)] == [3e-3, 1.5e-3, 1.5e-3, 1.5e-3]
    assert again.without_it == found.without_it
    with_it = [e for e in run.events if e["kind"] == "counterfactual"]
    assert len(with_it) == 2


@pytest.mark.thorough
def test_a_rollback_is_compared_with_the_steps_that_it_takes_again(runs: Runs) -> None:
    """Only checkpoints before the one that it wrote anew are those of the run."""
    only = ("lower_rate", "reset_moments", "stop_with_diagnosis")
    with alarm("divergence", 12):
        run = runs.train(
            **BASE
            | {"adaptive": "on", "adaptive_without": only, "adaptive_rollbacks": 1}
        )
    decision = decisions(run)[0]
    assert decision["action"] == "rollback_lower_rate"
    [back] = [e for e in run.events if e["kind"] == "rolled_back"]
    found = measured(run, steps=6)
    assert found.checkpoint < back["step"]
    rows = {row["step"]: row["loss"] for row in run.rows}
    steps = range(found.first, found.last + 1)
    assert found.with_it == pytest.approx(statistics.fmean(rows[s] for s in steps))
    assert found.repeated == 0 and math.isfinite(found.without_it)


def test_what_cannot_be_measured_is_refused(runs: Runs) -> None:
    with alarm("divergence", 10):
        run = runs.train(**HALVED)
        shadow = runs.train(**HALVED | {"adaptive": "shadow"})

    def refused(code: str, words: str, one: Run = run, **options: Any) -> None:
        before = len(one.events)
        with pytest.raises(LuminaError, match=words) as caught:
            measured(one, **options)
        assert caught.value.code == code and len(one.events) == before

    refused("E004", "no decision 9", number=9)
    refused("E002", "changed nothing", shadow)
    nothing = next((d for d in decisions(run) if d["action"] == "nothing"), None)
    if nothing is not None:
        refused("E002", "changed nothing", number=nothing["number"])
    for name in run.checkpoints:
        if int(name.split("-")[1]) <= 11:
            path = run.folder / "checkpoints" / name
            path.rename(run.folder / f"away-{name}")
    refused("E304", "no checkpoint left from before decision 1")
    assert main(["replay", str(run.folder), "--steps", "3"]) != 0
    assert main(["replay", str(run.folder), "--without", "1", "--steps", "0"]) != 0
