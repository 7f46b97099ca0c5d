"""Calls of tools in chat templates: the ids of transformers, and what is taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import (
    CALLS_IN_MARKS,
    CHATML,
    LLAMA3_TOOLS,
    MISTRAL,
    QWEN_TOOLS,
    folder_with,
    theirs_of,
)
from lumina.config import Config
from lumina.data.records import parse_record
from lumina.data.tasks import prepare_tasks
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

ADD = {"name": "add", "arguments": {"a": 1, "b": [2, "zwölf"]}}
TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object"}}


def record(calls: int = 1, content: str | None = None) -> dict[str, Any]:
    """A record as OpenAI's API gives it: arguments are JSON in a string."""
    made = [
        {
            "id": f"call{n:05d}",
            "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1, "b": [2, "zwölf"]}'},
        }
        for n in range(calls)
    ]
    return {
        "messages": [
            {"role": "user", "content": "1 + 2?"},
            {"role": "assistant", "content": content, "tool_calls": made},
            {
                "role": "tool",
                "content": "3",
                "name": "add",
                "tool_call_id": "call00000",
            },
            {"role": "assistant", "content": " It is 3.\n"},
        ],
        "tools": [{"type": "function", "function": TOOL}],
    }


ANSWER = {"role": "assistant", "content": "3"}
CALL = '{"name": "add", "arguments": {"a": 1, "b": [2, "zwölf"]}}'
TAUGHT = {
    # template, calls, words beside them, what is taught
    "qwen25": (
        QWEN_TOOLS, 1, None,
        f"\n<tool_call>\n{CALL}\n</tool_call><|im_end|> It is 3.\n<|im_end|>",
    ),
    "qwen25 two calls": (
        QWEN_TOOLS, 2, None,
        f"\n<tool_call>\n{CALL}\n</tool_call>" * 2 + "<|im_end|> It is 3.\n<|im_end|>",
    ),
    "qwen25 with words": (
        QWEN_TOOLS, 1, " Let me see. ",
        f" Let me see. \n<tool_call>\n{CALL}\n</tool_call><|im_end|>"
        " It is 3.\n<|im_end|>",
    ),
    "llama31": (
        LLAMA3_TOOLS, 1, None,
        CALL.replace('"arguments"', '"parameters"') + "<|eot_id|>It is 3.<|eot_id|>",
    ),
    "marks within": (
        CALLS_IN_MARKS, 2, "So:",
        f"So:<|im_start|>{CALL}<|im_end|><|im_start|>{CALL}<|im_end|></s>"
        " It is 3.\n</s>",
    ),
}  # fmt: skip


@pytest.mark.covers("TOK-07: chat template")
@pytest.mark.parametrize("name", TAUGHT)
def test_calls_have_the_ids_of_transformers_and_are_taught(
    name: str, tmp_path: Path
) -> None:
    template, calls, words, taught = TAUGHT[name]
    mine = Tokenizer.from_path(folder_with(template, tmp_path))
    said = record(calls, words)
    chat = parse_record(said)
    assert not isinstance(chat, str)
    ids, mask = mine.encode_chat(chat)
    # transformers wants arguments as objects.
    messages = [dict(message) for message in said["messages"]]
    messages[1]["tool_calls"] = [
        {**call, "function": ADD} for call in messages[1]["tool_calls"]
    ]
    apply = theirs_of(tmp_path).apply_chat_template
    assert apply(messages, tools=said["tools"], return_dict=False) == ids
    got = mine.decode([i for i, m in zip(ids, mask, strict=True) if m])
    if (
        template is QWEN_TOOLS
    ):  # what asks ends with a line end that the call begins with
        taught = taught.removeprefix("\n")
    assert got == taught
    # A turn of a tool is taught where it is asked for, a call is not where it is not.
    chat = tuple({**m, "train": m["role"] == "tool"} for m in chat)  # type: ignore[misc]
    ids, mask = mine.encode_chat(chat)
    got = mine.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert got.startswith("3") and "add" not in got


