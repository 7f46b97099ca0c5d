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
# Compiling takes longer than all else here, and is shown with one precision.
HOW = {
    "fp32": words("--precision fp32 --no-compile"),
    "bf16": words("--precision bf16 --compile"),
    "fp16": words("--precision fp16 --no-compile"),
}


@pytest.fixture(scope="module")
def one_gpu(trainings):
    """The run on one GPU, by model and precision; made when first asked for."""
    made = {}

    def get(model, precision):
        if (model, precision) not in made:
            flags = [*MODELS[model], *FLAGS, *HOW[precision]]
            made[model, precision] = trainings.train(f"one-{model}-{precision}", *flags)
        return made[model, precision]

    return get


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
    trainings, one_gpu, model, parallel, precision, tolerance
):
    flags = [*MODELS[model], *FLAGS, *HOW[precision]]
    name = f"{model}-{parallel}-{precision}"
    two = trainings.train_on_ranks(name, *flags, "--parallel", parallel)
    close(two, one_gpu(model, precision), tolerance)


@pytest.mark.covers("DST-19: resume on other world size")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_a_run_moves_between_one_gpu_and_two(trainings, parallel):
    flags = [*MOE, *FLAGS, *HOW["fp32"], "--auto-resume"]
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
