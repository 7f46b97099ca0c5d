"""Steps and rows without any label: no loss is made up, and they are told of."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import pytest
import torch

from lumina.batch import IGNORE
from lumina.config import Config
from lumina.data.packed_stream import BatchStream
from lumina.data.prepare import prepare
from training import MOE, Trainings, events, final_tensors, rows, words

FLAGS = words(
    "--no-use-moe --precision fp32 --eval-fraction 0 --global-batch-size 2 "
    "--batch-size 1 --steps 10 --long-conversations cut"
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


def test_every_look_at_a_step_without_labels(on_long_questions, alone: Path) -> None:
    """None of them ends the run or changes it, and what there is not is null."""
    looks = ["weight-changes", "step-times", "attention-stats", "layer-profile"]
    every = [flag for look in looks for flag in (f"--{look}-every", "1")]
    run = on_long_questions.train(
        "looked", *every, *words("--log-every-n-batches 1 --qk-clip 1000")
    )
    assert [row["loss"] for row in rows(run)] == [row["loss"] for row in rows(alone)]
    for row in rows(run):
        learned = row["loss"] is not None
        assert (row["gradient_variance"] is not None) == learned
        assert (row["clipped_heads"] is not None) == learned
        assert any(key.startswith("group.") for key in row) == learned
        assert row["forward_time"] > 0


def unlabelled_steps(run: Path) -> list[int]:
    return [row["step"] for row in rows(run) if row["loss_tokens"] == 0]


EVERY_STEP = words(
    "--save-every-n-batches 1 --save-total-limit 20 --ema-decay 0.9 --weight-decay 0.5"
)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("adamw", []),
        ("atan2", words("--optimizer adam_atan2")),
        ("moe", [*MOE, *words("--moe-bias-update-rate 0.1")]),
    ],
)
def test_a_step_without_labels_leaves_all_that_was_learned_as_it_is(
    on_long_questions, name: str, flags: list[str]
) -> None:
    run = on_long_questions.train(f"kept-{name}", *flags, *EVERY_STEP)
    empty = unlabelled_steps(run)
    assert empty and len(empty) < 10
    later = [step for step in empty if step > 1]
    for step in range(2, 11):
        before, after = final_tensors(run, step - 1), final_tensors(run, step)
        assert before.keys() == after.keys()
        assert any("ema" in key or "average" in key for key in after), sorted(after)
        same = {key for key in after if torch.equal(before[key], after[key])}
        if step in later:
            assert same == set(after), set(after) - same
        else:
            assert set(after) - same, step
    # The schedule and the data go on.
    found = rows(run)
    for step in later:
        one, two = found[step - 2], found[step - 1]
        assert one["learning_rate"] != two["learning_rate"]
        assert two["tokens"] > one["tokens"] and two["epoch"] > one["epoch"]
        assert two["grad_norm"] is None
    last = events(run, "step_without_labels")[-1]
    assert last["severity"] == "warning" and "weights did not change" in last["message"]
    assert last["data"]["count"] == 2 ** (len(empty).bit_length() - 1)
    page = (run / "report.html").read_text()
    assert f"<span>steps without a label</span><b>{len(empty)}</b>" in page


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


@pytest.mark.thorough
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
    assert {"one", "none"} <= set(ranks_with_labels(on_long_questions.data))
    ours, theirs = final_tensors(run), final_tensors(alone)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5, msg=key)


def ranks_with_labels(data: Path) -> list[str]:
    """Of each of the ten steps: whether both ranks, one or none has a label."""
    config = Config(
        train_data=(str(data),), eval_fraction=0.0, tokenizer_vocab_size=300
    )
    stream = BatchStream(
        prepare(config).train, seq_length=32, global_batch_size=2, seed=7
    )
    cursor, found = stream.start, []
    for _ in range(10):
        shares = [
            stream.step(cursor, rank=rank, data_ranks=2, micro_batch_size=1)
            for rank in (0, 1)
        ]
        having = [(s.micro_batches[0].labels != IGNORE).any().item() for s in shares]
        found.append({0: "none", 1: "one", 2: "both"}[sum(having)])
        cursor = shares[0].cursor
    return found


def test_an_evaluation_without_a_label_is_no_worse_one(on_long_questions) -> None:
    """It would end a run that has patience for one bad evaluation."""
    path = on_long_questions.folder / "held-out.jsonl"
    record = json.loads(on_long_questions.data.read_text().splitlines()[0])
    record["messages"][0]["content"] *= 5
    path.write_text(json.dumps(record) + "\n")
    flags = words(
        "--eval-batches 1 --eval-every-n-batches 2 --early-stopping-patience 1"
    )
    run = on_long_questions.train("judged", "--eval-data", str(path), *flags)
    found = rows(run)
    assert found[-1]["step"] == 10
    judged = [row for row in found if "eval_loss" in row]
    assert len(judged) == 5 and all(row["eval_loss"] is None for row in judged)
    told = events(run, "evaluation_without_labels")
    assert [event["step"] for event in told] == [row["step"] for row in judged]
    said = " ".join(on_long_questions.output("judged").split())
    assert "so there is no held-out loss" in said and " nan" not in said