@pytest.mark.parametrize(
    ("template", "change", "says"),
    [
        (CHATML, {"messages": record()["messages"][:2]}, "takes|refuses|None"),
        (CHATML, {"messages": [*record()["messages"][:1], ANSWER]}, "definitions"),
        (CHATML, {"tools": None, "messages": record(1, "x")["messages"]}, "calls"),
        (MISTRAL, {}, "refuses the turns"),
        (LLAMA3_TOOLS, {"messages": record(2)["messages"]}, "single tool-calls"),
        (
            QWEN_TOOLS,
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "x", "description": "<|im_end|>"},
                    }
                ]
            },
            "spell a special token",
        ),
    ],
)
def test_what_a_template_does_not_write_is_refused_by_name(
    template: str, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    mine = Tokenizer.from_path(folder_with(template, tmp_path))
    chat = parse_record({**record(), **change})
    assert not isinstance(chat, str)
    for loss_on in ("assistant", "all"):
        with pytest.raises(LuminaError, match=says) as refused:
            mine.encode_chat(chat, loss_on=loss_on)
        assert refused.value.code == "E108"


@pytest.mark.parametrize("system", [False, True])
def test_lumina_writes_tools_in_turns_of_its_own(system: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    said = record(2, "Well.")
    if system:
        said["messages"].insert(0, {"role": "system", "content": "Be brief."})
    chat = parse_record(said)
    assert not isinstance(chat, str)
    small = Tokenizer.train(["add the zwölf numbers"] * 9, 320)
    with pytest.raises(LuminaError, match="no markers"):
        small.encode_chat(chat)
    mine = small.with_chat(tools=True)
    assert mine.vocab_size == small.vocab_size + 2
    ids, mask = mine.encode_chat(chat)
    got = mine.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert got == f"Well.<|call|>{CALL}<|call|>{CALL}<|end|> It is 3.\n<|end|>"
    assert "<|tool|>3<|end|>" in mine.decode(ids)
    assert all(mine.encode_chat(chat, loss_on="all")[1])
    laid = mine.lay_out(chat)
    assert (laid.ids, laid.mask) == (ids, mask)
    spans = [mine.decode(ids[span.words : span.end]) for span in laid.spans]
    assert [s.removesuffix("<|end|>") for s in spans[-2:]] == ["3", " It is 3.\n"]
    # transformers writes the same from the files of the run, and they are read again.
    mine.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [dict(message) for message in said["messages"]]
    for message in messages:
        if "tool_calls" in message:
            message["tool_calls"] = [{"function": ADD}] * 2
    found = theirs.apply_chat_template(messages, tools=said["tools"], return_dict=False)
    assert found == ids
    again = Tokenizer.from_path(tmp_path)
    assert again.templates is None and again.encode_chat(chat) == (ids, mask)
    plain = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}]
    assert mine.encode_chat(plain) == small.encode_chat(plain)  # type: ignore[arg-type]
    # What asks for an answer to a result, and words that spell a marker.
    asked = mine.chat_prompt(chat[:-1])
    assert ids[: len(asked)] == asked
    spelled = [{"role": "user", "content": "<|call|>"}, plain[1]]
    assert mine.token_id("<|call|>") not in mine.encode_chat(spelled)[0]  # type: ignore[arg-type]


FORMS = [
    {"prompt": "1 + 2?", "completion": " 3 "},
    {"instruction": "add", "input": "1 2", "output": "3", "history": [["a", "b"]]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
     "system": "Be brief."},
    {"messages": [{"role": "developer", "content": "Be brief."},
                  {"role": "user", "content": [{"type": "text", "text": "q"}]},
                  {"role": "assistant", "content": "a"}]},
    {"prompt": {"role": "prompter", "text": "q", "replies": [
        {"role": "assistant", "text": "a", "rank": 0}]}},
    {"instruction": "add", "instances": [{"input": "1 2", "output": "3"}]},
    {"conversations": [
        {"from": "human", "value": "1 + 2?"},
        {"from": "function_call", "value": json.dumps(ADD)},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "3"}], "tools": json.dumps([TOOL])},
]  # fmt: skip


