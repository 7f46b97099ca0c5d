"""Ready configurations: each is read, planned for its hardware, and fits there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.config import Config, Source
from lumina.config.phase_entries import phases_of
from lumina.config.recipe_files import recipes
from lumina.plan.hardware_profiles import find_profile
from lumina.plan.plan import Plan
from lumina.train.phases import phase_config, with_mode
from machines import cpu, plan_for

NAMES = {
    "general_7b",
    "production_14b",
    "memory_constrained",
    "high_throughput",
    "medical_domain",
    "code_generation",
    "continual_three_stages",
    "rtx_5090_training",
    "rtx_5090_graphs",
    "h100_training",
    "rtx_4090_training",
}


def planned(name: str) -> tuple[Config, list[Plan]]:
    """A recipe and the plans of its phases, on the hardware that it names."""
    recipe = recipes()[name]
    config = Config.load(recipe.path).override({"init_from": None}, Source("default"))
    profile = find_profile(recipe.hardware)[1]
    machine = profile.machine(replace(cpu(), host_memory_bytes=2**40), recipe.devices)
    parts = range(len(phases_of(config)))
    settings = [phase_config(config, part) for part in parts] or [with_mode(config)]
    known = {"rows_per_epoch": 500_000, "world_size": recipe.devices}
    return config, [plan_for(one, machine, **known) for one in settings]


@pytest.mark.covers("PRE-20", "KRN-20")
def test_every_recipe_fits_its_hardware_and_does_what_it_says() -> None:
    assert recipes().keys() == NAMES
    found = {name: planned(name) for name in NAMES}
    for name, (config, plans) in found.items():
        for plan in plans:
            assert plan.device == "cuda" and plan.compute_dtype == "bfloat16", name
            assert plan.memory["bound"] > 0 and config.run.auto_resume
            tight = [text for text in plan.warnings if "tenth" in text]
            assert not tight, (name, tight)
    general, production = (found[n][1][0] for n in ("general_7b", "production_14b"))
    assert production.parameters > general.parameters
    assert production.eval_every == 500 and production.early_stopping_patience == 10
    small = found["memory_constrained"][1][0]
    assert (small.micro_batch_size, small.gradient_checkpointing) == (1, "full")
    assert small.optimizer == "adamw_8bit"
    fast = found["high_throughput"][1][0]
    assert fast.compile and fast.gradient_checkpointing == "none"
    assert fast.parallel == "ddp" and fast.world_size == 8
    medical = found["medical_domain"][0]
    assert medical.stages.preserve_base_knowledge and medical.train.init_from is None
    assert found["code_generation"][1][0].spec.seq_length == 4096
    plans = {name: found[name][1][0] for name in NAMES}
    blackwell, graphs = plans["rtx_5090_training"], plans["rtx_5090_graphs"]
    assert blackwell.blackwell_tuning and graphs.blackwell_tuning and graphs.cuda_graphs
    assert not blackwell.cuda_graphs and blackwell.optimizer == "adamw_8bit"
    hopper, ada = plans["h100_training"], plans["rtx_4090_training"]
    assert hopper.spec.seq_length == 8192 and hopper.optimizer == "adamw"
    assert not hopper.blackwell_tuning and not ada.blackwell_tuning
    assert ada.memory["bound"] < 24e9 and ada.gradient_checkpointing == "full"
    stages = found["continual_three_stages"][1]
    rates = [plan.learning_rate for plan in stages]
    assert len(stages) == 3 and rates == sorted(rates, reverse=True)
    assert [plan.preservation for plan in stages] == [0, 0.5, 0.5]


def test_recipes_are_listed_and_printed_to_be_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["presets", "recipes"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NAMES) and "8 x h200" in text
    assert main(["presets", "recipes", "code-generation"]) == 0
    path = tmp_path / "run.yaml"
    path.write_text(capsys.readouterr().out)
    assert Config.load(path).model.seq_length == 4096
    assert main(["presets", "recipes", "code-generatoin"]) == 2
    assert "E001" in (error := capsys.readouterr().err) and "code_generation" in error
    assert main(["presets", "debug", "more"]) == 2
