"""Runs over several sources: killed and resumed, on several ranks, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mechanisms import mechanism
from tiny_runs import Runs, story, write_conversations
from training import (
    DENSE,
    SHAPE,
    Running,
    assert_ranks_end,
    assert_same_run,
    column,
    events,
    reached,
    start,
    start_ranks,
    wait_until,
    words,
)

SCHEDULE = ["--source-schedule", "0:0.75", "3:base=1,chat=3"]
RHYTHM = words("--steps 6 --precision fp32 --save-every-n-batches 2 --dropout 0.1")


def sources(folder: Path) -> list[str]:
    """Flags of two sources: short texts and conversations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.txt").write_text(story(120))
    write_conversations(folder / "chat.jsonl", 60)
    return ["--sources", f"base={folder}/base.txt", f"chat={folder}/chat.jsonl"]


def begin(run: Path, *flags: str, **environment: str) -> Running:
    command = ["train", *SHAPE, *DENSE, *RHYTHM, *flags, "--run-dir", str(run)]
    return start(command, run.with_suffix(".log"), **environment)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@mechanism(
    "killed in a mixture",
    component="data",
    failure="SIGKILL of a run on several sources with shares",
    recovery="resume",
    expected="the position of every source is kept; figures as undisturbed",
)
@pytest.mark.faults
@pytest.mark.covers("DAT-12")
def test_a_mixture_that_was_killed_goes_on_to_the_bit(tmp_path: Path) -> None:
    """The shares change between the checkpoint that is left and the kill."""
    flags = [*sources(tmp_path / "data"), *SCHEDULE]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    running = begin(killed, *flags, HOLD_AFTER="5")
    wait_until(reached(killed, 5), running)
    running.kill()
    assert begin(killed, *flags, "--auto-resume").wait() == 0
    assert begin(whole, *flags).wait() == 0
    assert_same_run(killed, whole)
    names = ("source.base.loss", "source.chat.loss", "epoch.chat", "epoch.base")
    for name in (*names, "source.base.weight", "source.chat.tokens"):
        assert column(killed, name) == column(whole, name) and column(whole, name)
    assert column(whole, "source.base.weight") == [0.75] * 3 + [0.25] * 3


