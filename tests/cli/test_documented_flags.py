"""The documents' flags start the commands that do the same here."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from lumina.cli import doctor, train
from lumina.cli.documented_flags import FLAGS, translated
from lumina.cli.groups import members
from lumina.cli.main import COMMANDS, main
from lumina.cli.options import config_from_args
from lumina.cli.parsing import Parser, parse
from lumina.config import Config
from lumina.errors import LuminaError
from machines import cpu


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_names_a_command_and_options_that_it_has(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = FLAGS[flag]
    module = importlib.import_module(COMMANDS[name][0])
    command = [name]
    if hasattr(module, "GROUP"):
        assert rest[0] in members(module.GROUP)
        command.append(rest[0])
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    for word in FLAGS[flag][len(command) :]:
        assert not word.startswith("--") or word in text


CASES = {
    "--estimate-time --hardware-profile a100-80gb": (
        "plan --show time --hardware-profile a100-80gb"
    ),
    "train --preset debug --estimate_parameters --detailed": (
        "plan --preset debug --show parameters --detailed"
    ),
    "--estimate-parameters --analyze-memory": ("plan --show parameters --show memory"),
    "doctor --dev-mode": "doctor --dev-mode",
    "train --steps 3": "train --steps 3",
    "generate runs/x --prompt -- --estimate-time": (
        "generate runs/x --prompt -- --estimate-time"
    ),
    "--unknown --steps 3": "--unknown --steps 3",
    "--preset debug --dry-run": "train --preset debug --dry-run",
    "train --dry-run --steps 3": "train --dry-run --steps 3",
}


@pytest.mark.parametrize(("written", "meant"), CASES.items())
def test_words_become_those_of_the_command(written: str, meant: str) -> None:
    assert translated(written.split()) == meant.split()


def test_two_commands_at_once_are_refused_by_name() -> None:
    with pytest.raises(LuminaError, match=r"E002.*--estimate-time.*--check-environ"):
        translated(["--estimate-time", "--check-environment"])


def test_nothing_behind_two_dashes_is_a_flag() -> None:
    words = ["train", "--", "--estimate-time"]
    assert translated(words) == words


@pytest.mark.covers("DIA-01: --check-environment", "DIA-01: --dev-mode")
def test_the_environment_is_checked_by_the_documents_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "probe", cpu)
    assert main(["--check-environment"]) == 0
    checked = capsys.readouterr().out
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.split("disk free")[0] in checked
    assert "pyarrow" in checked and "import-linter" not in checked
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert main(["--dev-mode"]) == 0
    more = capsys.readouterr().out
    assert "import-linter" in more and "commit" in more
    line = next(line for line in more.splitlines() if "NCCL_DEBUG" in line)
    assert line.split() == ["NCCL_DEBUG", "INFO"]


@pytest.mark.covers("DIA-09")
def test_data_is_validated_by_the_documents_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chats.jsonl"
    good = {"messages": [{"role": "user", "content": "Hi"}]}
    good["messages"].append({"role": "assistant", "content": "Hello"})
    file.write_text(json.dumps(good) + "\n" + '{"messages": 7}\n')
    assert main(["--validate-data", str(file), "--json"]) == 1
    flagged = json.loads(capsys.readouterr().out)
    assert main(["data", "validate", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == flagged
    assert flagged["documents"] == 1 and flagged["failed"]


def flags_of_all_commands() -> set[str]:
    """Every flag that some command declares, hyphens for underscores."""
    found: set[str] = set(FLAGS)
    for name, (path, *_) in COMMANDS.items():
        module = importlib.import_module(path)
        inner = [module]
        if hasattr(module, "GROUP"):
            inner = [importlib.import_module(m) for m in members(module.GROUP).values()]
        for one in inner:
            parser = Parser(prog=name)
            parser.add_everywhere()
            one.add_arguments(parser)
            found |= {word for a in parser._actions for word in a.option_strings}
    return {word.replace("_", "-") for word in found}


NOT_TAKEN = {
    "--persistent-workers": "live as long as the run",
    "--dataset-chunk-size": "lumina data blocks",
}
"""Flags that would change nothing here, and what they are answered with."""


@pytest.mark.thorough
def test_flags_that_the_rows_name_are_those_of_some_command() -> None:
    rows = Path(__file__).parents[2] / "docs" / "internal" / "spec_rows.tsv"
    text = rows.read_text()
    named = {
        flag.replace("_", "-") for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)
    }
    assert len(named) > 100
    assert named - flags_of_all_commands() == set(NOT_TAKEN)


TRAINING = """
--amp --auto-batch-size --auto-resume --backup-dir=b --backup-every-n-hours=2
--batch-size=4 --best-metric=eval_loss --beta1=0.8 --beta2=0.9
--capacity-factor=2 --chunk-size=128 --compile --config=debug --cpu-offload
--cuda-ids=0,1 --cuda_graphs_warmup=3 --dataset-file=t --dataset-start-offset=3
--ddp --disable-sharding --dry-run --early-stopping-patience=3
--enable-flash-attention --epochs=2 --eps=1e-7 --eval-batches=3 --eval-data=e
--eval-every-n-batches=3 --eval-file=e --experiment-name=x
--experimental_blackwell_tuning --experimental_cuda_graphs --experimental_fa3
--experimental_fp8 --experimental_loss_spike_threshold=0.5
--experimental_prefetch_threads=2 --experimental_safety_window=50
--experimental_skip_pretest --experimental_throughput_drop_threshold=0.2
--expert-id=e --force-memory-loading --force-streaming --fp8_format=e4m3
--grad-accum=2 --gradient-accumulation-steps=2 --gradient-checkpointing
--h-cycles=2 --h-layers=2 --halt-max-steps=3 --hidden-size=64 --init-std=0.1
--iterate --l-cycles=2 --l-layers=2 --learning-rate=1e-3 --linear-dataset
--load-balancing-weight=0.1 --load-in-4bit --load-in-8bit
--log-every-n-batches=3 --log-expert-usage --log-file=f --lora-alpha=3
--lora-dropout=0.1 --lora-r=3 --lora-target-modules=all-linear --lr=1e-3
--lr-scheduler=cosine --master_addr=10.0.0.1 --master_port=29500
--max-grad-norm=1 --max-seq-len=64 --min-lr=1e-5 --model=m --model-dtype=bf16
--model_size=debug --node_rank=0 --no-gradient-checkpointing --nproc_per_node=2
--num-experts-per-tok=2 --num-heads=2 --num-workers=2 --num_gpus=2 --num_nodes=2
--optimizer=lion --parallel-independent --peft-method=lora --pin-memory
--pos-encodings=rope --precision=fp32 --prefetch-factor=2
--prefetch_buffer_size=2 --resume=r --save-every-n-batches=2
--save-total-limit=2 --seed=2 --shard-size-mb=3 --static_routing_mode --steps=2
--stop-after-epoch --stop-file=s --strict --tensorboard-dir=t --track-best-model
--train-data=t --triton_block_kv=64 --triton_block_q=64 --triton_kernels
--triton_num_warps=4 --use-8bit-optimizer --use-chunked-training
--use-flash-attn --use-moe --use-peft --use-stable-embedding --use-tensorboard
--use-wandb --verbose --wandb-project=p --wandb-run-name=r --warmup-ratio=0.1
--warmup-steps=2 --weight-decay=0.1 --window-size=256 --world-size=2
--zero-stage=zero2
"""
"""Flags of a training, as the design documents write them."""


@pytest.mark.covers("CFG-01: the documents' flags accepted")
def test_flags_of_a_training_are_taken_as_the_documents_write_them() -> None:
    parser = Parser(prog="train")
    parser.add_everywhere()
    train.add_arguments(parser)
    for flag in TRAINING.split():
        for words in ([flag], flag.split("=")):  # --x=1 and --x 1
            try:
                parse(parser, words)
            except LuminaError as error:
                pytest.fail(f"{' '.join(words)}: {error}")
    for flag, says in NOT_TAKEN.items():
        with pytest.raises(LuminaError, match=says):
            parse(parser, [flag, "4"])


def settings(*words: str) -> Config:
    parser = Parser(prog="train")
    parser.add_everywhere()
    train.add_arguments(parser)
    return config_from_args(parse(parser, list(words)))


def test_a_switch_of_a_tracker_needs_no_value() -> None:
    both = settings("--use-wandb", "--use-tensorboard", "true", "--steps", "3")
    assert both.tracking.trackers == ("wandb", "tensorboard")
    assert settings("--use-wandb", "false").tracking.trackers == ()
    more = settings("--trackers", "mlflow", "--use-wandb")
    assert more.tracking.trackers == ("mlflow", "wandb")
    with pytest.raises(LuminaError, match=r"E005.*use_wandb"):
        settings("--use-wandb", "perhaps")


@pytest.mark.parametrize(
    ("stage", "way"),
    [
        ("zero1", "zero1"),
        ("1", "zero1"),
        ("2", "zero2"),
        ("zero3", "fsdp2"),
        ("none", "auto"),
        ("auto", "zero"),
    ],
)
@pytest.mark.covers("DST-03: --zero-stage zero1, zero2, zero3", "DST-03: zero_stage")
def test_a_stage_of_zero_is_a_way_to_share_the_work(stage: str, way: str) -> None:
    assert settings("--zero-stage", stage).system.parallel == way
    assert Config(zero_stage=stage).system.parallel == way
    with pytest.raises(LuminaError, match=r"E005.*zero_stage"):
        Config(zero_stage="4")
