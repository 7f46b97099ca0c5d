"""A run that starts from other weights is a fine-tuning, and goes on as it began."""

from __future__ import annotations

import json

import pytest

from lumina.plan.fine_tuning import rate_for
from training import DENSE, start, words

HOW = ("learning_rate", "min_lr", "lr_scheduler", "global_batch_size")


def plan_of(run):
    return json.loads((run / "plan.json").read_text())


@pytest.fixture(scope="module")
def base(trainings):
    return trainings.train("base", *DENSE, *words("--steps 3"))


def tune(trainings, run, *flags):
    """A run for whose training nothing is chosen but what `flags` say."""
    command = words("train --device cpu", train_data=trainings.data, run_dir=run)
    running = start([*command, *flags], trainings.folder / f"{run.name}.log")
    assert running.wait() == 0, running.output
    return plan_of(run)


def test_a_fine_tuning_is_planned_as_one_and_resumed_as_planned(trainings, base):
    run = trainings.folder / "tuned"
    plan = tune(trainings, run, *words("--steps 4 --eval-batches 2", init_from=base))
    assert plan["learning_rate"] == rate_for(plan["parameters"]) < 3e-3
    assert "fine-tuning" in plan["reasons"]["learning_rate"]
    after = tune(trainings, run, *words("--steps 6", resume=run))
    assert after["steps"] == 6
    assert {name: after[name] for name in HOW} == {name: plan[name] for name in HOW}
    for name in HOW:
        assert after["reasons"][name] == plan["reasons"][name], name


def test_a_run_begun_with_a_presets_values_keeps_them(trainings, base):
    # As it was recorded before fine-tunings had settings of their own.
    run = trainings.folder / "older"
    recorded = "--steps 4 --learning-rate 3e-3 --global-batch-size 16 --eval-batches 2"
    tune(trainings, run, *words(recorded, init_from=base))
    file = run / "config.yaml"
    lines = file.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("asked:", "decided:"))]
    assert len(kept) < len(lines)
    file.write_text("\n".join(kept) + "\n")
    plan = tune(trainings, run, *words("--steps 6", resume=run))
    assert plan["learning_rate"] == 3e-3 and plan["global_batch_size"] == 16
