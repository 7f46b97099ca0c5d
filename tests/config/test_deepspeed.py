"""Configurations of DeepSpeed, item by item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.config import Config
from lumina.config.deepspeed import translated
from lumina.errors import LuminaError

WRITTEN: dict[str, Any] = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 0.5,
    "steps_per_print": 20,
    "wall_clock_breakdown": False,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "warmup_min_lr": 0,
            "warmup_max_lr": 3e-4,
            "warmup_num_steps": 100,
            "warmup_type": "linear",
            "total_num_steps": 2000,
        },
    },
    "bf16": {"enabled": True},
    "fp16": {"enabled": False, "loss_scale": 7},
    "tensorboard": {"enabled": False},
    "zero_optimization": {
        "stage": 1,
        "overlap_comm": False,
        "reduce_bucket_size": 5e8,
        "allgather_bucket_size": 500000000,
        "contiguous_gradients": True,
        "stage3_param_persistence_threshold": 10000,
        "offload_optimizer": {
            "device": "nvme",
            "nvme_path": "/nvme",
            "pin_memory": True,
        },
    },
}
MEANT = {
    "global_batch_size": 64, "batch_size": 4, "max_grad_norm": 0.5,
    "log_every_n_batches": 20, "optimizer": "adamw", "learning_rate": 3e-4,
    "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1,
    "lr_scheduler": "linear", "min_lr": 0.0, "warmup_steps": 100, "steps": 2000,
    "precision": "mixed_bf16", "parallel": "zero1", "overlap_comm": False,
    "reduce_bucket_size": 500_000_000, "allgather_bucket_size": 500_000_000,
    "optimizer_states_in": "disk", "offload_folder": "/nvme",
}  # fmt: skip


@pytest.mark.covers("DST-03: zero_stage", "DST-04: allgather_bucket_size 5e8")
def test_a_file_becomes_options(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(WRITTEN))
    assert translated(path) == translated(WRITTEN) == MEANT
    config = Config(deepspeed=str(path))
    assert {leaf: config.get(leaf) for leaf in MEANT} == MEANT
    written = tmp_path / "run.yaml"
    written.write_text(f"deepspeed: {path}\nseq_length: 64\n")
    assert Config.load(written).get("parallel") == "zero1"
    with pytest.raises(LuminaError, match="twice") as caught:
        Config(deepspeed=str(path), parallel="ddp")
    assert caught.value.code == "E002"


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"optimizer": {"type": "OneBitAdam"}}, "OneBitAdam"),
        ({"optimizer": {"type": "Adam", "params": {"amsgrad": True}}}, "amsgrad"),
        ({"scheduler": {"type": "WarmupLR", "params": {}}}, "warmup_type linear"),
        ({"scheduler": {"type": "OneCycle"}}, "OneCycle"),
        ({"fp16": {"enabled": True, "loss_scale_window": 1000}}, "loss_scale_window"),
        ({"sparse_attention": {"mode": "fixed"}}, "sparse_attention"),
        ({"wall_clock_breakdown": True}, "lumina profile"),
        ({"tensorboard": {"enabled": True}}, "--trackers tensorboard"),
        ({"activation_checkpointing": {"cpu_checkpointing": True}}, "--gradient-check"),
        ({"moe": 3}, "moe"),
        ({"zero_optimization": {"stage": 4}}, "stage 4"),
        ({"zero_optimization": {"stage": 3, "reduce_bucket_size": 9}}, "a block"),
        ({"zero_optimization": {"stage": 2, "overlap_comm": False}}, "overlap_comm"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
            "--weights-in",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": 2}}},
            "ratio 1.0",
        ),
        ({"zero_optimization": {"zero_hpz_partition_size": 8}}, "zero_hpz"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_name(
    item: dict[str, Any], said: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        translated(item)
    assert caught.value.code == "E002" and said in caught.value.message


@pytest.mark.covers("DST-04: stage3_param_persistence_threshold 10000")
def test_small_parameters_stay_whole_in_stage_3() -> None:
    option = "stage3_param_persistence_threshold"
    found = translated({"zero_optimization": {"stage": 3, option: 1e4}})
    assert found == {"parallel": "fsdp2", option: 10_000}
    assert option not in translated({"zero_optimization": {"stage": 2, option: 1e4}})


def test_all_of_what_is_refused_is_named_at_once() -> None:
    with pytest.raises(LuminaError) as caught:
        translated(
            {"moe": 3, "zero_optimization": {"stage": 9}, "sparse_gradients": True}
        )
    for name in ("moe", "zero_optimization.stage", "sparse_gradients"):
        assert name in caught.value.message


@pytest.mark.parametrize(
    ("text", "code"), [(None, "E104"), ("{", "E101"), ("[1]", "E101")]
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "ds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LuminaError) as caught:
        translated(path)
    assert caught.value.code == code and str(path) in caught.value.message


@pytest.mark.covers("DST-03: use_deepspeed")
def test_a_stage_that_is_named_wins_over_the_switch(tmp_path: Path) -> None:
    assert Config(use_deepspeed=True).get("parallel") == "zero"
    assert Config(use_deepspeed="false").get("parallel") == "auto"
    assert Config(use_deepspeed=True, zero_stage=2).get("parallel") == "zero2"
    written = tmp_path / "run.yaml"
    written.write_text("use_deepspeed: true\nzero_stage: 3\n")
    assert Config.load(written).get("parallel") == "fsdp2"
    flags = {"use_deepspeed": "true"}
    assert Config.resolve(file=written, flags=flags).get("parallel") == "fsdp2"
    with pytest.raises(LuminaError, match="use_deepspeed"):
        Config(use_deepspeed="perhaps")
