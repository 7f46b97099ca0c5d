"""Records of data files: null fields, system texts, and what would be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina import ConfigPresets
from lumina.data.documents import read_documents
from lumina.data.prepare import prepare
from lumina.data.records import BadRecord, parse_record, unread_fields
from lumina.errors import LuminaError

TURNS = [
    {"role": "user", "content": "hi", "tool_calls": None},
    {"role": "assistant", "content": "hello"},
]


def test_a_null_field_counts_as_absent() -> None:
    assert parse_record({"text": "a", "messages": None, "conversations": None}) == "a"
    turns = parse_record({"text": None, "messages": TURNS, "tools": None})
    assert [t["content"] for t in turns if isinstance(t, dict)] == ["hi", "hello"]


def test_a_record_of_nulls_is_refused_by_name() -> None:
    with pytest.raises(BadRecord, match="'text', which is null"):
        parse_record({"text": None})


def test_a_system_text_beside_the_turns_comes_first() -> None:
    system = {"role": "system", "content": "be kind"}
    read = parse_record({"system": "be kind", "messages": TURNS})
    assert read[0] == system
    assert parse_record({"system": "be kind", "messages": [system, *TURNS]}) == read
    with pytest.raises(BadRecord, match="not the same"):
        parse_record({"system": "be rude", "messages": [system, *TURNS]})


@pytest.mark.parametrize("name", ["reasoning_content"])
def test_what_would_be_lost_is_refused_by_name(name: str) -> None:
    in_turn: list[dict[str, Any]] = [TURNS[0], {**TURNS[1], name: ["x"]}]
    for record in ({"messages": TURNS, name: ["x"]}, {"messages": in_turn}):
        with pytest.raises(BadRecord, match=f"'{name}'") as refused:
            parse_record(record)
        assert refused.value.code == "E102"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("Hello there".encode("utf-16-le"), "E103", "iconv -f UTF-16LE"),
        ("Hello there".encode("utf-16-be"), "E103", "iconv -f UTF-16BE"),
        (b"Hello\n there\0\n", "E103", "NUL byte"),
        (b"version https://git-lfs.github.com/spec/v1\n", "E101", "git lfs pull"),
    ],
)
def test_files_that_are_no_text(
    tmp_path: Path, content: bytes, code: str, words: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(LuminaError, match=words) as refused:
        list(read_documents([path]))
    assert refused.value.code == code


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}])
@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_a_turn_marked_as_untrained_bears_no_loss(
    mark: dict[str, Any], loss_on: str, tmp_path: Path
) -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "wrong answer"} | mark,
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "right answer"},
    ]
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps({"messages": turns}) + "\n")
    config = ConfigPresets.debug().replace(
        train_data=[str(data)], eval_fraction=0.0, loss_on=loss_on
    )
    prepared = prepare(config)
    store = prepared.train
    positions = np.arange(len(store.tokens))
    learned = store.tokens[positions[store.bears_loss(positions)]].tolist()
    text = prepared.tokenizer.decode(learned)
    assert "right answer" in text
    assert "wrong" not in text
    taught = "right answer" if loss_on == "assistant" else "onetworight answer"
    assert store.loss_bytes == len(taught)


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": -0.5},
        {"weight": float("nan")},
        {"weight": float("inf")},
        {"train": "no"},
        {"weight": "0"},
        {"weight": 2, "train": False},
    ],
)
def test_other_weights_are_refused_by_name(mark: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    marked = [turns[0], turns[1] | mark]
    with pytest.raises(BadRecord, match=r"weight|train"):
        parse_record({"messages": marked})


@pytest.mark.parametrize("role", ["tool", "Function", "observation"])
def test_what_a_tool_answers_is_a_turn_of_the_tool(role: str) -> None:
    turns = [*TURNS, {"role": role, "content": ""}]
    assert parse_record({"messages": turns})[2] == {"role": "tool", "content": ""}


def test_an_unknown_role_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"messages": [*TURNS, {"role": "critic", "content": "bad"}]}) + "\n"
    )
    with pytest.raises(LuminaError, match="message 3 has the unknown role 'critic'"):
        list(read_documents([path]))


def test_fields_that_nothing_reads_are_named() -> None:
    named = [{**TURNS[0], "name": "Ann", "weight": 1}, {**TURNS[1], "name": "Bo"}]
    assert unread_fields({"messages": named, "system": "x", "id": 0, "tools": []}) == [
        "id",
        "messages[].name",
        "messages[].name",
    ]
    assert unread_fields({"text": "a", "messages": None, "system": "b"}) == ["system"]


def test_fields_that_nothing_reads_are_counted_and_told_each_time(
    tmp_path: Path,
) -> None:
    data = tmp_path / "a.jsonl"
    records = [{"text": f"text {n}", "url": "u", "lang": None} for n in range(1200)]
    records[7]["lang"] = "en"
    records += [{"text": "half", "\ud83d": 1}, {"messages": TURNS, "score": 0.5}]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = ConfigPresets.debug().replace(train_data=[str(data)], eval_fraction=0.0)
    for cached in (False, True):
        told: list[dict[str, Any]] = []
        prepared = prepare(config, on_event=lambda told=told, **e: told.append(e))
        assert prepared.stats["cached"] is cached
        (event,) = (e for e in told if e["kind"] == "data_fields_ignored")
        assert event["severity"] == "warning"
        assert event["counts"] == {"url": 1200, "\\ud83d": 1, "lang": 1, "score": 1}
        assert "url (1,200), " in event["message"]


def test_fields_of_very_many_names_are_counted_together(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text("".join(f'{{"text": "a", "k{n}": 1}}\n' for n in range(1500)))
    config = ConfigPresets.debug().replace(train_data=[str(data)], eval_fraction=0.0)
    counts = prepare(config).stats["ignored_fields"]
    assert len(counts) == 1001 and counts["(fields of other names)"] == 500


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "one", "text": "two"}',
        '{"messages": [{"role": "user", "role": "assistant", "content": "hi"}]}',
    ],
)
def test_a_field_with_two_values_is_refused_by_name(tmp_path: Path, line: str) -> None:
    """JSON readers take the last one, and the first is lost without a word."""
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(LuminaError, match="is there twice, with two values") as refused:
        list(read_documents([path]))
    assert refused.value.code == "E102"


def test_repeated_fields_that_change_nothing_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "text": "one", "id": 1, "id": 2}\n')
    assert [document.text for document in read_documents([path])] == ["one"]
