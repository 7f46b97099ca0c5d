"""Several processes on one machine do what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lumina.data.packed_stream import BatchStream
from mechanisms import mechanism
from training import (
    DENSE,
    MOE,
    checkpoints,
    column,
    events,
    reached,
    rows,
    start,
    wait_until,
    words,
)

pytestmark = pytest.mark.thorough


STEPS = 9
RHYTHM = words("--save-every-n-batches 3 --eval-every-n-batches 3 --batch-size 2")
FLAGS = words("--precision fp32 --ema-decay 0.9")
MODELS = {"dense": DENSE, "moe": [*MOE, "--moe-bias-update-rate", "0.01"]}


@pytest.fixture(scope="module")
def alone(trainings):
    """One process, by model; made when first asked for."""
    made = {}

    def get(model):
        if model not in made:
            made[model] = trainings.train(
                f"alone-{model}", *MODELS[model], *FLAGS, *RHYTHM, "--steps", str(STEPS)
            )
        return made[model]

    return get


def assert_close(found, wanted, tolerance=1e-5):
    for name in ("loss", "grad_norm", "eval_loss", "moe.balance_loss"):
        assert column(found, name) == pytest.approx(
            column(wanted, name), rel=tolerance, abs=tolerance
        ), name
    for name in ("step", "tokens", "epoch", "learning_rate"):
        assert column(found, name) == column(wanted, name), name


@pytest.mark.covers(
    "DST-01: gradient synchronisation",
    "DST-01: gloo",
    "DST-14: MoE with DDP",
    "DST-14: MoE with ZeRO",
    "DST-14: routing statistics and balance loss synchronised",
)
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("parallel", ["ddp", "zero2", "fsdp2"])
def test_two_ranks_give_the_losses_of_one(trainings, alone, model, parallel):
    found = trainings.train_on_ranks(
        f"{parallel}-{model}",
        *MODELS[model],
        *FLAGS,
        *RHYTHM,
        *words(f"--steps {STEPS} --parallel {parallel}"),
    )
    assert_close(found, alone(model))
    assert len(rows(found)) == STEPS
    # A mean and no sum: of processes that are about equally large.
    shares = column(found, "agreed_memory_share")
    assert shares[0] is None
    ones = column(found, "memory_utilization")
    assert shares[1:] == pytest.approx(ones[:-1], rel=0.2)


@pytest.mark.parametrize(
    ("launcher", "parallel"),
    [
        pytest.param(
            "--nproc",
            "fsdp2",
            marks=pytest.mark.covers(
                "DST-01: internal spawn", "MTX-07: does spawn exist"
            ),
        ),
        pytest.param(
            "--world-size",
            "--ddp",
            marks=pytest.mark.covers("DST-01: --world-size", "DST-01: --ddp"),
        ),
        pytest.param(
            "torchrun",
            "ddp",
            marks=pytest.mark.covers(
                "DST-01: DDP via torchrun (--nproc_per_node)",
                "DST-13: torchrun single node",
            ),
        ),
    ],
)
def test_launchers(trainings, alone, launcher, parallel):
    """`lumina train --nproc 2` and plain torchrun are the same run."""
    name = launcher.strip("-")
    shared = [parallel] if parallel == "--ddp" else ["--parallel", parallel]
    command = trainings.command(
        name, *DENSE, *FLAGS, *RHYTHM, *words(f"--steps {STEPS}"), *shared
    )
    if launcher != "torchrun":
        running = start([*command, launcher, "2"], trainings.folder / f"{name}.log")
        assert running.wait() == 0, running.output
        said = running.output
    else:
        program = ["-m", "torch.distributed.run", "--standalone"]
        program += ["--nproc_per_node", "2", "-m", "lumina", *command]
        done = subprocess.run(
            [sys.executable, *program],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout
    assert_close(trainings.folder / name, alone("dense"))
    # One voice, not one a rank.
    assert said.count("ended      done") == 1
    plan = json.loads((trainings.folder / name / "plan.json").read_text())
    assert plan["parallel"] == parallel.strip("-") and plan["world_size"] == 2


@pytest.mark.covers("DST-14: unused experts handled in reduction")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_experts_that_a_rank_does_not_use_are_reduced_as_well(trainings, parallel):
    """Of 48 experts most get no token of a rank, and some none of any rank."""
    flags = words(
        "--use-moe --num-experts 48 --moe-top-k 1 --moe-intermediate-size 16 "
        "--no-moe-normalise-top-k --steps 5 --precision fp32"
    )
    name = f"unused-{parallel}"
    alone = trainings.train(f"{name}-alone", *flags)
    found = trainings.train_on_ranks(
        name, *flags, "--batch-size", "2", "--parallel", parallel
    )
    dead = [n for row in rows(found) for n in row["moe.dead_experts"]]
    assert min(dead) > 0
    assert column(found, "moe.dead_experts") == column(alone, "moe.dead_experts")
    for key in ("loss", "grad_norm", "moe.balance_loss"):
        assert column(found, key) == pytest.approx(column(alone, key), rel=1e-4), key


@mechanism(
    "another number of ranks",
    component="rank",
    failure="a run of two ranks is ended and goes on with one, then with two again",
    recovery="resume",
    expected="losses as with a constant number, within the rounding of another order "
    "of sums",
)
@pytest.mark.faults
@pytest.mark.covers("CKP-09: --auto-resume", "DST-19: resume on other world size")
@pytest.mark.parametrize(
    ("model", "parallel"), [("dense", "fsdp2"), ("moe", "ddp"), ("moe", "fsdp2")]
)
def test_two_then_one_then_two_ranks(trainings, model, parallel):
    """Killed and resumed on other numbers of ranks, every row is seen once an epoch."""
    flags = [*MODELS[model], *FLAGS, "--save-every-n-batches", "2"]
    flags += words("--epochs 2 --global-batch-size 16 --batch-size 8 --seq-length 64")
    whole = trainings.train(f"epochs-{model}-{parallel}", *flags)
    name = f"212-{model}-{parallel}"
    folder = trainings.folder / name
    resumed = [*flags, "--auto-resume"]
    parted = [*resumed, "--parallel", parallel]
    two = trainings.ranks(name, *parted, HOLD_AFTER="3")
    assert wait_until(lambda: len(checkpoints(folder)) >= 1, two[0])
    for rank in two:
        rank.kill()
    assert checkpoints(folder) == ["step-00000002"]
    one = trainings.start(name, *resumed, HOLD_AFTER="5")
    assert wait_until(lambda: events(folder, "resumed"), one)
    assert wait_until(reached(folder, 5), one)
    one.kill()
    found = trainings.train_on_ranks(name, *parted)
    assert [e["data"]["world_size"] for e in events(found, "resumed")] == [1, 2]
    assert_close(found, whole)
    assert column(found, "epoch")[-1] == 2.0
    assert column(found, "tokens")[-1] == 2 * tokens_of_an_epoch(trainings)


def tokens_of_an_epoch(trainings):
    """What a stream of these data holds, each row once."""
    from lumina.config import ConfigPresets
    from lumina.data.prepare import prepare

    config = ConfigPresets.debug().replace(
        train_data=(str(trainings.data),), tokenizer_vocab_size=300
    )
    store = prepare(config).train
    stream = BatchStream(store, seq_length=64, global_batch_size=16, seed=7, epochs=1)
    cursor, seen, tokens = stream.start, [], 0
    while (step := stream.step(cursor, micro_batch_size=8)) is not None:
        seen += step.row_ids
        tokens += step.tokens
        cursor = step.cursor
    assert sorted(seen) == [(0, row) for row in range(stream.order.rows_per_epoch)]
    return tokens


@pytest.fixture(scope="module")
def adapting(trainings, alone):
    """Options of a run with adapters, and what one process does with them."""
    base = ["--init-from", str(alone("dense")), "--use-peft", "--lora-dropout", "0"]
    options = [*base, *FLAGS, *RHYTHM, *words("--steps 4 --global-batch-size 8")]
    return options, trainings.train("adapted", *DENSE, *options)


@pytest.mark.parametrize("parallel", ["ddp", "zero2", "fsdp2"])
def test_two_ranks_train_adapters_as_one_does(trainings, adapting, parallel):
    options, wanted = adapting
    found = trainings.train_on_ranks(
        f"{parallel}-adapted", *DENSE, *options, "--parallel", parallel
    )
    for name in ("loss", "grad_norm"):
        assert column(found, name) == pytest.approx(column(wanted, name), rel=1e-5)
