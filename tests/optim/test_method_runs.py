"""Optimizers in real runs: killed and resumed, and divided over processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training import (
    DENSE,
    MOE,
    Trainings,
    assert_same_run,
    checkpoints,
    column,
    final_tensors,
    reached,
    wait_until,
    words,
)

TRAINED = words(
    "--precision fp32 --steps 6 --save-every-n-batches 2 --eval-every-n-batches 3 "
    "--weight-decay 0.1"
)
METHODS = {
    "sgd": "--optimizer-options nesterov=true --learning-rate 0.05",
    "lion": "--learning-rate 3e-4",
    "adafactor": "--optimizer-options scale_by_weights=true --learning-rate 0.05",
    "muon": "",
    "schedule_free": "",
    "adamw_bf16": "",
    "adamw_8bit": "",
    "adamw_4bit": "",
}
FIRST = "muon"
"""The one that is not among the longest tests."""
RUNS = [
    pytest.param(
        name, marks=pytest.mark.thorough if name == FIRST else pytest.mark.slow
    )
    for name in METHODS
]


def flags_of(name: str) -> list[str]:
    return [*DENSE, *TRAINED, "--optimizer", name, *words(METHODS[name])]


@pytest.fixture(scope="module")
def whole(trainings: Trainings, request: pytest.FixtureRequest) -> Path:
    """The run that is never stopped."""
    return trainings.train(f"whole-{request.param}", *flags_of(request.param))


@pytest.mark.parametrize("whole", RUNS, indirect=True)
def test_killed_and_resumed_it_is_the_run_that_never_stopped(
    trainings: Trainings, whole: Path, request: pytest.FixtureRequest
) -> None:
    """Every state too: the whole checkpoint is compared, tensor by tensor."""
    method = whole.name.removeprefix("whole-")
    name, flags = f"killed-{method}", [*flags_of(method), "--auto-resume"]
    running = trainings.start(name, *flags, HOLD_AFTER="3")
    folder = trainings.folder / name
    assert wait_until(lambda: "step-00000002" in checkpoints(folder), running)
    assert wait_until(reached(folder, 3), running)
    running.kill()
    assert_same_run(trainings.train(name, *flags), whole)
    losses = column(whole, "loss")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("parallel", "experts"),
    [
        ("fsdp2", False),
        pytest.param("fsdp2", True, marks=pytest.mark.slow),
        pytest.param("ddp", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_what_one_rank_trains(
    trainings: Trainings, name: str, parallel: str, experts: bool
) -> None:
    """Weights and states too, whatever part of them a rank holds."""
    flags = [*flags_of(name), *(MOE if experts else [])]
    flags = [flag for flag in flags if not (experts and flag == DENSE[0])]
    tail = f"{name}-{experts}"
    alone = trainings.folder / f"alone-{tail}"
    if not alone.exists():
        trainings.train(alone.name, *flags)
    found = trainings.train_on_ranks(
        f"{parallel}-{tail}", *flags, *words(f"--batch-size 2 --parallel {parallel}")
    )
    for metric in ("loss", "grad_norm", "eval_loss"):
        expected = pytest.approx(column(alone, metric), rel=2e-4, abs=2e-4)
        assert column(found, metric) == expected, metric
    one, two = final_tensors(alone), final_tensors(found)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert two[key].shape == tensor.shape and two[key].dtype == tensor.dtype
        gap = (two[key].double() - tensor.double()).norm()
        assert gap <= 2e-3 * tensor.double().norm() + 1e-6, key


@pytest.mark.thorough
def test_muon_alone_is_a_sensible_run(trainings: Trainings) -> None:
    """AdamW trains what is no matrix; the plan and the banner say so."""
    run = trainings.train("sensible", *MOE, *TRAINED, *words("--optimizer muon"))
    plan = json.loads((run / "plan.json").read_text())
    reason = plan["reasons"]["optimizer_groups"]
    assert "muon trains" in reason and "adamw trains" in reason
    assert "muon trains tensors of the role matrix or expert" in reason
    output = " ".join(trainings.output("sensible").split())
    assert "Muon for matrices and experts, AdamW else" in output
    losses = column(run, "loss")
    assert losses[-1] < losses[0]
    held = final_tensors(run)
    moments = {key.partition("/")[2] for key in held if key.startswith("exp_avg/")}
    momenta = {key.partition("/")[2] for key in held if key.startswith("momentum/")}
    assert "backbone.blocks.1.feedforward.gate" in momenta
    assert "backbone.blocks.1.feedforward.router.weight" in moments
    assert "backbone.norm.weight" in moments and not moments & momenta
