"""Optimisations on trial in a run: blamed, switched off, gone back behind, resumed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from levers_on_trial import TIME_ASIDE, harming, large_loss, lever, not_finite
from lumina.plan.plan import Plan
from lumina.train.controls.change import Change
from lumina.train.rules.safe_optimizations import SafeOptimizationsRule
from programs import tiny_plan
from tiny_runs import Run, Runs
from uneven_times import stalled

SAFE = {
    "proves": False,
    "watches": True,
    "window": 100,
    "strikes": 3,
    "spike": 2.0,
    "drop": 0.5,
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def levers() -> Iterator[None]:
    with lever("lever", "other"):
        yield


def plan_with(*names: str, **changes: Any) -> Plan:
    return tiny_plan(features=names, safe=SAFE | changes.pop("safe", {}), **changes)


def row(step: int, loss: float = 5.0, skipped: int = 0, seconds: float = 1.0) -> Any:
    return {
        "step": step,
        "loss": loss,
        "skipped": skipped,
        "agreed_step_seconds": seconds,
    }


def after(rule: SafeOptimizationsRule, *rows: Any) -> Any:
    """What it proposes after the last of the rows."""
    found = None
    for one in rows:
        rule.see(one)
        found = rule.propose(one["step"], lambda name: True)
    return found


def usual(first: int, last: int) -> list[Any]:
    return [row(step) for step in range(first, last + 1)]


@pytest.mark.covers("KRN-02", "KRN-03")
def test_three_troubles_within_the_window_switch_it_off() -> None:
    def trouble(step: int) -> Any:
        return row(step, loss=10.1)

    rule = SafeOptimizationsRule(plan_with("lever"))
    rows = [*usual(1, 20), trouble(21), row(22), trouble(23), row(24)]
    assert after(rule, *rows) is None
    found = after(rule, trouble(25))
    assert (found.control, found.value) == ("lever", False)
    assert "3 time(s) within 5 steps" in found.reason
    told = rule.notes()
    assert [note.evidence["count"] for note in told] == [1, 2, 3]
    assert all(note.evidence["optimization"] == "lever" for note in told)
    # Just within the limits is no trouble.
    rule = SafeOptimizationsRule(plan_with("lever"))
    near = [row(step, loss=9.0) for step in (21, 22, 23)]
    assert after(rule, *usual(1, 20), *near) is None and not rule.notes()


@pytest.mark.covers("KRN-02", "KRN-03")
def test_steps_that_stay_slow_switch_it_off_and_stalls_do_not() -> None:
    """Three times nine steps; five steps of a start and two groups tell the usual."""

    def slow(seconds: float) -> Any:
        rule = SafeOptimizationsRule(plan_with("lever"))
        rows = [row(step, seconds=seconds) for step in range(24, 51)]
        assert after(rule, *usual(1, 23), *rows[:-1]) is None
        return rule, after(rule, rows[-1])

    rule, found = slow(2.1)
    assert (found.control, found.value) == ("lever", False)
    assert "0.476 steps a second of 9 steps are below 0.5 times" in found.reason
    assert [note.step for note in rule.notes()] == [32, 41, 50]
    assert slow(1.9)[1] is None
    for seed in range(20):
        draw = random.Random(seed)
        rule = SafeOptimizationsRule(plan_with("lever", safe={"window": 1000}))
        stalls = [
            row(step, seconds=stalled(draw, 1.0, often=0.1)) for step in range(1, 500)
        ]
        assert after(rule, *stalls) is None and not rule.off
    # A small window has smaller groups, of which three fit into it.
    rule = SafeOptimizationsRule(plan_with("lever", safe={"window": 30}))
    rows = [row(step, seconds=2.1) for step in range(22, 46)]
    assert after(rule, *usual(1, 21), *rows).control == "lever"


@pytest.mark.covers("KRN-02", "KRN-03")
def test_one_gradient_that_is_not_finite_is_enough_but_for_float16() -> None:
    rule = SafeOptimizationsRule(plan_with("lever"))
    assert after(rule, *usual(1, 5), row(6, skipped=1)).control == "lever"
    rule = SafeOptimizationsRule(plan_with("lever"))
    assert after(rule, *usual(1, 5), row(6, loss=float("nan"))).value is False
    # There a loss scale that grows overflows now and then.
    half = SafeOptimizationsRule(plan_with("lever", compute_dtype="float16"))
    assert after(half, *usual(1, 5), row(6, skipped=1), row(7, skipped=2)) is None


@pytest.mark.covers("KRN-03")
def test_a_clean_window_makes_it_stable_and_trouble_begins_it_anew() -> None:
    rule = SafeOptimizationsRule(plan_with("lever"))
    after(rule, *usual(1, 60), row(61, loss=20.0), *usual(62, 160))
    assert rule.status()["optimizations"] == {"lever": "TRIAL"}
    after(rule, row(161))
    assert rule.status()["optimizations"] == {"lever": "STABLE"}
    bad = [row(step, loss=30.0) for step in (162, 163, 164)]
    assert after(rule, *bad) is None
    # Three in more than a window are not three within one.
    rule = SafeOptimizationsRule(plan_with("lever", safe={"window": 10}))
    for first in (10, 18, 26):
        assert after(rule, *usual(first - 7, first), row(first + 1, loss=20.0)) is None


def test_graphs_that_are_compiled_again_and_again_switch_compiling_off() -> None:
    """Not those of the start, and never another lever."""
    plan = plan_with("lever", compile=True)
    rule = SafeOptimizationsRule.made_for(plan)
    start = [row(step) | {"agreed_compiled_graphs": 4.0} for step in range(1, 6)]
    again = [row(step) | {"agreed_compiled_graphs": 1.0} for step in (7, 8)]
    quiet = [row(step) | {"agreed_compiled_graphs": 0.0} for step in range(9, 20)]
    assert after(rule, *start, *again, *quiet) is None
    last = row(20) | {"agreed_compiled_graphs": 2.0}
    proposal = after(rule, last)
    assert proposal is not None
    assert (proposal.control, proposal.value) == ("compile", False)
    assert "2 graphs were compiled again" in proposal.reason


def test_a_run_counts_the_graphs_that_are_compiled(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the compiler up to its kernels, whose number of graphs is the same."""
    import torch

    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compiler(f, backend="aot_eager")
    )
    options: dict[str, Any] = {"steps": 5, "eval_fraction": 0.0}
    assert not any(runs.train(**options).column("agreed_compiled_graphs"))
    graphs = runs.train(compile=True, **options).column("agreed_compiled_graphs")
    assert sum(graphs) >= 1 and graphs[-1] == 0


