"""Names and values of transformers' Trainer and of axolotl: understood or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lumina.config import Config
from lumina.config.leaves import LEAVES
from lumina.config.spellings import MEANT, SYNONYMS
from lumina.errors import LuminaError
from machines import plan_for


def loaded(folder: Path, text: str) -> Config:
    path = folder / "run.yaml"
    path.write_text(text)
    return Config.load(path)


def test_names_of_other_trainers_are_options(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        output_dir: out
        max_steps: 100
        num_train_epochs: 3
        per_device_train_batch_size: 8
        gradient_accumulation_steps: 2
        sequence_len: 512
        eval_steps: 20
        save_steps: 50
        logging_steps: 5
        lr_scheduler_type: constant_with_warmup
        warmup_steps: 10
        adam_beta1: 0.8
        adam_beta2: 0.9
        adam_epsilon: 1e-7
        bf16: true
        fp16: false
        lora_rank: 8
        """,
    )
    expected = {
        "run_dir": "out", "steps": 100, "epochs": None, "batch_size": 8,
        "grad_accum": 2, "seq_length": 512, "eval_every_n_batches": 20,
        "save_every_n_batches": 50, "log_every_n_batches": 5,
        "lr_scheduler": "constant", "warmup_steps": 10, "beta1": 0.8, "beta2": 0.9,
        "eps": 1e-7, "precision": "mixed_bf16", "lora_r": 8,
    }  # fmt: skip
    assert {leaf: config.get(leaf) for leaf in expected} == expected


def test_values_that_mean_not_set_set_nothing(tmp_path: Path) -> None:
    text = "max_steps: -1\nbf16: false\nfp16: no\nmicro_batch_size: 4\n"
    config = loaded(tmp_path, text)
    assert config.train.steps is None and config.train.batch_size == 4
    assert config.provenance["steps"].kind == "default"
    assert config.provenance["precision"].kind == "default"
    assert Config(max_steps=-1, fp16=True).system.precision == "mixed_fp16"
    assert loaded(tmp_path, "bf16: auto\n").system.precision == "auto"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("steps: -1", "E005", "steps"),
        ("max_steps: -2", "E005", "steps"),
        ("eval_steps: 0.1", "E005", "eval_every_n_batches"),
        ("save_steps: 0.5", "E005", ">= 0, or auto; a share of the run cannot be"),
        ("warmup_steps: 0.1", "E005", "; as a share of the run it is warmup_ratio"),
        ("bf16: 7", "E005", "mixed_bf16"),
        ("bf16: true\nfp16: true", "E002", "precision"),
        ("max_steps: 5\nsteps: 6", "E002", "steps"),
        ("lr_scheduler_type: constant\nwarmup_ratio: 0.1", "E002", "with_warmup"),
        ("datasets:\n  - path: a.jsonl", "E004", "train_data"),
        ("datasets: {path: a.jsonl}", "E004", "train_data"),
        ("val_set_size: 0.1", "E004", "eval_fraction"),
        ("eval_strategy: steps", "E004", "eval_every_n_batches"),
        ("n_layer: 4", "E004", "num_layers"),
        ("adapter: qlora", "E004", "load_in_4bit"),
        ("finetuning_type: lora", "E004", "use_peft"),
        ("lerning_rate: 1", "E004", "did you mean 'learning_rate'?"),
    ],
)
def test_the_others_are_refused_with_what_is_meant(
    text: str, code: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(LuminaError) as refused:
        loaded(tmp_path, text + "\n")
    assert refused.value.code == code and words in str(refused.value)


@pytest.mark.parametrize("text", ["eval_steps: 1.5", "eval_steps: x", "rank: 0.5"])
def test_only_a_share_of_the_run_is_called_one(text: str, tmp_path: Path) -> None:
    with pytest.raises(LuminaError, match=r"E005|E004") as refused:
        loaded(tmp_path, text + "\n")
    assert "share of the run" not in str(refused.value)


@pytest.mark.parametrize("name", ["lora_bias", "push_to_hub", "flash"])
def test_a_stranger_is_answered_with_no_guess(name: str) -> None:
    with pytest.raises(LuminaError, match="E004") as refused:
        Config(**{name: 1})
    assert "did you mean" not in str(refused.value)


def test_max_steps_sets_num_train_epochs_aside_as_in_transformers(
    tmp_path: Path,
) -> None:
    both = loaded(tmp_path, "max_steps: 500\nnum_train_epochs: 1\n")
    assert both.train.steps == 500 and both.train.epochs is None
    unset = loaded(tmp_path, "max_steps: -1\nnum_train_epochs: 1\n")
    assert unset.train.steps is None and unset.train.epochs == 1.0
    own = loaded(tmp_path, "steps: 500\nepochs: 1\n")  # here the smaller limit holds
    assert own.train.steps == 500 and own.train.epochs == 1.0
    path = tmp_path / "run.yaml"
    path.write_text("num_train_epochs: 1\n")
    over = Config.resolve(file=path, flags={"max_steps": "500"})
    assert over.train.steps == 500 and over.train.epochs is None
    smaller = Config.resolve(file=path, flags={"steps": "500"})
    assert smaller.train.epochs == 1.0


def test_lr_scheduler_type_means_what_it_means_in_transformers(tmp_path: Path) -> None:
    text = "preset: debug\nlr_scheduler_type: constant\nsteps: 100\n"
    constant = plan_for(loaded(tmp_path, text))
    assert constant.warmup_steps == 0
    assert constant.min_lr == constant.learning_rate
    warm = plan_for(
        Config(preset="m70_memory", lr_scheduler_type="constant_with_warmup", steps=100)
    )
    assert warm.warmup_steps == 5
    falls = plan_for(Config(preset="m70_memory", lr_scheduler_type="linear", steps=100))
    assert falls.min_lr == 0.0
    told = plan_for(
        Config(preset="m70_memory", lr_scheduler_type="linear", min_lr=1e-5, steps=100)
    )
    assert told.min_lr == 1e-5
    power = plan_for(Config(preset="debug", lr_scheduler_type="polynomial", steps=100))
    assert (power.min_lr, power.lr_scheduler_options) == (1e-7, {"power": 1.0})
    own = plan_for(Config(preset="debug", lr_scheduler="constant", steps=100))
    assert own.warmup_steps == 5  # the preset's share


OPTIMIZERS = ("adamw_8bit",)
"""Values of an option that an answer names beside it."""


def test_what_is_meant_names_options_that_there_are() -> None:
    for name, answer in MEANT.items():
        assert name not in LEAVES and name not in SYNONYMS, name
        for word in re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", answer):
            assert word in LEAVES or word in OPTIMIZERS, (name, word)
