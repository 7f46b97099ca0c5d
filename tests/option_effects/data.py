"""Options of the data: which tokens there are, and which are learned from."""

from __future__ import annotations

import csv
import gzip
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lumina.batch import IGNORE
from lumina.data.sources import guard
from lumina.data.stream import StepBatches
from lumina.data.tokenizer import Tokenizer
from option_effects import shows
from tiny_runs import Program, Runs, same, seen, story, write_conversations

MIXTURE = str(Path(__file__).parents[1] / "seams" / "toy_data_source.py")


@pytest.mark.covers(
    "TRN-01: --train-data", "DAT-07: several files combined into one dataset"
)
@shows("train_data")
def training_data(runs: Runs) -> None:
    other = runs.folder / "other.txt"
    other.write_text(story(200, first=500))
    once = {"epochs": 1, "steps": None}
    one, two = runs.both("train_data", (str(runs.data),), (str(other),), **once)
    assert one.column("loss") != two.column("loss")
    both = runs.train(train_data=(str(runs.data), str(other)), **once)
    assert both.result.tokens > 1.8 * one.result.tokens


@pytest.mark.covers("TRN-01: --eval-data", "TRN-02: --eval-file")
@shows("eval_data")
def held_out_data(runs: Runs) -> None:
    other = runs.folder / "other.txt"
    other.write_text("Entirely different words, over and over.\n" * 40)
    split, given = runs.both("eval_data", (), (str(other),), epochs=1, steps=None)
    assert split.column("eval_loss") != given.column("eval_loss")
    # Nothing is split off any more, so there is more to train on.
    assert given.result.tokens > split.result.tokens


@pytest.mark.covers("DAT-39: fixed validation")
@shows("eval_fraction")
def held_out_share(runs: Runs) -> None:
    none, half = runs.both("eval_fraction", 0.0, 0.5, epochs=1, steps=None)
    assert none.result.best_eval_loss is None
    assert half.result.best_eval_loss == half.column("eval_loss")[-1]
    assert half.result.tokens == pytest.approx(none.result.tokens / 2, rel=0.05)


@pytest.mark.covers("DAT-39: stratified so the evaluation part is representative")
@shows("eval_split")
def even_split(runs: Runs) -> None:
    few = runs.folder / "few.txt"
    few.write_text("<|endoftext|>".join(f"A rare text {n}.\n" for n in range(10)))
    data = (str(runs.data), str(few))
    rest = {"train_data": data, "eval_fraction": 0.1, "steps": 1}
    by_hash, even = runs.both("eval_split", "hash", "stratified", **rest)
    assert even.column("eval_loss") != by_hash.column("eval_loss")
    streamed = {"data_loading": "streaming", "eval_split": "stratified"}
    assert "eval_split" in runs.refused("E002", train_data=data, **streamed)


@pytest.mark.covers("TOK-04: local tokenizer.json", "TOK-08: saved with checkpoints")
@shows("tokenizer")
def tokenizer(runs: Runs) -> None:
    folder = runs.folder / "tokenizer"
    mine = Tokenizer.train(iter([story(30)]), 280)
    mine.save(folder)
    trained, given = runs.both("tokenizer", None, str(folder), steps=1)
    kept = Tokenizer.from_path(given.folder / "tokenizer")
    assert kept.fingerprint == mine.fingerprint
    other = Tokenizer.from_path(trained.folder / "tokenizer")
    assert other.fingerprint != mine.fingerprint


@pytest.mark.covers("TOK-08: tokenizer training")
@shows("tokenizer_vocab_size")
def trained_vocabulary(runs: Runs) -> None:
    for size in (270, 300):
        run = runs.train(tokenizer_vocab_size=size, steps=1)
        assert Tokenizer.from_path(run.folder / "tokenizer").vocab_size == size


@pytest.mark.covers("DAT-14: assistant tokens alone")
@shows("loss_on")
def taught_turns(runs: Runs) -> None:
    data = write_conversations(runs.folder / "talk.jsonl")
    counts: dict[str, float] = {}
    for value in ("assistant", "all"):
        found: list[float] = []
        runs.train(
            seen(_taught, found), loss_on=value, train_data=(str(data),), steps=1
        )
        (counts[value],) = found
    assert 0 < counts["assistant"] < 0.6 and counts["all"] > 0.9


