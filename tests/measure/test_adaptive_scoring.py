"""Scores of the benchmark of adaptive training, on results that are made up."""

from __future__ import annotations

import math

import pytest

from lumina.measure.adaptive import page
from lumina.measure.adaptive.population import population
from lumina.measure.adaptive.scenario import BUDGET
from lumina.measure.adaptive.scoring import (
    KNOWS_NOTHING,
    MATTER,
    failed,
    groups,
    score,
    time_to,
    wasted,
)
from lumina.measure.adaptive.statistics import (
    interval,
    median_ratio,
    ratio_of_means,
    sign_test,
    upper_bound,
)

HALF = population("development")


def row(loss, **more):
    half = (5.0 + (loss or 5.0)) / 2
    curve = [[BUDGET // 2, 80, half], [BUDGET, 160, loss]]
    return {
        "status": "done", "loss": loss, "tokens": BUDGET, "budget": BUDGET,
        "seconds": 4.0, "curve": curve, "faults": [], "decisions": [],
        "attempts": [{}], "notes": {}, **more,
    }  # fmt: skip


def dead(tokens=BUDGET // 4):
    return row(None, status="failed", tokens=tokens, curve=[])


@pytest.mark.parametrize(
    ("failures", "runs", "bound"),
    [
        (0, 149, 0.01991),
        (3, 386, 0.01996),
        (0, 299, 0.00997),
        (5, 5, 1.0),
        (1, 10, 0.39416),
    ],
)
def test_the_bounds_are_those_of_clopper_and_pearson(failures, runs, bound):
    assert upper_bound(failures, runs) == pytest.approx(bound, abs=2e-5)


@pytest.mark.parametrize(
    ("wins", "losses", "chance"),
    [(15, 5, 0.04139), (5, 15, 0.04139), (0, 0, 1), (2, 2, 1)],
)
def test_the_sign_test_has_two_sides(wins, losses, chance):
    assert sign_test(wins, losses) == pytest.approx(chance, abs=1e-5)


def test_intervals_hold_the_value_and_come_again():
    pairs = [(1.0 + n / 50, 1.0) for n in range(50)]
    value, low, high = interval(pairs, median_ratio, 500)
    assert low < value < high
    assert interval(pairs, median_ratio, 500) == (value, low, high)
    assert interval([(2.0, 1.0), (4.0, 1.0)], ratio_of_means, 50)[0] == 3.0
    assert math.isnan(interval([], median_ratio)[0])


def test_a_run_that_keeps_less_than_half_has_failed():
    half_way = KNOWS_NOTHING - (KNOWS_NOTHING - 2.5) / 2
    assert not failed(row(half_way - 0.01), 2.5)
    assert failed(row(half_way + 0.01), 2.5)
    assert failed(dead(), 2.5)
    assert failed(row(KNOWS_NOTHING + 0.1), None)


def test_times_are_interpolated_and_censored():
    one = row(3.0)  # 4.0 at half of the budget
    assert time_to(one, 3.0) == 1.0
    assert time_to(one, 3.5) == 0.75
    assert time_to(one, 2.9) == 2.0
    assert time_to(one, 2.9, 1.0) == 1.0
    assert time_to(dead(), 3.0) == 2.0


def test_what_is_computed_in_vain_is_counted():
    assert wasted(row(3.0)) == (0.0, 0.0)
    again = row(3.0, tokens=2 * BUDGET)
    assert wasted(again) == (1.0, 2.0)
    assert wasted(dead()) == (0.25, 4.0)


def results(family, competent, mine):
    """Rows of the first ten scenarios of a family and of their twins, for two arms."""
    some = [one for one in HALF if one.family == family][:10]
    theirs = {one.twin: row(2.5) for one in some}
    theirs |= {one.id: competent(one) for one in some}
    return some, {one.id: mine(one) for one in some}, theirs


def test_an_arm_that_heals_is_sooner_lower_and_fails_less():
    some, mine, theirs = results(
        "rate_too_high", lambda one: dead(), lambda one: row(2.54)
    )
    found = score("orchestrator", "misconfigured", some, mine, theirs)
    assert (found.failures, found.runs, found.missing) == (0, 10, 0)
    assert found.loss_ratio[0] == pytest.approx(2.54 / KNOWS_NOTHING)
    assert (found.wins, found.losses) == (10, 0)
    assert found.reached == 1
    assert found.sooner[0] == pytest.approx(2 / time_to(row(2.54), 2.55))
    assert found.sooner_by["0%, 2"] == 1
    assert score("competent", "misconfigured", some, theirs, theirs).failures == 10


def test_one_arm_is_not_averaged_with_what_it_did_not_run():
    some, mine, theirs = results("hang", lambda one: row(2.5), lambda one: row(2.5))
    mine[some[0].id] = {"status": "refused", "why": "it cannot"}
    del mine[some[1].id]
    found = score("orchestrator", "fault", some, mine, theirs)
    assert (found.runs, found.missing) == (8, 2)
    assert score("orchestrator", "fault", some, {}, theirs) is None


def test_detection_counts_kind_and_time():
    def decided(step, kind, action="lower_rate"):
        return {"step": step, "kind": kind, "action": action, "mode": "on"}

    fault = [{"name": "gradient_factor", "step": 80, "tokens": 0}]
    said = [
        [decided(85, "loss_spike")],  # right, five steps late
        [decided(95, "exploding_gradients", "")],  # an alarm alone
        [decided(70, "loss_spike")],  # before the fault
        [decided(85, "repeated_data")],  # of another kind
        [decided(130, "loss_spike")],  # too late to count as found
        [],
    ]
    given = iter(said)
    some, mine, theirs = results(
        "gradient_factor",
        lambda one: row(2.5),
        lambda one: row(2.5, faults=fault, decisions=next(given, [])),
    )
    found = score("orchestrator", "fault", some, mine, theirs).detection
    assert (found.there, found.found, found.delay) == (10, 2, 10)
    assert (found.interventions, found.right) == (4, 2)


def test_a_restart_is_the_detection_of_a_death():
    fault = [{"name": "sigkill", "step": 80, "tokens": 0}]
    some, mine, theirs = results(
        "sigkill", lambda one: row(2.5), lambda one: row(2.5, faults=fault)
    )
    mine[some[0].id]["attempts"] = [{}, {}]
    found = score("orchestrator", "fault", some, mine, theirs).detection
    assert (found.there, found.found) == (10, 1)


def test_interventions_in_clean_runs_are_told_and_break_the_gate():
    clean = [one for one in HALF if one.family == "clean"][:20]
    theirs = {one.id: row(2.5) for one in clean}
    mine = {one.id: row(2.5 * 1.004, seconds=4.2) for one in clean}
    action = {"step": 9, "kind": "plateau", "action": "raise_rate", "mode": "on"}
    for one in clean[:2]:
        mine[one.id]["decisions"] = [action, action]
    mine[clean[2].id]["decisions"] = [action | {"mode": "shadow"}]
    scores = [
        score("orchestrator", "clean", clean, mine, theirs),
        score("orchestrator", "all", clean, mine, theirs),
    ]
    assert scores[0].detection.touched == 2
    met = {words: met for words, _, met in page.goals(scores, "orchestrator")}
    assert met == {
        "clean loss at most 0.3% higher": False,
        "clean time at most 3% longer": False,
        "interventions in at most 5% of clean runs": False,
        "recall at least 95%": False,
        "precision at least 90%": False,
    }
    lines = page.table(scores).splitlines()
    assert lines[2].startswith("| orchestrator | clean | 20 | 0 (0.0%) | 13.9% |")
    assert len({line.count("|") for line in lines}) == 1


def test_strata_and_families_stand_apart():
    found = groups(HALF, families=True)
    assert list(found)[:4] == ["clean", "misconfigured", "fault", "all"]
    assert {one.family for one in found["fault: hang"]} == {"hang"}
    assert len(found["all"]) == 400


def test_settings_that_matter_are_a_group_of_their_own():
    """Those that cost the competent arm 5% of its loss, or the run."""
    wrong = [one for one in HALF if one.stratum == "misconfigured"]
    competent = {one.id: row(2.5) for one in HALF}
    competent[wrong[0].id] = row(2.5 * 1.051)
    competent[wrong[1].id] = row(2.5 * 1.049)
    competent[wrong[2].id] = row(2.5) | {"status": "failed"}
    found = groups(HALF, families=False, competent=competent)
    assert [one.id for one in found[MATTER]] == [wrong[0].id, wrong[2].id]
    assert MATTER not in groups(HALF, families=False)


def test_the_plots_show_each_arm():
    _, mine, theirs = results("hang", lambda one: row(2.5), lambda one: row(2.5))
    found = page.plots(HALF, {"competent": theirs, "orchestrator": mine})
    assert list(found) == ["reached-clean.svg", "reached-fault.svg"]
    assert "orchestrator" in found["reached-fault.svg"]
