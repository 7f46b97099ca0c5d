"""Options that stand for others: sets of adapter parameters, uses of few bits."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.config.bundles import PEFT_PRESETS, SCENARIOS
from lumina.errors import LuminaError

BASE = {"init_from": "base", "train_data": ("x",)}


@pytest.mark.covers(
    "MOD-39: budget/efficient/balanced/high-quality/adaptive parameter sets"
)
def test_a_set_of_adapter_parameters_fills_what_is_not_named() -> None:
    ranks = {"budget": 4, "efficient": 8, "balanced": 16, "high_quality": 64}
    for name, values in PEFT_PRESETS.items():
        config = Config(use_peft=True, peft_preset=name, **BASE)
        for leaf, value in values.items():
            assert config.get(leaf) == value
            assert f"of peft_preset {name}" in str(config.provenance[leaf])
        assert config.adapters.lora_r == ranks.get(name, 16)
    named = Config(use_peft=True, peft_preset="budget", lora_r=12, **BASE)
    assert named.adapters.lora_r == 12 and named.adapters.lora_alpha == 8
    assert named.adapters.lora_target_modules == ("minimal",)
    other = named.replace(peft_preset="high_quality")
    assert other.adapters.lora_r == 12 and other.adapters.lora_alpha == 128
    assert other.adapters.peft_method == "dora"


def test_a_saved_configuration_holds_what_was_meant(tmp_path) -> None:
    config = Config(use_peft=True, peft_preset="adaptive", lora_alpha=7.0, **BASE)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = Config.load(tmp_path / "config.yaml")
    assert again.adapters == config.adapters
    assert again.adapters.peft_method == "adalora" and again.adapters.lora_alpha == 7


@pytest.mark.covers(
    "PRC-17", "PRC-12: training LR 5e-6", "PRC-11: training at lower LR"
)
def test_scenarios_fill_method_precision_and_rate() -> None:
    rates = []
    for name in ("max_performance", "balanced", "memory_constrained"):
        config = Config(quantization_scenario=name, **BASE)
        for leaf, value in SCENARIOS[name].values.items():
            assert config.get(leaf) == value and config.is_chosen(leaf)
        rates.append(config.train.learning_rate)
    assert rates == sorted(rates, reverse=True) and rates[-1] == 5e-6
    assert len(set(rates)) == 3
    small = Config(quantization_scenario="memory_constrained", **BASE)
    assert small.quantization.load_in_4bit and small.adapters.use_peft
    assert not Config(
        quantization_scenario="max_performance", **BASE
    ).quantization.load_in_8bit
    faster = Config(
        quantization_scenario="memory_constrained", learning_rate=2e-4, **BASE
    )
    assert faster.train.learning_rate == 2e-4 and faster.adapters.use_peft


@pytest.mark.parametrize("name", ["inference_quality", "inference_memory"])
def test_a_scenario_of_a_trained_model_says_where_it_is(name: str) -> None:
    with pytest.raises(LuminaError) as caught:
        Config(quantization_scenario=name, **BASE)
    assert caught.value.code == "E003" and "lumina export" in str(caught.value)


@pytest.mark.covers("PRC-17")
def test_the_command_lists_the_five(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "scenarios"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SCENARIOS) and len(SCENARIOS) == 5
    assert "5e-06" in said and "gptq" in said
    assert main(["presets", "scenarios", "memory-constrained", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["options"]["load_in_4bit"] is True
    assert "--quantization-scenario memory_constrained" in found["command"]
    assert main(["presets", "scenarios", "inference-memry"]) == 2
    assert "inference_memory" in capsys.readouterr().err