@pytest.mark.covers("DAT-14: assistant tokens weighted", "DAT-15")
@shows("role_weights", "turn_weights")
def weights_of_turns(runs: Runs) -> None:
    data = write_conversations(runs.folder / "weighed.jsonl")
    same_data = {"train_data": (str(data),), "steps": 2}
    plain = runs.train(**same_data)
    assert "loss_weight" not in plain.rows[0]
    by_role = runs.train(**same_data, role_weights=("assistant=1,user=0.1",))
    by_turn = runs.train(**same_data, turn_weights=(0.5,))
    first = [run.rows[0] for run in (plain, by_role, by_turn)]
    assert first[1]["loss_tokens"] > first[0]["loss_tokens"]
    weighed = first[1].get("loss_weight", 0.0)
    assert first[0]["loss_tokens"] < weighed < first[1]["loss_tokens"]
    # One weight for all labels is no weight at all: the mean is by weight.
    assert first[2].get("loss_weight") == first[2]["loss_tokens"] / 2
    assert first[2]["loss"] == pytest.approx(first[0]["loss"], rel=0.05)


def _taught(program: Program, batches: StepBatches) -> float:
    """The share of tokens that bear loss."""
    batch = batches.micro_batches[0]
    labels = (batch.labels != IGNORE).sum() / (batch.document_ids >= 0).sum()
    return float(labels)


@pytest.mark.covers("DAT-06")
@shows("format", "field")
def forms_of_records(runs: Runs) -> None:
    data = runs.folder / "asked.jsonl"
    lines = [
        {"question": f"Where did the fox go on day {n}?", "answer": f"To wood {n}."}
        | {"text": f"A story of day {n}, which is a long one."}
        for n in range(40)
    ]
    data.write_text("".join(json.dumps(one) + "\n" for one in lines))
    same_data = {"train_data": (str(data),), "steps": 1}
    named = ("question=prompt", "answer=completion")
    text = runs.train(**same_data)
    asked = runs.train(**same_data, format="prompt", field=named)
    assert asked.rows[0]["loss_tokens"] < 0.8 * text.rows[0]["loss_tokens"]
    (event,) = (e for e in asked.events if e["kind"] == "data_forms")
    assert event["data"]["forms"] == {"prompt": 40}
    (event,) = (e for e in asked.events if e["kind"] == "data_example")
    assert "⟦To wood" in event["message"]
    assert "question" in runs.refused("E102", **same_data, format="prompt")
    assert "prmpt" in runs.refused("E005", **same_data, format="prmpt")
    assert "NAME=FIELD" in runs.refused("E005", **same_data, field=("question",))
    assert "plain text" in runs.refused("E002", steps=1, format="prompt")


@pytest.mark.covers("TOK-07: chat template")
@shows("chat_template")
def template_of_conversations(runs: Runs) -> None:
    data = write_conversations(runs.folder / "asked.jsonl")
    template = runs.folder / "mine.jinja"
    template.write_text(
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>So: ' + m.content"
        " + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>So: ' }}{% endif %}"
    )
    same_data = {"train_data": (str(data),), "steps": 1}
    plain = runs.train(**same_data)
    mine = runs.train(**same_data, chat_template=str(template))
    shown = {}
    for run in (plain, mine):
        tokenizer = Tokenizer.from_path(run.folder / "tokenizer")
        shown[run.folder] = tokenizer.decode(
            tokenizer.chat_prompt([{"role": "user", "content": "Where?"}])
        )
        (event,) = (e for e in run.events if e["kind"] == "chat_template")
        assert "begin token stands in the first one once" in event["message"]
    assert shown[mine.folder].endswith("<|user|>So: Where?<|end|><|assistant|>So: ")
    assert "So:" not in shown[plain.folder]
    template.write_text("{{ messages[0].content }}")
    for choice in ("tokenizer", str(template)):
        runs.refused("E108", **same_data, chat_template=choice)
    runs.refused("E104", **same_data, chat_template=str(runs.folder / "none.jinja"))
    own = runs.train(
        **same_data, tokenizer=str(mine.folder / "tokenizer"), chat_template="lumina"
    )
    assert Tokenizer.from_path(own.folder / "tokenizer").templates is None