@pytest.mark.parametrize("template", [QWEN_TOOLS, LLAMA3_TOOLS], ids=["qwen", "llama"])
def test_each_form_of_record_has_the_ids_of_transformers(
    template: str, tmp_path: Path
) -> None:
    mine = Tokenizer.from_path(folder_with(template, tmp_path))
    apply = theirs_of(tmp_path).apply_chat_template
    for number, one in enumerate(FORMS):
        chat = parse_record(one)
        assert not isinstance(chat, str)
        messages: list[dict[str, Any]] = [dict(message) for message in chat]
        tools = messages[0].pop("tools", None)
        for message in messages:
            if message.pop("no_content", False):
                message["content"] = None
            message.pop("train", None)
        ids, mask = mine.encode_chat(chat)
        assert apply(messages, tools=tools, return_dict=False) == ids, number
        assert any(mask)


WORDS = st.text(
    st.sampled_from('ab 1\n\t"{}<>|é🎉') | st.sampled_from(list("im_end")), max_size=9
) | st.sampled_from(["<|im_end|>", "</tool_call>", "<tool_call>", "\\u00e9", " x "])
CALLS = st.builds(
    lambda arguments: {
        "type": "function",
        "function": {"name": "add", "arguments": arguments},
    },
    st.dictionaries(st.sampled_from("ab"), st.integers() | WORDS, max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(WORDS.filter(str.strip), st.lists(CALLS, max_size=2), WORDS),
        min_size=1,
        max_size=3,
    )
)
def test_any_calls_are_taught_whole_or_refused(
    qwen: tuple[Tokenizer, Any], turns: list[tuple[str, list[Any], str]]
) -> None:
    mine, theirs = qwen
    chat: list[Any] = []
    for asked, calls, said in turns:
        chat.append({"role": "user", "content": asked})
        answer: dict[str, Any] = {"role": "assistant", "content": said}
        if calls:
            answer["tool_calls"] = calls
            chat += [answer, {"role": "tool", "content": said}]
        elif said.strip():
            chat.append(answer)
    if chat[-1]["role"] != "assistant":
        chat.append({"role": "assistant", "content": "done"})
    try:
        ids, mask = mine.encode_chat(chat)
    except LuminaError as refused:
        assert refused.code == "E108"
        return
    text = theirs.apply_chat_template(chat, tokenize=False)
    assert mine.decode(ids) == text
    special = {mine.token_id(t) for t in ("<|im_start|>", "<|im_end|>")}
    # Marks stand around turns and nowhere else, whatever the words spell.
    plain = [{**turn, "content": turn["content"] and "x"} for turn in chat]
    usual, _ = mine.encode_chat(plain)
    assert [i for i in ids if i in special] == [i for i in usual if i in special]
    got = mine.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert got.count("<|im_end|>") >= sum(t["role"] == "assistant" for t in chat)
    for turn in chat:
        if turn["role"] == "assistant":
            assert turn["content"].strip() in got
            for call in turn.get("tool_calls", []):
                written = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                assert written in got


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = folder_with(QWEN_TOOLS, tmp_path_factory.mktemp("qwen"))
    return Tokenizer.from_path(folder), theirs_of(folder)


def test_tasks_share_the_vocabulary_of_the_one_with_tools(tmp_path: Path) -> None:
    plain = {"messages": [record()["messages"][0], ANSWER]}
    for name, one in (("plain", plain), ("tools", record())):
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(one) + "\n") * 3)
    config = Config(
        tasks=[f"{name}={tmp_path / name}.jsonl" for name in ("plain", "tools")],
        eval_fraction=0.0,
        tokenizer_vocab_size=300,
    )
    prepared = prepare_tasks(config)
    mine = prepared.tokenizer
    assert mine.has_tools and mine.vocab_size > max(
        int(store.tokens.max()) for store in prepared.train.stores.values()
    )
    first = prepared.train.stores["plain"].document(0).tolist()
    assert first == mine.encode_chat(parse_record(plain))[0]  # type: ignore[arg-type]
