"""Trainers in the benchmark of adaptive training: real runs, real faults."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from lumina.config import Config
from lumina.measure.adaptive.adapter import Task
from lumina.measure.adaptive.arms import ARMS, INTERVENTIONS, faults_of, recipe
from lumina.measure.adaptive.pool import in_child
from lumina.measure.adaptive.population import population
from lumina.measure.adaptive.running import attempted
from lumina.measure.adaptive.scenario import SHAPES, Recipe
from lumina.measure.adaptive.texts import synthetic, write_texts
from lumina.train.adaptive_bench.adapters import adapter_named
from lumina.train.orchestrator.actions import ACTIONS

TEXT = synthetic(600_000)
SHORT = Recipe(
    shape=SHAPES["narrow"], seed=7, learning_rate=0.004, steps=24, warmup=0.1,
    clip=1.0, checkpoints=6, restarts=2, evaluations=8,
)  # fmt: skip
EXPERTS = replace(SHORT, shape=SHAPES["four-experts"])


def made(trainer, tmp_path, recipe=SHORT, *faults, text_of="clean"):
    """The row of a short run, each with its own cache."""
    adapter = adapter_named(trainer)
    if why := adapter.refuses(recipe, faults):
        pytest.skip(why)
    task = Task(tmp_path / "run", recipe, faults)
    one = next(s for s in population("development") if s.family == text_of)
    # Spoilt text of a short run stands where the run comes to it.
    spoilt = tuple({**fault, "at": 12 / 160} for fault in one.faults)
    write_texts(task.folder, TEXT, replace(one, faults=spoilt))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
        return attempted(adapter, task, 300.0)


def signals(row):
    return [attempt["signal"] for attempt in row["attempts"]]


@pytest.mark.thorough
@pytest.mark.parametrize("trainer", ["lumina", "transformers"])
def test_a_clean_run_learns_and_comes_again_bit_for_bit(trainer, tmp_path):
    row = made(trainer, tmp_path / "1")
    assert (row["status"], row["steps"], row["faults"]) == ("done", 24, [])
    assert [step for _, step, _ in row["curve"]] == [8, 16, 24]
    assert row["loss"] < row["curve"][0][2] < 5.6
    assert made(trainer, tmp_path / "2")["curve"] == row["curve"]


@pytest.mark.thorough
@pytest.mark.parametrize("trainer", ["lumina", "transformers"])
def test_a_killed_run_is_resumed_and_ends_as_if_it_had_not_been(trainer, tmp_path):
    whole = made(trainer, tmp_path / "1")
    killed = made(
        trainer, tmp_path / "2", SHORT, {"kind": "sigkill", "step": 15, "times": 1}
    )
    assert signals(killed) == [signal.SIGKILL, 0]
    assert killed["status"] == "done"
    assert killed["steps"] >= 24 + 3
    if trainer == "lumina":
        assert killed["loss"] == whole["loss"]


@pytest.mark.thorough
def test_a_stopped_run_is_a_hang(tmp_path):
    row = made("lumina", tmp_path, SHORT, {"kind": "sigstop", "step": 9})
    assert (row["status"], row["why"], row["seconds"]) == ("failed", "hung", 300.0)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["sigkill", "sigstop"])
def test_the_supervisor_restarts_runs_of_the_orchestrator(kind, tmp_path):
    recipe = replace(SHORT, adaptive="on")
    row = made("lumina", tmp_path, recipe, {"kind": kind, "step": 15, "times": 1})
    assert (row["status"], row["notes"]["restarts"]) == ("done", 1)
    assert len(row["attempts"]) == 1
    assert row["steps"] >= 24 + 3


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["byte", "cut"])
def test_lumina_goes_back_past_a_damaged_checkpoint(how, tmp_path):
    fault = {"kind": "damaged_checkpoint", "step": 15, "how": how}
    row = made("lumina", tmp_path, SHORT, fault)
    assert (row["status"], signals(row)) == ("done", [signal.SIGKILL, 0])
    assert row["steps"] >= 24 + 9  # it was damaged at step 12, and 6 is the one before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "gradient_factor", "factor": 1000.0, "steps": 2},
        {"kind": "expert_bias", "factor": 300.0},
        {"kind": "flipped_bit"},
        {"kind": "lost_moments"},
    ],
    ids=lambda fault: fault["kind"],
)
@pytest.mark.parametrize("trainer", ["lumina", "transformers"])
def test_faults_of_numbers_change_a_run_from_their_step_on(trainer, fault, tmp_path):
    recipe = replace(EXPERTS, clip=0.0)
    whole = made(trainer, tmp_path / "1", recipe)
    hurt = made(trainer, tmp_path / "2", recipe, {"step": 17, **fault})
    assert [one["step"] for one in hurt["faults"]][:1] == [17]
    assert hurt["curve"][:2] == whole["curve"][:2]
    assert hurt["loss"] != whole["loss"]


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["nan_batch", "repeated_words"])
def test_spoilt_text_is_met_at_its_step(family, tmp_path):
    one = next(s for s in population("development") if s.family == family)
    faults = [{**fault, "step": 12} for fault in one.faults]
    row = made("lumina", tmp_path, SHORT, *faults, text_of=family)
    assert row["status"] == "done"
    assert abs(row["faults"][0]["step"] - 12) <= 1
    skipped = [d for d in row["decisions"] if d["kind"] == "nonfinite"]
    assert bool(skipped) == (family == "nan_batch")


@pytest.mark.thorough
def test_the_orchestrator_runs_in_the_benchmark(tmp_path):
    row = made("lumina", tmp_path, replace(SHORT, adaptive="on", learning_rate=0.5))
    assert row["status"] in ("done", "failed")
    assert row["steps"] >= 1


def test_every_arm_can_be_configured_for_every_family(tmp_path):
    """Options that other parts of Lumina rename would be noticed here."""
    adapter = adapter_named("lumina")
    found = {"rates": dict.fromkeys(SHAPES, 0.004), "warmup": 0.1}
    everything = [*population("development"), *population("held-out")]
    levels = {(one.family, one.level): one for one in everything}
    for one in levels.values():
        for arm in ARMS.values():
            made_of = recipe(one, arm, found=found)
            faults = faults_of(one, arm, made_of.steps)
            assert adapter.refuses(made_of, faults) == ""
            options = adapter._options(Task(tmp_path, made_of, faults))
            assert Config(**options).train.steps == made_of.steps
    assert set(INTERVENTIONS) <= set(ACTIONS)


def test_only_faults_of_the_process_need_the_supervisor(tmp_path):
    adapter = adapter_named("lumina")
    kill, spoil = {"kind": "sigkill", "step": 1}, {"kind": "flipped_bit", "step": 1}
    adaptive = replace(SHORT, adaptive="on")
    asked = [(SHORT, kill), (adaptive, spoil), (adaptive, kill)]
    assert [
        adapter.supervised(Task(tmp_path, asks, (fault,))) for asks, fault in asked
    ] == [False, False, True]


def test_what_transformers_lacks_is_refused():
    adapter = adapter_named("transformers")
    asked = replace(SHORT, adaptive="on")
    assert adapter.refuses(asked, ()) != ""
    assert adapter.refuses(replace(SHORT, skip_step=True), ()) != ""


def test_a_process_that_dies_says_why():
    def fail():
        raise ValueError("on purpose")

    ended = in_child(fail, 60.0)
    assert (ended["code"], ended["hung"]) == (1, False)
    assert "on purpose" in ended["error"]
    ended = in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), 60.0)
    assert (ended["code"], ended["signal"]) == (None, signal.SIGKILL)