@shows("long_conversations")
def conversations_longer_than_a_row(runs: Runs) -> None:
    data = runs.folder / "long.jsonl"
    turns = [{"role": "user", "content": "What is it?"}]
    turns.append({"role": "assistant", "content": "It is the wood. " * 60})
    short = [turns[0], {"role": "assistant", "content": "Yes."}]
    lines = [json.dumps({"messages": some}) for some in (turns, short)]
    data.write_text("\n".join(lines * 4) + "\n")
    taught = {}
    for value in ("split", "truncate", "drop", "cut"):
        run = runs.train(
            train_data=(str(data),), long_conversations=value, eval_fraction=0.0,
            epochs=1, steps=None, seq_length=64, global_batch_size=1, batch_size=1,
            warmup_steps=0,
        )  # fmt: skip
        taught[value] = sum(row["loss_tokens"] for row in run.rows)
    assert taught["split"] == taught["cut"] > taught["truncate"] > taught["drop"] > 0


@pytest.mark.covers("CFG-09: E101 format")
@shows("data_errors")
def bad_records(runs: Runs) -> None:
    data = runs.folder / "bad.jsonl"
    lines = [json.dumps({"text": text}) for text in story(60).split("<|endoftext|>")]
    data.write_text("\n".join([*lines, "{broken", *lines]))
    message = runs.refused("E101", train_data=(str(data),), data_errors="fatal")
    assert "line 61" in message
    run = runs.train(train_data=(str(data),), data_errors="skip")
    (event,) = (e for e in run.events if e["kind"] == "data_skipped")
    assert event["code"] == "E101" and event["data"]["line"] == 61


@pytest.mark.covers("TOK-09: --ascii-only filter")
@shows("ascii_only")
def characters_beyond_ascii(runs: Runs) -> None:
    data = runs.folder / "odd.jsonl"
    texts = [story(3, first=n) + "Größe 漢" for n in range(40)] + ["漢字"] * 2
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rest = {"train_data": (str(data),), "eval_fraction": 0.0, "steps": 1}
    kept, filtered = runs.both("ascii_only", False, True, **rest)
    told = [one for one in filtered.events if one["kind"] == "data_ascii_only"]
    assert len(told) == 1
    assert told[0]["data"]["counts"] == {"characters": 3 * 40 + 2 * 2, "texts": 2}
    assert "124 characters beyond ASCII" in filtered.printed
    assert not [one for one in kept.events if one["kind"] == "data_ascii_only"]
    known = Tokenizer.from_path(filtered.folder / "tokenizer")
    assert kept.column("loss") != filtered.column("loss") and "漢" not in known.decode(
        range(known.vocab_size)
    )


@shows("max_record_bytes")
def longest_record(runs: Runs) -> None:
    data = runs.folder / "long.jsonl"
    lines = [json.dumps({"text": text}) for text in story(60).split("<|endoftext|>")]
    data.write_text("\n".join([*lines, json.dumps({"text": "long " * 500})]))
    message = runs.refused("E101", train_data=(str(data),), max_record_bytes=2000)
    assert "line 61" in message and "max_record_bytes" in message
    runs.train(train_data=(str(data),), max_record_bytes=4000, steps=1)


@shows("csv_columns")
def columns_of_a_table(runs: Runs) -> None:
    data = runs.folder / "data.csv"
    rows = [[f"{n}", text] for n, text in enumerate(story(60).split("<|endoftext|>"))]
    with data.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert "'0'" in runs.refused("E102", train_data=(str(data),))
    runs.train(train_data=(str(data),), csv_columns=("number", "text"), steps=1)
    message = runs.refused("E002", csv_columns=("text",))
    assert "csv_columns is about .csv" in message


@shows("encoding")
def encoding_of_files(runs: Runs) -> None:
    data = runs.folder / "latin.txt"
    data.write_text(story(60).replace("the", "thé"), encoding="latin-1")
    message = runs.refused("E103", train_data=(str(data),))
    assert "not UTF-8" in message
    named = {"train_data": (str(data),), "steps": 2}
    one, two = runs.both("encoding", ("*.txt=latin-1",), ("cp1251",), **named)
    assert one.column("loss") != two.column("loss")
    assert "no encoding" in runs.refused("E005", encoding=("latin-9000",))


@shows("json_field")
def field_with_the_records(runs: Runs) -> None:
    data = runs.folder / "data.json"
    one, two = ([{"text": story(30, first=n)}] * 9 for n in (0, 500))
    data.write_text(json.dumps({"one": one, "two": two}))
    assert "(one, two)" in runs.refused("E101", train_data=(str(data),))
    runs.both("json_field", "one", "two", train_data=(str(data),), steps=2)


