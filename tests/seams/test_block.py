"""One file outside the package adds a block with all that belongs to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lumina
from lumina import Config, Trainer
from lumina.batch import Batch
from lumina.cli.main import main
from lumina.model.registry import load_plugins
from lumina.observe.report import write_report
from training import (
    Trainings,
    assert_same_run,
    column,
    events,
    final_tensors,
    reached,
    rows,
    wait_until,
    words,
)

TOY = str(Path(__file__).with_name("toy_block.py"))
FLAGS = [
    "--plugins", TOY,
    *words(
        "--block-type toy standard --no-use-moe --precision fp32 --steps 8 "
        "--save-every-n-batches 2"
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> Path:
    """The run that is never stopped."""
    return trainings.train("toy-block", *FLAGS)


def test_its_loss_its_count_and_its_metric_are_in_every_row(whole: Path) -> None:
    found = rows(whole)
    assert len(found) == 8
    for row in found:
        assert 0 < row["toy.open"] < 1
        assert sum(row["toy.bin_share"]) == pytest.approx(1)
    # Its loss is minimised: gates close.
    assert found[-1]["toy.open"] < found[0]["toy.open"]


def test_killed_and_resumed_it_is_the_run_that_never_stopped(
    trainings: Trainings, whole: Path
) -> None:
    running = trainings.start("toy-killed", *FLAGS, "--auto-resume", HOLD_AFTER="5")
    folder = trainings.folder / "toy-killed"
    assert wait_until(reached(folder, 5), running)
    running.kill()
    found = trainings.train("toy-killed", *FLAGS, "--auto-resume")
    assert_same_run(found, whole)
    assert column(found, "toy.bin_share") == column(whole, "toy.bin_share")


@pytest.mark.thorough
def test_counts_of_ranks_add_up(trainings: Trainings, whole: Path) -> None:
    both = trainings.train_on_ranks(
        "toy-ranks", *FLAGS, *words("--parallel ddp --batch-size 2")
    )
    for one, other in zip(rows(both), rows(whole), strict=True):
        assert one["toy.bin_share"] == pytest.approx(other["toy.bin_share"], abs=2e-3)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_its_control_changes_a_running_job_and_is_taken_back(
    tiny_config: Config,
) -> None:
    def train(name: str, at: dict[int, Callable[[Trainer], None]]) -> list[dict]:
        def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
            if row["step"] in at:
                at[row["step"]](trainer)

        run = str(Path(str(tiny_config.get("run_dir"))).with_name(name))
        config = tiny_config.replace(plugins=(TOY,), block_type=("toy", "standard"))
        Trainer(config.replace(run_dir=run), on_step=on_step).train()
        return rows(Path(run))

    ids: list[int] = []

    def change(trainer: Trainer) -> None:
        assert trainer.controls is not None
        ids.append(trainer.controls.request("toy_gain", 3.0, "a test"))

    def undo(trainer: Trainer) -> None:
        assert trainer.controls is not None
        trainer.controls.undo(ids[0])

    plain, changed = train("plain", {}), train("changed", {3: change, 6: undo})
    same = [a["loss"] == b["loss"] for a, b in zip(plain, changed, strict=True)]
    assert same[:4] == [True] * 4 and not any(same[5:])
    run = Path(str(tiny_config.get("run_dir"))).with_name("changed")
    changes = [e["data"] for e in events(run, "control")]
    told = [(c["name"], c["old"], c["value"]) for c in changes]
    assert told == [("toy_gain", 1.0, 3.0), ("toy_gain", 3.0, 1.0)]
    final = final_tensors(run)
    assert final["backbone.blocks.0.inner.gain"] == 1


def test_its_control_is_refused_by_a_model_without_it(tiny_config: Config) -> None:
    load_plugins((TOY,))

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 2:
            assert trainer.controls is not None
            trainer.controls.request("toy_gain", 3.0, "a test")

    Trainer(tiny_config, on_step=on_step).train()
    (event,) = events(Path(str(tiny_config.get("run_dir"))), "control")
    assert "no toy block" in event["message"]


def test_it_shows_in_the_plan_and_in_the_report(whole: Path) -> None:
    plan = json.loads((whole / "plan.json").read_text())
    assert plan["spec"]["parts"]["block"][0] == "toy"
    assert "toy" in write_report(whole).read_text()


def test_it_is_refused_where_it_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = words("--block-type toy --use-mod --dry-run --run-dir x --train-data y")
    assert main(["train", "--plugins", TOY, *flags]) == 2
    assert "block_type" in capsys.readouterr().err.replace("-", "_")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('{"toy.bins": (BINS,)}', '{"other": (BINS,)}'), "keys begin with 'toy.'"),
        (('counts={"toy.bins": (BINS,)}', "counts={}"), "does not declare it"),
        (('"toy.bins": bins}', '"toy.bins": bins[:2]}'), "of shape (2,)"),
        ((', "toy.bins": bins}', "}"), "does not return it"),
    ],
)
def test_a_wrong_declaration_is_named(
    trainings: Trainings,
    change: tuple[str, str],
    says: str,
    tmp_path: Path,
) -> None:
    text = Path(TOY).read_text()
    assert change[0] in text
    wrong = tmp_path / "wrong_toy.py"
    name = f"toy{len(says)}"
    text = text.replace(*change).replace('"toy', f'"{name}').replace("'toy", f"'{name}")
    wrong.write_text(text)
    flags = words(f"--block-type {name} --no-use-moe --precision fp32 --steps 4")
    trainings.train(f"wrong-{name}", "--plugins", str(wrong), *flags, code=2)
    told = " ".join(trainings.output(f"wrong-{name}").split())
    assert says.replace("toy", name) in told


def test_counts_of_layers_add_up(tiny_config: Config) -> None:
    load_plugins((TOY,))
    network = lumina.build_model(
        tiny_config.replace(block_type=("toy",), vocab_size=64)
    )
    ids = torch.arange(40).view(2, 20)
    _, aux = network(Batch.from_rows(ids, ids))
    assert aux["toy.bins"].sum() == network.spec.num_layers * ids.numel() == 80
