"""Two GPUs do what one does: DDP and FSDP2 over NCCL. Needs two CUDA devices."""

from __future__ import annotations

import pytest
import torch

from training import DENSE, MOE, column, events, rows, words

pytestmark = [
    pytest.mark.multigpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]

FLAGS = words("--device cuda --batch-size 2 --steps 12 --save-every-n-batches 4")
MODELS = {"dense": DENSE, "moe": MOE}


def close(found, wanted, tolerance):
    for name in ("loss", "grad_norm"):
        assert column(found, name) == pytest.approx(
            column(wanted, name), rel=tolerance, abs=tolerance
        ), name
    assert column(found, "tokens") == column(wanted, "tokens")


@pytest.mark.covers(
    "DST-01: gradient synchronisation", "DST-14: MoE with DDP", "DST-14: MoE with ZeRO"
)
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("parallel", ["ddp", "zero2", "fsdp2"])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2), ("fp16", 2e-2)]
)
def test_two_gpus_give_the_losses_of_one(
    trainings, model, parallel, precision, tolerance
):
    flags = [*MODELS[model], *FLAGS, "--precision", precision]
    name = f"{model}-{parallel}-{precision}"
    one = trainings.train(f"one-{name}", *flags)
    two = trainings.train_on_ranks(name, *flags, "--parallel", parallel)
    close(two, one, tolerance)


@pytest.mark.covers("DST-19: resume on other world size")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_a_run_moves_between_one_gpu_and_two(trainings, parallel):
    flags = [*MOE, *FLAGS, "--precision", "fp32", "--auto-resume"]
    name = f"212-{parallel}"
    part = ["--parallel", parallel, "--steps"]
    constant = ["--lr-scheduler", "constant"]
    whole = trainings.train(f"whole-constant-{parallel}", *flags, *constant)
    trainings.train_on_ranks(name, *flags, *constant, *part, "4")
    trainings.train(name, *flags, *constant, "--steps", "8")
    trainings.train_on_ranks(name, *flags, *constant, *part, "12")
    found = trainings.folder / name
    close(found, whole, 1e-5)
    assert [e["data"]["world_size"] for e in events(found, "resumed")] == [1, 2]
    assert len(rows(found)) == 12