@shows("max_member_bytes")
def largest_member(runs: Runs) -> None:
    data = runs.folder / "data.zip"
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a story.txt", story(60))
    message = runs.refused("E101", train_data=(str(data),), max_member_bytes=1000)
    assert "data.zip/a story.txt" in message and "limit of 1,000" in message
    runs.train(train_data=(str(data),), max_member_bytes=10**6, steps=1)


@shows("max_unpacked_bytes", "max_unpacking_ratio")
def most_that_is_unpacked(runs: Runs) -> None:
    data = runs.folder / "data.txt.gz"
    data.write_bytes(gzip.compress(story(60).encode()))
    message = runs.refused("E101", train_data=(str(data),), max_unpacked_bytes=1000)
    assert "data.txt.gz" in message and "than 1,000 bytes" in message
    runs.monkeypatch.setattr(guard, "RATIO_FROM", 1000)
    message = runs.refused("E101", train_data=(str(data),), max_unpacking_ratio=1.5)
    assert "data.txt.gz" in message and "1.5 times" in message
    runs.train(train_data=(str(data),), steps=1)


@pytest.mark.covers("DAT-25: --num-workers")
@shows("num_workers")
def threads(runs: Runs) -> None:
    """Who encodes; the tokens are the same."""
    encode = Tokenizer.encode_each
    names: set[str] = set()

    def spy(self: Tokenizer, texts: Any) -> Any:
        names.add(threading.current_thread().name)
        return encode(self, texts)

    runs.monkeypatch.setattr(Tokenizer, "encode_each", spy)
    found = []
    for workers in (0, 2):
        names.clear()
        runs.monkeypatch.setenv("LUMINA_CACHE", str(runs.folder / f"cache{workers}"))
        run = runs.train(num_workers=workers, steps=1)
        found.append((run, {name.split("_")[0] for name in names}))
    (alone, own), (pooled, others) = found
    assert own == {threading.current_thread().name} and others == {"lumina-tokens"}
    assert same(alone.tensor("embedding.weight"), pooled.tensor("embedding.weight"))


@shows("data_kind")
def kind(runs: Runs) -> None:
    """A plug-in's mixture in place of the text; its rows come from two sources."""
    text, mixed = runs.both("data_kind", None, "toy_mixture", plugins=(MIXTURE,))
    assert "parts" in mixed.cursor and "parts" not in text.cursor
    assert mixed.column("loss") != text.column("loss")


@shows("data_options")
def options_of_a_kind(runs: Runs) -> None:
    mixed = {"plugins": (MIXTURE,), "data_kind": "toy_mixture"}
    few, many = runs.both("data_options", ("share=0.0",), ("share=1.0",), **mixed)
    sums = [run.cursor["parts"][1]["rows"] for run in (few, many)]
    assert sums == [0, 3 * 4]


@pytest.mark.covers(
    "DAT-07: max_conversations_per_dataset", "DAT-07: max_conversations_per_file"
)
@shows("max_conversations_per_dataset", "max_conversations_per_file")
def fewer_conversations(runs: Runs) -> None:
    """The first of each file, or of all; texts stay, and what is left out is told."""
    folder = runs.folder / "talks"
    folder.mkdir()
    for name in ("a", "b"):
        write_conversations(folder / f"{name}.jsonl", 30)
    (folder / "c.txt").write_text(story(20))
    found = {}
    for file, dataset in ((None, None), (20, None), (None, 50), (20, 35)):
        run = runs.train(
            train_data=(str(folder),), steps=1, eval_fraction=0.0,
            max_conversations_per_file=file, max_conversations_per_dataset=dataset,
        )  # fmt: skip
        told = [e for e in run.events if e["kind"] == "data_conversations_beyond"]
        (start,) = (e for e in run.events if e["kind"] == "run_started")
        left_out = told[0]["data"]["counts"] if told else {}
        found[file, dataset] = (start["data"]["counts"]["conversations"], left_out)
        assert start["data"]["counts"]["documents"] - found[file, dataset][0] == 20
    assert found == {
        (None, None): (60, {}),
        (20, None): (40, {"file": 20}),
        (None, 50): (50, {"dataset": 10}),
        (20, 35): (35, {"file": 10, "dataset": 15}),
    }
    text = runs.refused(
        "E002", max_conversations_per_file=3, data_loading="streaming", steps=1
    )
    assert "may go on anywhere" in text