@pytest.mark.thorough
@pytest.mark.covers("DST-01: gloo")
def test_two_ranks_take_the_rows_of_one_from_stores_made_once(tmp_path: Path) -> None:
    flags = [*sources(tmp_path / "data"), *SCHEDULE, "--batch-size", "2"]
    flags += ["--dropout", "0"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    command = ["train", *SHAPE, *DENSE, *RHYTHM, *flags, "--run-dir", str(shared)]
    cache = {"LUMINA_CACHE": str(tmp_path / "cache")}
    _place, ranks = start_ranks(command, shared, **cache)
    assert_ranks_end(ranks)
    stores = list((tmp_path / "cache" / "stores").iterdir())
    assert len([s for s in stores if s.is_dir() and s.name[0] != "."]) == 2, stores
    before = {path: path.stat().st_mtime_ns for path in stores}
    assert begin(alone, *flags, **cache).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("loss", "source.base.loss", "source.chat.loss"):
        assert column(shared, name) == pytest.approx(column(alone, name), rel=1e-5)
    for name in ("epoch.base", "epoch.chat", "loss_tokens", "source.base.eval_loss"):
        assert column(shared, name) == pytest.approx(column(alone, name), rel=1e-5)


def test_other_shares_at_a_resume_hold_from_there_on(runs: Runs) -> None:
    code = runs.folder / "code.txt"
    code.write_text("<|endoftext|>".join(f"y = x * {n} + 1\n" for n in range(60)))
    start: dict[str, Any] = {
        "sources": (f"base={runs.data}", f"code={code}"),
        "train_data": (),
        "source_weights": ("0.75",),
    }
    first = runs.train(**start, steps=2)
    again = runs.train(
        **start | {"source_weights": ("base=1,code=3",)},
        steps=4,
        run_dir=None,
        resume=str(first.folder),
    )
    assert again.column("source.base.weight") == [0.75, 0.75, 0.25, 0.25]
    assert [part["row"] for part in again.cursor["parts"]] == [8, 8]


@pytest.mark.thorough
@pytest.mark.covers("DAT-22: force streaming")
def test_streamed_sources_train_and_go_on_to_the_bit(runs: Runs) -> None:
    chat = write_conversations(runs.folder / "chat.jsonl", 60)
    start: dict[str, Any] = {
        "sources": (f"base={runs.data}", f"chat={chat}"),
        "train_data": (),
        "data_loading": "streaming",
    }
    text = runs.refused("E002", **start)
    assert "nothing says how many rows" in text
    start |= {"source_weights": ("0.75",), "eval_batches": 2}
    whole = runs.train(**start, steps=6)
    part = runs.train(**start, steps=3)
    on = runs.train(**start, steps=6, run_dir=None, resume=str(part.folder))
    for name in ("loss", "source.base.loss", "source.chat.loss", "epoch.chat"):
        assert on.column(name) == whole.column(name) and None not in on.column(name)
    assert on.cursor == whole.cursor
    assert [part["rows"] for part in on.cursor["parts"]] == [18, 6]
    assert whole.column("source.base.weight") == [0.75] * 6
    last = whole.rows[-1]
    assert last["source.base.eval_loss"] != last["source.chat.eval_loss"]
    assert "sources base" in whole.printed and "streaming" in whole.printed
    # A source above the threshold is enough.
    large = runs.train(
        **start | {"data_loading": "auto", "streaming_threshold_gb": 1e-6}, steps=2
    )
    assert large.column("loss") == whole.column("loss")[:2]


@pytest.mark.thorough
def test_distillation_goes_on_to_the_bit(runs: Runs) -> None:
    """The frozen copy is that of the first step, from the checkpoint, not from disk."""
    chat = write_conversations(runs.folder / "chat.jsonl", 60)
    base = runs.train(steps=2, precision="bf16")
    start: dict[str, Any] = {
        "sources": (f"base={runs.data}", f"chat={chat}"),
        "source_weights": ("0.5",),
        "train_data": (),
        "precision": "bf16",
        "preserve_base_knowledge": True,
        "preservation_method": "outputs",
    }
    first = {"init_from": str(base.folder)}
    whole = runs.train(**start, **first, steps=4)
    part = runs.train(**start, **first, steps=2)
    base.folder.rename(runs.folder / "elsewhere")
    on = runs.train(**start, steps=4, run_dir=None, resume=str(part.folder))
    for name in ("loss", "base_divergence", "grad_norm"):
        assert on.column(name) == whole.column(name)
    assert on.column("base_divergence")[2] > 0
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, on.tensors[name]), name


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("E002", {"train_data": ("x.txt",)}, "every source names its own"),
        ("E002", {"source_weights": ("a=1",)}, "the sources are a, b"),
        ("E005", {"source_weights": ("a=1,b=-1",)}, "'b=-1'"),
        ("E005", {"source_weights": ("1.5",)}, "from 0 to 1"),
        ("E005", {"source_schedule": ("5:0.5",)}, "steps of source_schedule are 5"),
        ("E002", {"source_weights": ("0.5",), "source_temperature": 2.0}, "all say"),
        ("E002", {"source_eval_data": ("c=x",)}, "names c"),
        ("E002", {"tasks": ("t=x", "u=y")}, "tasks"),
    ],
)
def test_what_makes_no_sense_is_refused(
    code: str, options: dict[str, Any], words: str, runs: Runs
) -> None:
    start: dict[str, Any] = {"sources": ("a=x", "b=y"), "train_data": ()}
    assert words in runs.refused(code, **start | options)


def test_a_source_without_a_token_to_learn_is_named(runs: Runs) -> None:
    (runs.folder / "none.jsonl").write_text('{"text": ""}\n{"text": ""}\n')
    sources = (f"base={runs.data}", f"none={runs.folder}/none.jsonl")
    assert "none" in runs.refused("E105", sources=sources, train_data=())


def test_events_say_nothing_of_sources_where_there_are_none(runs: Runs) -> None:
    run = runs.train(steps=1)
    assert not [key for row in run.rows for key in row if key.startswith("source.")]
    assert not events(run.folder, "source")
