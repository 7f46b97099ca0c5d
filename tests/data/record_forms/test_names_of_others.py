"""Records as other trainers write them: their names, and what says how to read them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from lumina.data.documents import read_documents
from lumina.data.record_forms.reader import RecordReader
from lumina.data.records import BadRecord, parse_record, unread_fields

ASKS = {"role": "user", "content": "q"}
SAYS = {"role": "assistant", "content": "a"}
THEN = {"role": "assistant", "content": "then"}


@pytest.mark.parametrize("mark", ["train", "training", "trainable", "loss"])
def test_a_turn_marked_under_any_name_bears_no_loss(mark: str) -> None:
    record = {"messages": [ASKS, {**SAYS, mark: False}, ASKS, {**THEN, mark: True}]}
    turns = parse_record(record)
    assert [turn.get("train") for turn in turns if not isinstance(turn, str)] == [
        None, False, None, True,
    ]  # fmt: skip
    assert unread_fields(record) == []


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"mask": True}, "'mask', which says something of its loss"),
        ({"train_detail": [{"begin_offset": 0}]}, "'train_detail', which says"),
        ({"loss": 0.5}, "'loss' of message 2 is a number, not true/false"),
        ({"train": True, "training": False}, "'train' and 'training' of message 2"),
        ({"weight": 1, "loss_weight": 2}, "'weight' and 'loss_weight' of message 2"),
        ({"reasoning": "hm"}, "'reasoning', which Lumina cannot train on"),
        ({"thinking": "hm"}, "'thinking', which Lumina cannot train on"),
    ],
)
def test_marks_that_would_be_lost_are_refused(
    turn: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRecord) as refused:
        parse_record({"messages": [ASKS, {**SAYS, **turn}]})
    assert refused.value.code == "E102"
    assert reason in refused.value.reason


@pytest.mark.parametrize("form", ["messages", "conversations", "prompt"])
def test_the_weight_of_a_record_is_that_of_its_turns(form: str) -> None:
    half = {**SAYS, "weight": 0.5}
    record: dict[str, Any] = (
        {"prompt": "q", "completion": [half]}
        if form == "prompt"
        else {form: [ASKS, half]}
    )
    turns = parse_record(record | {"weight": 3})
    assert not isinstance(turns, str)
    assert turns[1]["weight"] == 1.5
    assert unread_fields(record | {"weight": 3}) == []
    for nothing in ({"weight": 0}, {"train": False}):
        with pytest.raises(BadRecord, match="bears no loss"):
            parse_record(record | nothing)


def test_the_instructions_of_the_system_may_be_empty() -> None:
    """They stay a turn: Qwen's template writes its own instructions where none is."""
    empty = {"role": "system", "content": ""}
    assert parse_record({"messages": [empty, ASKS, SAYS]}) == (empty, ASKS, SAYS)
    beside = {"system": "be kind", "messages": [empty, ASKS, SAYS]}
    assert parse_record(beside)[0] == {"role": "system", "content": "be kind"}


def test_alpaca_s_own_file_is_a_conversation() -> None:
    """tatsu-lab/alpaca has the filled prompt in "text" beside its parts."""
    record = {"instruction": "q", "input": "", "output": "a", "text": "Below is q: a"}
    assert parse_record(record) == (ASKS, SAYS)
    assert unread_fields(record) == ["text"]


def test_turns_in_a_column_of_a_table(tmp_path: Path) -> None:
    turns = json.dumps([ASKS, SAYS]).replace('"', '""')
    path = tmp_path / "a.csv"
    path.write_text(f'messages\n"{turns}"\n')
    assert [document.messages for document in read_documents([path])] == [(ASKS, SAYS)]
    assert unread_fields({"messages": json.dumps([ASKS, {**SAYS, "x": 1}])}) == [
        "messages[].x"
    ]
    with pytest.raises(BadRecord, match="not a list, and not JSON"):
        parse_record({"messages": "hello"})


@pytest.mark.parametrize("role", ["chatgpt", "bing", "bard", "model"])
def test_speakers_of_shared_conversations_are_the_assistant(role: str) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": role, "value": "a"}]
    assert parse_record({"conversations": turns}) == (ASKS, SAYS)


@pytest.mark.parametrize(
    ("record", "becomes"),
    [
        ({"input": "q", "output": "a"}, (ASKS, SAYS)),
        ({"question": "q", "answer": "a"}, (ASKS, SAYS)),
        ({"human": "q", "assistant": "a"}, (ASKS, SAYS)),
        ({"Text": "t"}, "t"),
        ({" text ": "t"}, "t"),
        ({"content": "t"}, "t"),
        ({"completion": "t"}, "t"),
        ({"chat": [ASKS, SAYS]}, (ASKS, SAYS)),
        ({"items": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         (ASKS, SAYS)),
        ({"instruction": "q", "context": "", "response": "a"}, (ASKS, SAYS)),
        ({"system_prompt": "s", "question": "q", "response": "a"},
         ({"role": "system", "content": "s"}, ASKS, SAYS)),
        # Pairs: the chosen answer alone, which may be the whole conversation.
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, (ASKS, SAYS)),
        ({"prompt": "q", "chosen": [ASKS, SAYS], "rejected": [ASKS, THEN]},
         (ASKS, SAYS)),
        ({"chosen": [ASKS, SAYS], "rejected": [ASKS, THEN]}, (ASKS, SAYS)),
        ({"chosen": "Human: q", "rejected": "Human: r"}, "Human: q"),
    ],
)  # fmt: skip
def test_the_options_that_an_error_suggests_read_the_record(
    record: dict[str, Any], becomes: Any
) -> None:
    with pytest.raises(BadRecord) as refused:
        parse_record(record)
    assert refused.value.hint is not None
    words = shlex.split(refused.value.hint.partition("; or ")[0].replace(",", ""))
    form = words[words.index("--format") + 1] if "--format" in words else None
    given = [word for word in words if "=" in word]
    names = dict(word.rsplit("=", 1) for word in given)
    assert RecordReader(form, names).parse(record) == becomes


@pytest.mark.parametrize(
    "key", ["features", "citation", "builder_name", "dataset_name"]
)
def test_a_folder_that_the_library_datasets_saved(tmp_path: Path, key: str) -> None:
    """Its dataset_info.json is not LLaMA-Factory's file of that name."""
    described = {key: {"messages": {}} if key == "features" else "x", "license": ""}
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": [ASKS, SAYS]}))
    found = list(read_documents([tmp_path]))
    assert [document.messages for document in found] == [(ASKS, SAYS)]
