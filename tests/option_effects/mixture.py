"""Options of a mixture: which rows come from which source."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from lumina.cache_root import cache_root
from option_effects import shows
from tiny_runs import Run, Runs, seen


def two_sources(runs: Runs) -> dict[str, Any]:
    """Options of two sources of different size; their files lie beside the runs."""
    code = runs.folder / "code.txt"
    code.write_text("<|endoftext|>".join(f"y = x * {n} + 1\n" for n in range(40)))
    sources = (f"story={runs.data}", f"code={code}")
    return {"sources": sources, "train_data": (), "eval_batches": 4, "steps": 4}


def rows_of(run: Run) -> tuple[int, ...]:
    """How many rows each source gave, from the checkpoint."""
    parts: Any = run.cursor["parts"]
    sizes = [run.rows[-1][f"epoch.{name}"] for name in ("story", "code")]
    assert all(size > 0 for size in sizes)
    return tuple(part["row"] for part in parts)


@shows("sources")
def several(runs: Runs) -> None:
    run = runs.train(**two_sources(runs))
    last = run.rows[-1]
    assert last["source.story.weight"] > 0.8
    assert last["source.story.loss"] != last["source.code.loss"]
    assert last["source.story.tokens"] + last["source.code.tokens"] == pytest.approx(1)
    assert {"source.story.eval_loss", "source.code.eval_loss"} <= last.keys()
    assert "sources" in run.printed and "shares story" in run.printed


@pytest.mark.thorough
@shows("source_eval_data")
def held_out_files(runs: Runs) -> None:
    other = runs.folder / "other.txt"
    other.write_text("Entirely different words, over and over.\n" * 40)
    split, given = runs.both(
        "source_eval_data", (), (f"code={other}",), **two_sources(runs)
    )
    ends = [run.rows[-1] for run in (split, given)]
    assert ends[0]["source.code.eval_loss"] != ends[1]["source.code.eval_loss"]


@pytest.mark.covers("DAT-11: base_finetuning_ratio")
@shows("source_weights")
def shares(runs: Runs) -> None:
    most, half = runs.both(
        "source_weights", ("story=3,code=1",), ("0.5",), **two_sources(runs)
    )
    assert rows_of(most) == (12, 4) and rows_of(half) == (8, 8)


@pytest.mark.thorough
@shows("source_temperature")
def temperature(runs: Runs) -> None:
    sized, even = runs.both("source_temperature", None, 100.0, **two_sources(runs))
    assert rows_of(sized)[1] < 4 and rows_of(even) == (8, 8)


@pytest.mark.covers("DAT-12")
@shows("source_schedule")
def schedule(runs: Runs) -> None:
    """The shares change at the steps that the schedule names."""
    fixed, moved = runs.both(
        "source_schedule", ("0:0.75",), ("0:0.75", "2:0.25"), **two_sources(runs)
    )
    assert rows_of(fixed) == (12, 4) and rows_of(moved) == (8, 8)
    assert moved.column("source.story.weight") == [0.75, 0.75, 0.25, 0.25]


def rows_taken(runs: Runs, **options: Any) -> list[int]:
    """The numbers of the rows of one epoch, in order."""
    found: list[Any] = []
    runs.train(
        seen(lambda _, batches: [row for _, row in batches.row_ids], found),
        epochs=2, steps=None, global_batch_size=64, batch_size=64, **options,
    )  # fmt: skip
    return [row for step in found for row in step]


@pytest.mark.covers("DAT-42", "DAT-16")
@pytest.mark.thorough
@shows("curriculum", "curriculum_epochs", "curriculum_spread")
def easy_first(runs: Runs) -> None:
    lengths = [60 if n % 3 else 5 for n in range(60)]
    runs.data.write_text("<|endoftext|>".join("word " * n for n in lengths))
    shuffled = rows_taken(runs)
    size = len(shuffled) // 2
    strict = rows_taken(runs, curriculum="length", curriculum_spread=0.0)
    mixed = rows_taken(runs, curriculum="length", curriculum_spread=1.0)
    twice = rows_taken(runs, curriculum="length", curriculum_spread=0.0,
                       curriculum_epochs=2)  # fmt: skip
    for rows in (shuffled, strict, mixed, twice):
        assert sorted(rows[:size]) == sorted(rows[size:]) == list(range(size))
    assert strict[:size] == twice[:size] == twice[size:] != strict[size:]
    assert len({tuple(rows[:size]) for rows in (shuffled, strict, mixed)}) == 3
    text = runs.refused("E002", curriculum="length", data_loading="streaming")
    assert "data_loading streaming is set" in text


@pytest.mark.covers("DAT-17", "DAT-18: treatment of rare tokens")
@pytest.mark.thorough
@shows("sample_by", "sample_power")
def by_score(runs: Runs) -> None:
    """Some rows come several times, the more the higher the power."""
    evenly = rows_taken(runs)
    rows = len(set(evenly))
    kinds = [
        len(set(rows_taken(runs, sample_by="rarity", sample_power=power)))
        for power in (1.0, 20.0)
    ]
    assert rows >= kinds[0] > kinds[1]
    assert rows_taken(runs, sample_by="rarity") != evenly


@pytest.mark.covers("DAT-17", "DAT-42")
@pytest.mark.thorough
@shows("quality_field")
def by_quality(runs: Runs) -> None:
    """Records with a high score come last, or more often; a bad score is named."""
    data = runs.folder / "scored.jsonl"
    scores = [n % 5 + 1 for n in range(40)]

    def write(first: object) -> None:
        records = [
            {
                "text": " ".join(f"{n * k} day" for k in range(30)),
                "score": score if n else first,
            }
            for n, score in enumerate(scores)
        ]
        data.write_text("".join(json.dumps(one) + "\n" for one in records))

    write(scores[0])
    start = {"train_data": (str(data),), "quality_field": "score", "seq_length": 48,
             "eval_fraction": 0.0, "shard_size_mb": 1}  # fmt: skip
    rows = rows_taken(runs, curriculum="quality", curriculum_spread=0.0, **start)
    assert rows != rows_taken(runs, **start | {"quality_field": None})
    best = rows_taken(runs, sample_by="quality", sample_power=60.0, **start)
    assert len(rows) == len(best) > 4 * len(set(best))
    # The curriculum's first epoch ends with what is sampled: the best.
    size = len(rows) // 2
    assert set(rows[size - len(set(best)) : size]) == set(best)
    text = runs.refused("E002", **start)
    assert "not" in text and "ordered by their quality" in text
    assert "quality_field" in runs.refused("E002", sample_by="quality")
    plain = start | {"train_data": (str(runs.data),)}
    assert "plain text" in runs.refused("E002", sample_by="quality", **plain)
    for wrong in (None, "high", True):
        write(wrong)
        text = runs.refused("E102", sample_by="quality", **start)
        assert "scored.jsonl, line 1" in text
    write(-3)
    text = runs.refused("E002", sample_by="quality", **start)
    assert "some are negative, down to -3" in text


@pytest.mark.covers("DAT-19: progression of difficulty", "DAT-42")
@shows("score_model")
def by_loss(runs: Runs) -> None:
    """A checkpoint scores every row once; the rows come from its least loss on."""
    runs.monkeypatch.setenv("LUMINA_CACHE", str(runs.folder / "cache"))
    base = runs.train(steps=2)
    start = {"tokenizer": str(base.folder / "tokenizer"), "curriculum_spread": 0.0}
    scored = {"score_model": str(base.folder), "curriculum": "loss"}
    rows = rows_taken(runs, **start, **scored)
    kept = list((cache_root() / "row-losses").glob("*/losses.bin"))
    assert len(kept) == 1
    losses = np.fromfile(kept[0], dtype="<f4")
    size = len(rows) // 2
    assert rows[:size] == np.argsort(losses, kind="stable").tolist()
    # The second run reads what is kept, and another model scores anew.
    before = kept[0].stat().st_mtime_ns
    hard = runs.train(**start, score_model=str(base.folder), sample_by="loss", steps=1)
    assert kept[0].stat().st_mtime_ns == before and hard.rows
    other = runs.train(steps=3)
    runs.train(**start, **scored | {"score_model": str(other.folder)}, steps=1)
    assert len(list((cache_root() / "row-losses").glob("*/losses.bin"))) == 2
    assert "score_model" in runs.refused("E002", curriculum="loss")
    strange = runs.folder / "strange.txt"
    strange.write_text("<|endoftext|>".join(f"Ωω ж{n}ф" for n in range(99)))
    text = runs.refused("E002", **scored, train_data=(str(strange),))
    assert "another tokenizer" in text


@pytest.mark.covers("DAT-18: vocabulary coverage monitored")
@pytest.mark.thorough
@shows("watch_vocabulary")
def vocabulary(runs: Runs) -> None:
    """What was seen is counted by source, and goes on where a run is resumed."""
    ids: list[Any] = []
    watch = seen(
        lambda _, batches: [
            (batch.input_ids[batch.document_ids >= 0], batch.source_ids)
            for batch in batches.micro_batches
        ],
        ids,
    )
    start = two_sources(runs) | {"eval_every_n_batches": 2}
    run = runs.train(watch, **start, watch_vocabulary=True)
    taken = torch.cat([found for step in ids for found, _ in step])
    counts = torch.bincount(taken)
    known = json.loads((run.folder / "plan.json").read_text())["spec"]["vocab_size"]
    last = run.rows[-1]
    assert "vocabulary_seen" in last
    assert last["vocabulary_seen"] == pytest.approx(int((counts > 0).sum()) / known)
    rare = (counts > 0) & (counts < 10)
    assert last["vocabulary_rare"] == pytest.approx(int(rare.sum()) / known)
    assert run.rows[1]["vocabulary_seen"] < last["vocabulary_seen"]
    names = ("story", "code")
    each = [last[f"source.{name}.vocabulary_seen"] for name in names]
    assert max(each) < last["vocabulary_seen"] <= sum(each)
    (event,) = (e for e in run.events if e["kind"] == "vocabulary_seen")
    assert event["data"]["shares"]["vocabulary_seen"] == last["vocabulary_seen"]
    assert "tokens of the vocabulary" in run.printed
    part = runs.train(**start | {"steps": 2}, watch_vocabulary=True)
    on = runs.train(**start, watch_vocabulary=True, run_dir=None,
                    resume=str(part.folder))  # fmt: skip
    for key in last:
        if "vocabulary" in key:
            assert on.rows[-1][key] == last[key]
    plain = runs.train(**start)
    assert plain.column("loss") == run.column("loss")
    assert not [key for key in plain.rows[-1] if "vocabulary" in key]
