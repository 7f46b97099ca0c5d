"""Runs on streamed text: killed, resumed, on other threads and rows of a forward."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lumina import Trainer
from lumina.data.tokenizer import Tokenizer
from mechanisms import mechanism
from tiny_runs import Run, Runs, same, write_conversations
from training import start_process

STREAM = {
    "data_loading": "streaming", "iterate": True, "shuffle_buffer": 8,
    "save_every_n_batches": 3, "steps": 9, "global_batch_size": 32, "batch_size": 32,
}  # fmt: skip
"""A window is about eight rows, so that a step takes several."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def resumed(runs: Runs, run: Path, **leaves: Any) -> Run:
    return runs.train(resume=str(run), run_dir=None, **(STREAM | leaves))


def _killed(case: tuple[Path, dict[str, Any]]) -> None:
    """A process that ends itself in the middle of a step, as `kill -9` does."""
    folder, leaves = case

    def kill(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 5:
            # The checkpoint of step 3 is written in the background.
            while not (folder / "killed" / "checkpoints" / "LATEST").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    runs = Runs(folder, pytest.MonkeyPatch())
    Trainer(runs.config(**leaves), on_step=kill).train()


@mechanism(
    "killed while it streams",
    component="data",
    failure="SIGKILL of a run that reads its data as a stream",
    recovery="resume",
    expected="goes on with the next row; figures as undisturbed",
)
@pytest.mark.covers("DAT-32: multi-GB files", "CKP-13: recovery from crash")
def test_a_killed_run_goes_on_to_the_bit(runs: Runs) -> None:
    straight = runs.train(**STREAM)
    assert straight.cursor["pass"] == 1 and straight.cursor["window"] > 1
    folder = runs.folder / "killed"
    child = start_process(_killed, (runs.folder, {**STREAM, "run_dir": str(folder)}))
    child.join()
    assert child.exitcode == -signal.SIGKILL
    again = resumed(runs, folder, num_workers=3)
    assert again.cursor == straight.cursor
    assert again.column("data.documents") == straight.column("data.documents")
    for name, tensor in straight.tensors.items():
        assert same(tensor, again.tensors[name]), name


@pytest.mark.covers("TRN-32: iterate mode")
def test_without_iterate_the_run_ends_with_the_data(runs: Runs) -> None:
    run = runs.train(data_loading="streaming", steps=8, global_batch_size=32)
    used = run.cursor["rows"]
    assert run.result.reason == "all data used" and run.cursor["over"]
    judged = [row["step"] for row in run.rows if "eval_loss" in row]
    assert run.result.steps < 8 and judged[-1] == run.result.steps
    again = runs.train(
        resume=str(run.folder), run_dir=None, steps=16, iterate=True
    )  # goes on with the next pass
    assert again.result.steps == 16 and again.cursor["rows"] == used + 10 * 4


@pytest.mark.covers("DAT-27: caching", "MTX-28: caching")
def test_a_second_run_takes_tokenizer_and_held_out_tokens_from_the_cache(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made from the beginning of the stream once; other text has others."""
    from lumina.data.streaming import head

    monkeypatch.setenv("LUMINA_CACHE", str(runs.folder / "own"))
    made: list[str] = []
    train, encode = Tokenizer.train, head.encode_documents
    monkeypatch.setattr(
        Tokenizer, "train", lambda *a, **n: made.append("tokenizer") or train(*a, **n)
    )
    monkeypatch.setattr(
        head,
        "encode_documents",
        lambda *a, **n: made.append("held out") or encode(*a, **n),
    )
    asked = {"data_loading": "streaming", "steps": 1, "eval_fraction": 0.2}
    first = runs.train(**asked)
    assert sorted(made) == ["held out", "tokenizer"]
    second = runs.train(**asked)
    assert sorted(made) == ["held out", "tokenizer"]
    assert second.column("eval_loss") == first.column("eval_loss")
    assert second.first_loss == first.first_loss
    runs.data.write_text(runs.data.read_text() + " More hens, and a lake.")
    runs.train(**asked)
    assert sorted(made) == ["held out", "held out", "tokenizer", "tokenizer"]


def test_conversations_are_streamed_with_the_loss_of_a_store(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(runs.folder / "own"))  # names this file
    chats = str(write_conversations(runs.folder / "talk.jsonl"))
    same_data = {"train_data": (chats,), "eval_fraction": 0.0, "global_batch_size": 1}
    same_data |= {"batch_size": 1, "steps": 10**4, "seq_length": 64}
    streamed = runs.train(data_loading="streaming", **same_data)
    stored = runs.train(**(same_data | {"steps": None, "epochs": 1}))
    taught = [sum(run.column("loss_tokens")) for run in (streamed, stored)]
    assert taught[0] == taught[1] > 0
    told = [{e["kind"]: e["message"] for e in run.events} for run in (streamed, stored)]
    for kind in ("data_forms", "data_example", "chat_template"):
        assert told[0][kind] == told[1][kind]
    assert "⟦" in told[0]["data_example"] and "(ids " in told[0]["data_example"]


def test_tools_and_weights_are_streamed_as_they_are_stored(runs: Runs) -> None:
    data = runs.folder / "tools.jsonl"
    call = {"name": "add", "arguments": {"a": 1}}
    lines = [
        [
            {"role": "user", "content": f"What is {n} and 1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": f"{n + 1}"},
            {"role": "assistant", "content": f"It is {n + 1}.", "weight": 0.5},
        ]
        for n in range(40)
    ]
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in lines))
    same_data = {"train_data": (str(data),), "eval_fraction": 0.0, "seq_length": 64}
    same_data |= {"global_batch_size": 1, "batch_size": 1, "steps": 10**4}
    streamed = runs.train(data_loading="streaming", **same_data)
    stored = runs.train(**(same_data | {"steps": None, "epochs": 1}))
    for run in (streamed, stored):
        assert Tokenizer.from_path(run.folder / "tokenizer").has_tools
    sums = [
        (sum(run.column("loss_tokens")), sum(run.column("loss_weight")))
        for run in (streamed, stored)
    ]
    assert sums[0] == sums[1] and 0 < sums[0][1] < sums[0][0]


def test_bad_records_are_counted_while_the_run_goes_on(runs: Runs) -> None:
    data = runs.folder / "bad.jsonl"
    lines = [json.dumps({"text": f"The number {n} is here."}) for n in range(400)]
    lines[30] = "{broken"
    lines[350] = json.dumps({"text": 5})
    data.write_text("\n".join(lines))
    run = runs.train(
        train_data=(str(data),), data_errors="skip", data_loading="streaming",
        shuffle_buffer=8, steps=10**4, global_batch_size=32,
    )  # fmt: skip
    assert run.rows[-1]["data.skipped"] == 2 and run.cursor["skipped"] == 2
    found = [e["data"]["line"] for e in run.events if e["kind"] == "data_skipped"]
    assert {31, 351} == set(found)


def test_conversations_in_a_later_file_are_found_before_the_run(runs: Runs) -> None:
    chats = str(write_conversations(runs.folder / "talk.jsonl"))
    run = runs.train(train_data=(str(runs.data), chats), data_loading="streaming")
    assert Tokenizer.from_path(run.folder / "tokenizer").chat_format is not None
    assert run.result.steps == 3


def test_what_streaming_cannot_do_is_refused(runs: Runs) -> None:
    stream = {"data_loading": "streaming"}
    assert "no known number" in runs.refused("E002", **stream, steps=None, epochs=2)
    assert "tasks" in runs.refused(
        "E002", **stream, train_data=(), tasks=("a=x.txt", "b=y.txt")
    )
