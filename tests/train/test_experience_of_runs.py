"""What a run takes over from earlier ones, and that a resume does not look again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.plan.experience import run_kind
from lumina.plan.plan import Plan
from lumina.state.experience.store import ExperienceStore
from mechanisms import mechanism
from option_effects.adaptive import alarm, decisions
from remembered import a_record, outcomes
from tiny_runs import Run, Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def plan_of(run: Run) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run.folder / "plan.json").read_text())
    return values


def told(run: Run) -> list[str]:
    return [e["message"] for e in run.events if e["kind"].startswith("experience")]


@pytest.mark.covers("ORC-18: persisted and applied to later runs")
def test_outcomes_of_earlier_runs_move_a_decision_and_a_resume_keeps_them(
    runs: Runs,
) -> None:
    file = runs.folder / "memory.sqlite"
    with alarm("divergence", 1, confidence=0.7):
        cold = runs.train(adaptive="on", experience=str(file))
    [before] = decisions(cold)
    assert (before["action"], before["confidence"]) == ("lower_rate", 0.7)
    assert told(cold) == ["cold: too few outcomes for runs of dense:10K:adamw"]
    assert plan_of(cold)["experience"] == {}

    kind = run_kind(Plan.from_dict(plan_of(cold)))
    phase = before["evidence"]["phase"]
    bad = outcomes(
        7, better=0, worse=10, anomaly="divergence", action="lower_rate",
        context=f"{kind}:{phase.lower()}",
    )  # fmt: skip
    ExperienceStore(file).add((a_record(7, kind=kind), bad))
    with alarm("divergence", 1, confidence=0.7):
        warm = runs.train(adaptive="on", experience=str(file))
    # (0.7 x 5 + 0) / (5 + 10) is below the 0.6 that a change needs.
    assert [d["action"] for d in decisions(warm)] != ["lower_rate"]
    assert "confidence 0.23 is below 0.6" in decisions(warm)[0]["reason"]
    assert "warm: 3 counts from the runs run-7" in told(warm)[0]
    seen = plan_of(warm)["experience"]
    assert warm.rows[-1]["meta_learning_runs"] == 1
    assert seen[f"divergence/{kind}:{phase.lower()}/lower_rate"] == [0, 10]

    ExperienceStore(file).forget_runs([a_record(7).id])
    with alarm("divergence", 4, confidence=0.7):
        again = runs.train(
            adaptive="on", experience=str(file), run_dir=None, steps=5,
            resume=str(warm.folder),
        )  # fmt: skip
    assert plan_of(again)["experience"] == seen
    assert plan_of(again)["reasons"]["experience"] == told(warm)[0]
    assert len(told(again)) == 1, "a resume does not look again"


@mechanism(
    "run beside damaged experience",
    component="experience",
    failure="a run begins with a store of experience that cannot be trusted",
    recovery="go on",
    expected="a warning at its start and one at its end; it trains all the same",
)
def test_a_store_that_cannot_be_trusted_costs_one_warning_each_way(runs: Runs) -> None:
    file = runs.folder / "memory.sqlite"
    file.write_text("not a store")
    run = runs.train(adaptive="on", experience=str(file))
    assert run.result.steps == 3
    before, after = [e for e in run.events if e["kind"] == "experience_ignored"]
    assert "begins without experience" in before["message"]
    assert "is not remembered" in after["message"]
    assert {before["severity"], after["severity"]} == {"warning"}
    assert plan_of(run)["reasons"]["experience"].startswith("cold: ")


def test_without_the_orchestrator_nothing_is_looked_up(runs: Runs) -> None:
    file = runs.folder / "memory.sqlite"
    run = runs.train(experience=str(file))
    assert told(run) == []
    assert plan_of(run)["experience"] == {}
    assert len(ExperienceStore(file).all().runs) == 1


def test_a_run_that_goes_on_is_remembered_once(runs: Runs) -> None:
    file = runs.folder / "memory.sqlite"
    first = runs.train(experience=str(file))
    runs.train(experience=str(file), run_dir=None, resume=str(first.folder), steps=5)
    [record] = ExperienceStore(file).all().runs
    assert (record.steps, record.planned_steps) == (5, 5)


@pytest.mark.covers("ORC-18: recovery patterns", "ORC-31")
def test_outcomes_of_a_run_are_remembered_and_decisions_are_shown(runs: Runs) -> None:
    file, log = runs.folder / "memory.sqlite", runs.folder / "run.log"
    with alarm("divergence", 12, confidence=0.95):
        run = runs.train(
            adaptive="on", experience=str(file), steps=24, log_file=str(log)
        )
    line = "half the learning rate: it is a test (confidence 0.95)"
    assert line in run.printed.replace("\n  ", " ")
    assert line in log.read_text()
    [made] = [d for d in decisions(run) if d["action"] == "lower_rate"]
    [event] = [
        e for e in run.events
        if e["kind"] == "decision_outcome" and e["data"]["number"] == made["number"]
    ]  # fmt: skip
    found = ExperienceStore(file).all().outcomes
    [kept] = [one for one in found if one.number == made["number"]]
    assert kept.verdict == event["data"]["verdict"]
    assert (kept.anomaly, kept.action, kept.mode) == ("divergence", "lower_rate", "on")
    assert kept.context == f"dense:10K:adamw:{made['evidence']['phase'].lower()}"
    assert kept.expected == event["data"]["expected"]
