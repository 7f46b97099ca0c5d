"""One file outside the package adds tensors: two matrices and a scale to attentions.

Nothing else is edited, and they are counted, initialised, named in files, saved,
loaded, sharded, frozen by pattern, and refused by name where a format has no place.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lumina.state.reader import latest_good, open_checkpoint
from training import (
    Trainings,
    assert_same_run,
    final_tensors,
    reached,
    rows,
    start,
    wait_until,
    words,
)

TOY = str(Path(__file__).with_name("toy_tensors.py"))
FLAGS = [
    "--plugins", TOY,
    *words("--no-use-moe --precision fp32 --steps 8 --save-every-n-batches 2"),
]  # fmt: skip
LAYERS, WIDTH, RANK = 2, 32, 2
OUT = "backbone.blocks.0.attention.out"


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> Path:
    """The run that is never stopped."""
    return trainings.train("toy-tensors", *FLAGS)


@pytest.fixture(scope="module")
def plain(trainings: Trainings) -> Path:
    """The same without the file."""
    return trainings.train("plain", *FLAGS[2:])


def test_they_are_counted(whole: Path, plain: Path) -> None:
    with_pairs, without = (
        json.loads((folder / "plan.json").read_text()) for folder in (whole, plain)
    )
    added = LAYERS * 2 * RANK * WIDTH
    assert with_pairs["parameters"] - without["parameters"] == added
    assert (
        with_pairs["memory"]["optimizer"] - without["memory"]["optimizer"] == 8 * added
    )


def test_they_are_named_in_files_with_role_and_axes(whole: Path) -> None:
    held = final_tensors(whole)
    shapes = {"a": (RANK, WIDTH), "b": (WIDTH, RANK), "block_scale": (WIDTH // 8,)}
    for leaf, shape in shapes.items():
        assert tuple(held[f"{OUT}.{leaf}"].shape) == shape
    with open_checkpoint(latest_good(whole)) as checkpoint:
        info = {n: e.info for n, e in checkpoint.manifest.tensors.items()}
        moments = checkpoint.optimizer_names("exp_avg")
    assert info[f"{OUT}.b"].axes == ("hidden", "rank")
    assert info[f"{OUT}.block_scale"].role == "buffer"
    assert f"{OUT}.a" in moments and f"{OUT}.block_scale" not in moments


def test_they_train_and_their_scale_follows_the_steps(whole: Path) -> None:
    held = final_tensors(whole)
    assert held[f"{OUT}.b"].abs().max() > 0  # it began at zero
    torch.testing.assert_close(
        held[f"{OUT}.block_scale"], torch.full((WIDTH // 8,), 0.99**8)
    )


def test_killed_and_resumed_it_is_the_run_that_never_stopped(
    trainings: Trainings, whole: Path
) -> None:
    running = trainings.start("killed", *FLAGS, "--auto-resume", HOLD_AFTER="5")
    folder = trainings.folder / "killed"
    assert wait_until(reached(folder, 5), running)
    running.kill()
    assert_same_run(trainings.train("killed", *FLAGS, "--auto-resume"), whole)


@pytest.mark.thorough
def test_sharded_they_are_the_same(trainings: Trainings, whole: Path) -> None:
    both = trainings.train_on_ranks(
        "sharded", *FLAGS, *words("--parallel fsdp2 --batch-size 2")
    )
    for one, other in zip(rows(both), rows(whole), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    here, there = final_tensors(both), final_tensors(whole)
    assert here.keys() == there.keys()
    for name in here:
        torch.testing.assert_close(here[name], there[name], rtol=1e-3, atol=1e-4)


def test_a_pattern_freezes_all_but_them(trainings: Trainings, whole: Path) -> None:
    frozen = trainings.train("frozen", *FLAGS, "--freeze", "*.weight")
    plan = json.loads((frozen / "plan.json").read_text())
    assert plan["memory"]["optimizer"] == 8 * LAYERS * 2 * RANK * WIDTH
    with open_checkpoint(latest_good(frozen)) as held:
        trained = set(held.optimizer_names("exp_avg"))
    pairs = {f"backbone.blocks.{i}.attention.out" for i in range(LAYERS)}
    assert trained == {f"{path}.{leaf}" for path in pairs for leaf in "ab"}


def test_a_format_without_a_place_for_them_is_refused(
    trainings: Trainings, whole: Path
) -> None:
    log = trainings.folder / "export.log"
    target = str(trainings.folder / "out")
    running = start(
        [
            "export",
            str(whole),
            target,
        ],
        log,
    )
    assert running.wait() != 0
    assert f"not expected ['{OUT}.a'" in " ".join(running.output.split())


def test_without_the_file_the_run_is_refused_by_the_tensors_names(
    trainings: Trainings, whole: Path
) -> None:
    trainings.train("other", *FLAGS[2:], "--init-from", str(whole), code=1)
    assert f"{OUT}.a" in " ".join(trainings.output("other").split())
