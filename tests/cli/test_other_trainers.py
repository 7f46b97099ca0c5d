"""Flags of other trainers, and `--config`, on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.cli.main import main


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["config", "show", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_flags_of_other_trainers(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = shown(
        capsys, "--max_steps", "-1", "--bf16", "--fp16", "false", "--output_dir", "out",
        "--per-device-train-batch-size", "2", "--adam_beta2", "0.99",
    )  # fmt: skip
    assert code == 0, text
    for line in (
        "precision: mixed_bf16",
        "run_dir: out",
        "batch_size: 2",
        "steps: null",
    ):
        assert f"  {line}" in text
    code, text = shown(capsys, "--max-steps", "30")
    assert code == 0 and "  steps: 30  # flag" in text
    code, text = shown(capsys, "--max-steps", "30", "--num-train-epochs", "1")
    assert code == 0 and "  steps: 30  # flag" in text and "epochs: null" in text
    code, text = shown(capsys, "--lr-scheduler-type", "constant")
    assert code == 0 and "  warmup_steps: 0  # flag" in text
    code, text = shown(capsys, "--max-steps", "30", "--steps", "20")
    assert code != 0 and text.startswith("E002") and "'max_steps'" in text


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--bf16 --fp16", ("precision", "bf16", "fp16")),
        ("--fp16 true --bf16 yes", ("precision", "bf16", "fp16")),
        ("--bf16 --precision fp32", ("precision", "bf16")),
        ("--lr 1e-3 --learning-rate 1e-4", ("--lr 1e-3", "--learning-rate 1e-4")),
        ("--save-steps 5 --save_every_n_steps 6", ("--save-steps 5",)),
    ],
)
def test_two_names_of_one_option_that_disagree_are_refused(
    capsys: pytest.CaptureFixture[str], flags: str, named: tuple[str, ...]
) -> None:
    code, text = shown(capsys, *flags.split())
    assert code == 2 and text.startswith("E002") and "twice" in text
    assert all(name in text for name in named), text


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--lr 1e-3 --lr 1e-4", "learning_rate: 0.0001"),
        ("--lr 1e-4 --learning-rate 1e-4", "learning_rate: 0.0001"),
        ("--precision bf16 --precision fp16", "precision: fp16"),
        ("--bf16 false --fp16", "precision: mixed_fp16"),
    ],
)
def test_one_name_given_twice_has_its_last_value(
    capsys: pytest.CaptureFixture[str], flags: str, line: str
) -> None:
    code, text = shown(capsys, *flags.split())
    assert code == 0 and f"  {line}" in text, text


def test_a_wrong_flag_is_answered_with_what_is_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = shown(capsys, "--eval-strategy", "steps")
    assert code != 0 and text.startswith("E004") and "eval_every_n_batches" in text
    code, text = shown(capsys, "--lerning-rate", "1")
    assert code != 0 and "did you mean --learning-rate?" in text
    code, text = shown(capsys, "--lora-bias", "none")
    assert code != 0 and text.startswith("E004") and "did you mean" not in text


def test_config_is_a_preset_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: debug\nseed: 7\n")
    code, text = shown(capsys, "--config", str(file))
    assert code == 0 and "preset: debug" in text and "  seed: 7" in text
    code, text = shown(capsys, "--config", "b7")
    assert code == 0 and "preset: b7" in text
    code, text = shown(capsys, "--config", str(tmp_path / "none.yaml"))
    assert code != 0 and text.startswith("E104") and "none.yaml" in text


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--packing false", "packing: false"),
        ("--packing=False", "packing: false"),
        ("--packing True --steps 3", "packing: true"),
        ("--use_moe false", "use_moe: false"),
        ("--gradient_checkpointing True", "gradient_checkpointing: full"),
        ("--gradient_checkpointing false", "gradient_checkpointing: none"),
        ("--gradient-checkpointing attention", "gradient_checkpointing: attention"),
        ("--compile False", "compile: false"),
        ("--max_seq_length 48", "seq_length: 48"),
    ],
)
def test_switches_with_a_truth_value_as_other_trainers_write_them(
    capsys: pytest.CaptureFixture[str], flags: str, line: str
) -> None:
    code, text = shown(capsys, *flags.split())
    assert code == 0, text
    assert f"  {line}  # flag" in text


def test_a_truth_value_that_belongs_to_no_switch_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for flags in ("--steps 3 true", "--no-packing true", "--packing maybe"):
        code, text = shown(capsys, *flags.split())
        assert code == 2 and text.startswith("E005"), flags


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--no_cuda", "device is cpu"),
        ("--load_best_model_at_end", "--best"),
        ("--train_on_inputs", "loss_on"),
        ("--fsdp", "parallel"),
        ("--push_to_hub", "lumina export"),
        ("--eval_iters", "eval_batches"),
        ("--cutoff_len", "seq_length"),
        ("--target_modules", "lora_target_modules"),
    ],
)
def test_names_of_other_trainers_are_answered_by_meaning(
    capsys: pytest.CaptureFixture[str], flag: str, meant: str
) -> None:
    code, text = shown(capsys, flag, "1")
    assert code == 2 and text.startswith("E004")
    assert meant in text and "did you mean" not in text


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train corpus/", "--train-data corpus/"),
        ("generate run Once", "--prompt Once"),
        ("chat run Hello", "--message Hello"),
    ],
)
def test_a_word_without_its_option_is_told_which_one(
    capsys: pytest.CaptureFixture[str], words: str, meant: str
) -> None:
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("E005") and f"did you mean {meant}?" in told