def test_only_what_changed_last_is_blamed() -> None:
    rule = SafeOptimizationsRule(plan_with("lever"))
    after(rule, *usual(1, 30))
    rule.changed(Change(1, "other", True, "", "user", step=30, outcome="applied"), None)
    bad = [row(step, loss=20.0) for step in (40, 41, 42)]
    assert after(rule, *usual(31, 39), *bad).control == "other"
    off = Change(2, "other", False, "", "orchestrator", step=43, outcome="applied")
    rule.changed(off, rule.name)
    assert rule.status()["optimizations"] == {"lever": "TRIAL", "other": "DISABLED"}
    # A run that has nothing on trial is left to others.
    alone = SafeOptimizationsRule(plan_with("lever", safe={"window": 5}))
    assert after(alone, *usual(1, 6), row(7, skipped=1)) is None


def test_it_is_off_without_levers_and_where_a_run_has_to_repeat() -> None:
    wanted = SafeOptimizationsRule.wanted
    assert wanted(plan_with("lever")) == "lever can be switched off"
    assert wanted(plan_with()) is None
    assert wanted(plan_with("lever", safe={"watches": False})) is None
    assert wanted(tiny_plan(features=("lever",))) is None


def test_a_resume_in_the_middle_of_a_trial_decides_the_same() -> None:
    rows = [*usual(1, 20), row(21, loss=20.0), row(22), row(23, loss=20.0), row(24)]
    rows += [row(25, loss=20.0)]
    whole = SafeOptimizationsRule(plan_with("lever"))
    expected = after(whole, *rows)
    for cut in range(1, len(rows)):
        first = SafeOptimizationsRule(plan_with("lever"))
        after(first, *rows[:cut])
        rest = SafeOptimizationsRule(plan_with("lever"))
        rest.load(json.loads(json.dumps(first.state())))
        assert after(rest, *rows[cut:]) == expected
        assert rest.state() == whole.state()


