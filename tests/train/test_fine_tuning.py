"""A run that starts from other weights is a fine-tuning, and goes on as it began."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lumina.config import Config
from lumina.plan.fine_tuning import rate_for
from lumina.train.starting_weights import StartingWeights
from machines import plan_for
from training import DENSE, start, words

HOW = ("learning_rate", "min_lr", "lr_scheduler", "global_batch_size")


def plan_of(run):
    return json.loads((run / "plan.json").read_text())


@pytest.fixture(scope="module")
def base(trainings):
    return trainings.train("base", *DENSE, *words("--steps 3"))


def tune(trainings, run, *flags, data=None):
    """A run for whose training nothing is chosen but what `flags` say."""
    command = words(
        "train --device cpu", train_data=data or trainings.data, run_dir=run
    )
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


def test_rows_are_as_long_as_the_data_needs_and_the_context_stays(trainings, tmp_path):
    from lumina.infer.generate import context_limit
    from lumina.infer.load import load
    from lumina.state.huggingface.configuration import config_of
    from lumina.state.huggingface.formats import FORMATS
    from lumina.state.weights import open_weights

    base = trainings.train("long", *DENSE, *words("--seq-length 1024 --steps 3"))
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    data = tmp_path / "chat.jsonl"
    lines = [json.dumps({"messages": turns, "id": i}) for i in range(40)]
    data.write_text("\n".join(lines) + "\n")
    run = trainings.folder / "short"
    flags = words("--steps 2", init_from=base)
    plan = tune(trainings, run, *flags, data=data)
    assert plan["spec"]["seq_length"] == 256
    assert plan["spec"]["context"] == 1024
    assert "99% of the documents" in plan["reasons"]["seq_length"]
    assert open_weights(run).spec.context_length == 1024
    again = tune(trainings, run, *words("--steps 3", resume=run), data=data)
    assert again["spec"] == plan["spec"]
    assert context_limit(load(run)[0]) == 1024
    exported = config_of(open_weights(run).spec, FORMATS["llama"], "float32", 1, 2)
    assert exported["max_position_embeddings"] == 1024
    asked = words("--seq-length 128 --steps 1", init_from=run)
    plan = tune(trainings, trainings.folder / "asked", *asked, data=data)
    assert plan["spec"]["seq_length"] == 128 and plan["spec"]["context"] == 1024


def test_rows_beyond_what_a_model_was_made_for_are_told():
    plan = plan_for(Config(preset="debug", use_moe=False, seq_length=64, steps=2))
    for context, scaling, told in (
        (32, "none", True),
        (32, "linear", False),
        (64, "none", False),
        (128, "none", False),
    ):
        weights = SimpleNamespace(
            spec=SimpleNamespace(
                context_length=context, rope_scaling="none", rope_factor=1.0
            )
        )
        spec = replace(plan.spec, rope_scaling=scaling)
        kept = StartingWeights.keep_context(
            SimpleNamespace(tuned=weights), plan.replace(spec=spec)
        )
        assert any("longer than the 32" in one for one in kept.warnings) == told
        assert kept.spec.context_length == max(context, 64)
