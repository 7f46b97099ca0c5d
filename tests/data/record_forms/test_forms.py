"""Every form of record: recognised by its fields, read whole, refused where bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina import ConfigPresets
from lumina.data.documents import read_documents
from lumina.data.prepare import prepare
from lumina.data.record_forms.form import forms
from lumina.data.record_forms.reader import RecordReader
from lumina.data.records import BadRecord, Message, parse_record, unread_fields
from lumina.errors import LuminaError


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def says(text: str, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}  # type: ignore[typeddict-item]


def system(text: str) -> Message:
    return {"role": "system", "content": text}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
QA = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TREE = {
    "message_tree_id": "x",
    "prompt": {
        "role": "prompter",
        "text": "q",
        "replies": [
            {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
            {"role": "assistant", "text": "unranked", "rank": None},
            {"role": "assistant", "text": "gone", "rank": -1, "deleted": True},
            {
                "role": "assistant",
                "text": "best",
                "rank": 0,
                "replies": [
                    {"role": "prompter", "text": "gone", "rank": 0, "deleted": True},
                    {"role": "prompter", "text": "and?", "replies": []},
                ],
            },
        ],
    },
}

GOOD: list[tuple[str, dict[str, Any], Any]] = [
    ("text", {"text": "t"}, "t"),
    ("messages", {"messages": QA}, (user("q"), says("a"))),
    (
        "messages",
        {"messages": [{"role": "developer", "content": "be"}, *QA]},
        (system("be"), user("q"), says("a")),
    ),
    (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "q"}, {"text": "!"}],
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "1", "tool_call_id": "c", "name": "add"},
                {"role": "assistant", "content": "a", "weight": 0.5},
            ],
            "tools": [TOOL],
        },
        (
            {**user("q!"), "tools": [TOOL]},
            says("", no_content=True, tool_calls=[CALL]),
            {"role": "tool", "content": "1", "name": "add", "tool_call_id": "c"},
            says("a", weight=0.5),
        ),
    ),
    (
        "messages",
        {
            "messages": [
                user("q"),
                {
                    "role": "assistant",
                    "content": "well",
                    "function_call": {"name": "add", "arguments": '{"a": 1}'},
                },
            ],
            "functions": [TOOL["function"]],
        },
        ({**user("q"), "tools": [TOOL]}, says("well", tool_calls=[CALL])),
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {
                    "from": "function_call",
                    "value": '{"name": "add", "arguments": {"a": 1}}',
                },
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "a"},
            ],
            "system": "be",
            "tools": json.dumps([TOOL["function"]]),
        },
        (
            {**system("be"), "tools": [TOOL]},
            user("q"),
            says("", no_content=True, tool_calls=[CALL]),
            {"role": "tool", "content": "1"},
            says("a"),
        ),
    ),
    ("sharegpt", {"conversations": QA}, (user("q"), says("a"))),
    (
        "alpaca",
        {"instruction": "do", "input": "this", "output": "a"},
        (user("do\nthis"), says("a")),
    ),
    (
        "alpaca",
        {
            "instruction": "do",
            "input": "",
            "output": "a",
            "system": "be",
            "history": [["q", "b"]],
        },
        (system("be"), user("q"), says("b"), user("do"), says("a")),
    ),
    ("prompt", {"prompt": "q", "completion": " a"}, (user("q"), says(" a"))),
    (
        "prompt",
        {"prompt": [*QA, user("again")], "completion": [says("b")]},
        (user("q"), says("a", train=False), user("again"), says("b")),
    ),
    ("oasst", TREE, (user("q"), says("best"))),
    (
        "self_instruct",
        {
            "instruction": "do",
            "instances": [
                {"input": "1", "output": "2"},
                {"input": "3", "output": "4"},
            ],
        },
        (user("do\n1"), says("2"), user("3"), says("4")),
    ),
]


@pytest.mark.covers("DAT-06", "DAT-01: messages list of role/content", "DAT-02")
@pytest.mark.parametrize(("form", "record", "content"), GOOD)
def test_a_record_is_recognised_and_read(
    form: str, record: dict[str, Any], content: Any
) -> None:
    reader = RecordReader()
    assert reader.form_of(record) == form
    assert reader.parse(record) == content
    assert RecordReader(form).parse(record) == content
    # A field that is null, or that nothing reads, changes nothing.
    assert reader.parse({**record, "zebra": 1, "label": None}) == content
    assert "zebra" in reader.unread({**record, "zebra": 1})


@pytest.mark.parametrize(
    ("form", "record", "parts"),
    [
        ("mt_bench", {"question_id": 1, "turns": ["q"]}, {"": (user("q"),)}),
        (
            "preference",
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"chosen": (user("q"), says("a")), "rejected": (user("q"), says("b"))},
        ),
        (
            "preference",
            {"chosen": QA, "rejected": [QA[0], says("b")]},
            {"chosen": (user("q"), says("a")), "rejected": (user("q"), says("b"))},
        ),
        (
            "preference",
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            {"chosen": (user("q"), says("a")), "rejected": (user("q"), says("b"))},
        ),
        (
            "labelled",
            {"prompt": "q", "completion": "a", "label": False},
            {"unwanted": (user("q"), says("a"))},
        ),
        ("labelled", {"messages": QA, "kto_tag": True}, {"wanted": tuple(QA)}),
    ],
)
def test_what_no_objective_learns_from_is_checked_and_refused_by_name(
    form: str, record: dict[str, Any], parts: Any
) -> None:
    found, content = RecordReader().parts(record)
    assert (found.name, content) == (form, parts)
    with pytest.raises(BadRecord, match=f"'{form}'") as refused:
        parse_record(record)
    assert refused.value.code == "E102" and refused.value.hint
    # A bad one is called bad first.
    for name in ("turns", "chosen", "completion", "messages"):
        if name in record:
            with pytest.raises(BadRecord) as bad:
                parse_record({**record, name: 7})
            assert name in bad.value.reason


@pytest.mark.parametrize(
    ("record", "code", "says"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "E102", "'image_url'"),
        ({"messages": [QA[0], {"role": "assistant", "content": None}]},
         "E102", "null"),
        ({"messages": [QA[0], {"role": "user", "content": "x", "tool_calls": [CALL]}]},
         "E102", "calls of tools"),
        ({"messages": [QA[0], {"role": "assistant", "tool_calls": [{"id": "x"}]}]},
         "E102", "'name' of call 1"),
        ({"conversations": [{"from": "function_call", "value": "{broken"}]},
         "E102", "not JSON"),
        ({"messages": QA, "tools": "[{}]"}, "E102", "'name' of tool 1"),
        ({"instruction": "do", "output": " "}, "E105", "'output'"),
        ({"instruction": " ", "output": "a"}, "E105", "'instruction'"),
        ({"instruction": "do", "output": "a", "history": [["q"]]}, "E102", "no pair"),
        ({"prompt": "q", "completion": 3}, "E102", "'completion' is a number"),
        ({"prompt": {"text": "q", "role": "prompter", "replies": 3}},
         "E102", "'replies'"),
        ({"instruction": "do", "instances": []}, "E105", "'instances'"),
        ({"question": "q", "answer": "a"}, "E102", "another form of record"),
    ],
)  # fmt: skip
def test_a_bad_record_is_refused_by_name(
    record: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(BadRecord, match=says) as refused:
        parse_record(record)
    assert refused.value.code == code


def test_fields_are_read_under_other_names() -> None:
    record = {"question": "q", "answer": "a", "level": 3}
    with pytest.raises(BadRecord) as refused:
        parse_record(record)
    said = "--format prompt --field question=prompt answer=completion"
    assert refused.value.hint is not None and said in refused.value.hint
    reader = RecordReader("prompt", {"question": "prompt", "answer": "completion"})
    assert reader.parse(record) == (user("q"), says("a"))
    assert reader.unread(record) == ["level"]
    # A field under its own name and under another one is two things at once.
    with pytest.raises(BadRecord, match="two fields are 'prompt'"):
        reader.parse({**record, "prompt": "other"})
    with pytest.raises(LuminaError, match="promt"):
        RecordReader("prompt", {"question": "promt"})
    with pytest.raises(LuminaError, match="alpaca"):
        RecordReader("alpca")
    turns = {"question_id": 1, "turns": ["one", "two"]}
    assert RecordReader("text", {"turns": "text"}).parse(turns) == "one\n\ntwo"


def test_replies_that_are_not_on_the_path_are_counted() -> None:
    unread = unread_fields(TREE)
    assert unread == ["replies on other paths"] * 5


WORDS = st.sampled_from(["a", "b ", "", " \n", "\ud800", "ü€"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("role", "content", "from", "value", "type", "text", "name"),
                    *("function", "arguments", "replies", "rank", "input", "output"),
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
FIELDS = sorted({field for form in forms().values() for field in form.fields})


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5))
def test_any_record_is_read_whole_or_refused_with_a_code(record: Any) -> None:
    for reader in (RecordReader(), *(RecordReader(name) for name in forms())):
        try:
            content = reader.parse(record)
        except BadRecord as bad:
            assert bad.code in ("E101", "E102", "E103", "E105")
            continue
        reader.unread(record)
        if isinstance(content, str):
            assert content.strip()
        else:
            assert content and any(m["role"] == "assistant" for m in content)
        json.dumps(content, ensure_ascii=False).encode()


LINES = st.lists(
    st.one_of(
        st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4).map(json.dumps),
        st.sampled_from([json.dumps(record) for _, record, _ in GOOD]),
        st.sampled_from(["{", "[]", "7", "null", '"text"', '{"text": "t"}']),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(LINES)
def test_every_line_is_a_document_or_a_skipped_record(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text("\n".join(lines) + "\n")
    skipped: list[Any] = []
    found = list(read_documents([path], errors="skip", on_skip=skipped.append))
    numbers = sorted([d.line for d in found] + [s.line for s in skipped])
    assert numbers == list(range(1, len(lines) + 1))
    assert all(document.form in forms() for document in found)
    if skipped:
        with pytest.raises(LuminaError) as refused:
            list(read_documents([path]))
        assert refused.value.code == skipped[0].code
        assert f"line {skipped[0].line}" in refused.value.message


def test_the_same_file_in_another_form_is_other_data(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = {"text": "t", "prompt": "q", "completion": "a"}
    path.write_text((json.dumps(record) + "\n") * 3)
    config = ConfigPresets.debug().replace(train_data=[str(path)], eval_fraction=0.0)
    text = prepare(config.replace(format="text"))
    asked = prepare(config.replace(format="prompt"))
    named = ["completion=prompt", "prompt=completion"]
    other = prepare(config.replace(format="prompt", field=named))
    assert (text.stats["conversations"], asked.stats["conversations"]) == (0, 3)
    assert len({one.train.fingerprint for one in (text, asked, other)}) == 3