def _controls(run: Run) -> list[tuple[int, str, Any, str]]:
    return [
        (event["step"], x["name"], x["value"], x["outcome"])
        for event in run.events
        if event["kind"] == "control"
        for x in (event["data"],)
    ]


def test_a_run_goes_back_to_a_good_state_and_on_without_the_lever(runs: Runs) -> None:
    run = runs.train(
        harming(large_loss, (7, 8, 9)),
        features=("lever",),
        steps=16,
        **TIME_ASIDE,
        snapshot_every=4,
        snapshots_kept=3,
    )
    plain = runs.train(steps=16)
    found = _controls(run)
    assert found[0] == (10, "lever", False, "applied")
    name, value, outcome = found[1][1:]
    assert (name, outcome) == ("rollback", "applied") and not value["skip_data"]
    assert any(e["kind"] == "rolled_back" for e in run.events)
    # The harmed rows were trained on again, and learned what a plain run learns.
    assert run.rows[-1]["step"] == 16
    assert run.column("loss")[-1] == pytest.approx(plain.column("loss")[-1], rel=1e-4)
    # After going back it is switched off once more, for the journal of that step.
    assert found[-1][1:] == ("lever", False, "applied")


def test_what_cannot_be_gone_back_to_is_said_and_the_run_goes_on(runs: Runs) -> None:
    run = runs.train(
        harming(not_finite, (5,)), features=("lever",), steps=12, **TIME_ASIDE
    )
    found = _controls(run)
    assert found[0] == (6, "lever", False, "applied")
    assert found[1][1] == "rollback" and found[1][3].startswith("refused: E304")
    assert run.rows[-1]["step"] == 12 and run.rows[-1]["skipped"] == 1


def test_a_pinned_lever_stays_on_and_that_is_said(runs: Runs) -> None:
    run = runs.train(
        harming(not_finite, (5,)),
        features=("lever",),
        steps=9,
        pin=("lever",),
        **TIME_ASIDE,
    )
    (found,) = _controls(run)
    assert found[1] == "lever" and found[3] == "refused: E002 lever is pinned"


def test_a_deterministic_run_switches_nothing(runs: Runs) -> None:
    run = runs.train(
        harming(not_finite, (5,)),
        features=("lever",),
        steps=9,
        deterministic=True,
        **TIME_ASIDE,
    )
    assert _controls(run) == []
    plan = json.loads((run.folder / "plan.json").read_text())
    assert "--deterministic forbids" in plan["reasons"]["safe"]


def test_a_run_stopped_in_a_trial_goes_on_as_one_that_was_not(runs: Runs) -> None:
    leaves: dict[str, Any] = {"features": ("lever",), "snapshot_every": 4, **TIME_ASIDE}
    harm = harming(large_loss, (7, 8, 9))
    whole = runs.train(harm, steps=16, **leaves)
    for cut in (8, 10, 11):  # in the trial, as it is switched off, and after that
        part = runs.train(harm, steps=cut, **leaves)
        again = runs.train(
            harm, resume=str(part.folder), run_dir=None, steps=16, **leaves
        )
        off = [one for one in _controls(again) if one[1] == "lever"]
        assert off[0] == (10, "lever", False, "applied"), cut
        assert again.rows[-1]["step"] == 16
        assert again.column("loss")[-1] == pytest.approx(
            whole.column("loss")[-1], rel=0.2
        )
