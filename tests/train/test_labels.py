"""Steps and rows without any label: no loss is made up, and they are told of."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import pytest

from training import Trainings, events, rows, words

FLAGS = words(
    "--no-use-moe --precision fp32 --eval-fraction 0 --global-batch-size 2 "
    "--batch-size 1 --steps 10"
)


@pytest.fixture(scope="module")
def on_long_questions(tmp_path_factory: pytest.TempPathFactory, lumina_cache):
    """Conversations whose question fills rows, and whose answer is short."""
    path = tmp_path_factory.mktemp("long") / "chat.jsonl"
    with path.open("w") as file:
        for n in range(6):
            letters = random.Random(n).choices(string.ascii_letters, k=200)
            question = "".join(letters)
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"Yes, {n}."},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return Trainings(path.parent, path, FLAGS)


@pytest.fixture(scope="module")
def alone(on_long_questions) -> Path:
    """The run in one process."""
    run: Path = on_long_questions.train("alone")
    return run


def test_a_step_without_labels_has_no_loss(on_long_questions, alone: Path) -> None:
    losses = [row["loss"] for row in rows(alone)]
    assert None in losses and any(losses), losses
    for row in rows(alone):
        assert (row["perplexity"] is None) == (row["loss"] is None)
        assert row["loss"] is None or row["loss"] > 1
    last = [loss for loss in losses if loss is not None][-1]
    status = json.loads((alone / "status.json").read_text())
    assert status["data"]["final_loss"] == pytest.approx(last)
    assert "loss —" in on_long_questions.output("alone")


def test_rows_without_labels_are_counted_and_told(
    on_long_questions, alone: Path
) -> None:
    (event,) = events(alone, "data_rows_without_labels")
    assert event["severity"] == "warning"
    told = event["data"]
    assert 0 < told["count"] < told["rows"]
    assert f"{told['count']} of {told['rows']} rows have no label" in event["message"]
    assert "--seq-length" in event["message"]
    assert "rows have no label" in on_long_questions.output("alone")


def test_a_resumed_run_without_a_label_keeps_the_last_loss(
    on_long_questions, alone: Path
) -> None:
    losses = [row["loss"] for row in rows(alone)]
    # After `done` steps the last one had a label, and the next one has none.
    done = next(k for k in range(1, len(losses)) if losses[k] is None and losses[k - 1])
    steps = ["--warmup-steps", "1", "--steps"]
    run = on_long_questions.train("cut", *steps, str(done))
    on_long_questions.train("cut", *steps, str(done + 1), "--auto-resume")
    found = [row["loss"] for row in rows(run)]
    assert found[done] is None
    status = json.loads((run / "status.json").read_text())
    assert status["data"]["final_loss"] == pytest.approx(found[done - 1])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_the_loss_is_null_only_where_no_rank_has_a_label(
    on_long_questions, alone: Path, parallel: str
) -> None:
    run = on_long_questions.train_on_ranks(parallel, "--parallel", parallel)
    found, wanted = ([row["loss"] for row in rows(r)] for r in (run, alone))
    assert [loss is None for loss in found] == [loss is None for loss in wanted]
    assert [x for x in found if x is not None] == pytest.approx(
        [x for x in wanted if x is not None], rel=1e-4
    )
