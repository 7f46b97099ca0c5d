"""Runs on conversations longer than a row: what is told, kept and gone on with."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
from pathlib import Path

import pytest
import yaml

from lumina import evaluate
from reported_run import section
from training import (
    DENSE,
    Trainings,
    assert_same_run,
    column,
    events,
    rows,
    words,
)

FLAGS = [
    *DENSE,
    *words("--precision fp32 --global-batch-size 2 --batch-size 1 --steps 6"),
    *words("--save-every-n-batches 3"),
]


def talk(draw: random.Random, number: int) -> list[dict[str, str]]:
    """A short question or one longer than a row, and answers of all lengths."""
    question = draw.choice(["What is it?", "x" * 150])
    answer = f"It is {number}. " * draw.choice([1, 30])
    return [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": f"{question} {number}"},
        {"role": "assistant", "content": answer},
    ]


@pytest.fixture(scope="module")
def on_long_talks(tmp_path_factory: pytest.TempPathFactory, lumina_cache):
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("talks") / "chat.jsonl"
    lines = [json.dumps({"messages": talk(draw, n)}) for n in range(24)]
    path.write_text("\n".join(lines) + "\n")
    return Trainings(path.parent, path, FLAGS)


@pytest.fixture(scope="module")
def split(on_long_talks) -> Path:
    run: Path = on_long_talks.train("split")
    return run


def told(text: str) -> str:
    """Printed text with its lines joined."""
    return " ".join(text.split())


def test_every_step_has_a_label_and_it_is_told(on_long_talks, split: Path) -> None:
    assert all(row["loss_tokens"] > 0 for row in rows(split))
    assert not events(split, "data_rows_without_labels")
    (event,) = events(split, "data_long_conversations")
    count = event["data"]["conversations"]
    assert 5 < count < 24 and event["data"]["pieces"] > count
    sentence = f"{count} conversations are longer than a row of 32 tokens: split into"
    assert sentence in event["message"]
    assert "no answer is lost" in event["message"]
    assert sentence in told(on_long_talks.output("split"))
    assert sentence in told(on_data(split))


def on_data(run: Path) -> str:
    """The words of the report's section on data."""
    return html.unescape(re.sub(r"<[^>]*>", " ", section(run, "data")))


@pytest.mark.parametrize("mode", ["truncate", "drop"])
def test_what_is_lost_is_told(on_long_talks, mode: str) -> None:
    run = on_long_talks.train(mode, "--long-conversations", mode)
    (event,) = events(run, "data_long_conversations")
    lost = event["data"]["tokens_lost"]
    assert event["severity"] == "warning" and lost > 100
    for place in (event["message"], told(on_long_talks.output(mode)), on_data(run)):
        assert f"{lost:,}" in told(place)
        assert f"--long-conversations {mode}" in told(place)


@pytest.mark.thorough
def test_two_ranks_train_on_the_same_pieces(on_long_talks, split: Path) -> None:
    run = on_long_talks.train_on_ranks("ranks")
    assert column(run, "loss") == pytest.approx(column(split, "loss"), rel=1e-4)
    assert column(run, "loss_tokens") == column(split, "loss_tokens")


def test_a_run_goes_on_with_its_pieces(on_long_talks, split: Path) -> None:
    # As killed behind the checkpoint of step 3: the same rows follow.
    run = on_long_talks.train("again")
    cut_off(run, 3)
    on_long_talks.train("again", "--auto-resume")
    assert_same_run(run, split)
    other = on_long_talks.start(
        "again", "--auto-resume", "--long-conversations", "drop", "--steps", "8"
    )
    assert other.wait() == 2
    assert "long_conversations split -> drop" in " ".join(other.output.split())


def cut_off(run: Path, step: int) -> None:
    """Leave a run as a kill after the checkpoint of `step` leaves it."""
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    for name in ("LATEST", "BEST"):
        (run / "checkpoints" / name).unlink(missing_ok=True)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"status": "running"}))


def test_an_older_run_goes_on_with_conversations_cut(on_long_talks) -> None:
    whole = on_long_talks.train("older-whole", "--long-conversations", "cut")
    run = on_long_talks.train("older", "--long-conversations", "cut")
    cut_off(run, 3)
    config = run / "config.yaml"
    values = yaml.safe_load(config.read_text())
    del values["config_version"], values["data"]["long_conversations"]
    values["asked"].remove("long_conversations")
    config.write_text(
        yaml.safe_dump(values)
    )  # as a version without the option wrote it
    on_long_talks.train("older", "--auto-resume")
    assert_same_run(run, whole)
    assert "long_conversations: cut" in config.read_text()
    (event,) = events(run, "data_long_conversations")[-1:]
    assert "without their question" in event["message"]


def test_evaluation_of_files_divides_as_the_run_did(on_long_talks, split: Path) -> None:
    draw = random.Random(9)
    path = on_long_talks.folder / "held-out.jsonl"
    lines = [json.dumps({"messages": talk(draw, n)}) for n in range(40, 60)]
    path.write_text("\n".join(lines) + "\n")
    flags = ["--eval-data", str(path), "--eval-batches", "100"]
    found = {}
    for mode in ("split", "truncate"):
        run = on_long_talks.train(
            f"judged-{mode}", *flags, "--long-conversations", mode
        )
        kinds: list[str] = []

        def note(kind: str, kinds: list[str] = kinds, **_: object) -> None:
            kinds.append(kind)

        outcome = evaluate(run, path, device="cpu", on_event=note)
        assert outcome.loss == pytest.approx(rows(run)[-1]["eval_loss"], rel=1e-5)
        assert "data_long_conversations" in kinds
        found[mode] = outcome.tokens
    assert found["split"] > found["truncate"]
