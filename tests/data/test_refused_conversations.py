"""Conversations that a chat template does not take, and templates that run on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from chat_templates import CHATML, GEMMA, LLAMA3, QWEN3, folder_with
from lumina.config import Config
from lumina.data import template_sandbox
from lumina.data.prepare import Prepared, prepare
from lumina.data.records import Message
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))


def chats(path: Path, refused: set[int], count: int = 12) -> Path:
    """A file of conversations; those that are refused begin with a system turn."""
    lines = []
    for n in range(count):
        turns = [("user", f"the fox {n}?"), ("assistant", f"a dog {n}")]
        if n in refused:
            turns.insert(0, ("system", "be brief"))
        messages = [{"role": role, "content": words} for role, words in turns]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


def prepared(data: Path, folder: Path, **options: Any) -> tuple[Prepared, list[Any]]:
    events: list[Any] = []
    config = Config(train_data=(str(data),), tokenizer=str(folder), **options)
    return prepare(config, on_event=lambda **event: events.append(event)), events


def test_they_are_left_out_counted_and_told(tmp_path: Path) -> None:
    folder = folder_with(GEMMA, tmp_path / "model")
    data = chats(tmp_path / "chats.jsonl", {2, 7})
    for cached in (False, True):
        found, events = prepared(data, folder, data_errors="skip", eval_fraction=0.25)
        stats = found.stats
        assert stats["cached"] == cached
        assert (stats["documents"], stats["conversations"]) == (10, 10)
        assert (stats["skipped"], stats["skipped_codes"]) == (2, {"E108": 2})
        assert found.eval is not None and len(found.train) + len(found.eval) == 10
        told = [e for e in events if e["kind"] == "data_skipped"]
        assert [e["line"] for e in told] == [3, 8]
        for event in told:
            assert event["code"] == "E108" and event["severity"] == "warning"
            assert f"{data}, line " in event["message"]
            assert "System role not supported" in event["message"]
    # The same store is no way around the other policy.
    with pytest.raises(LuminaError) as caught:
        prepared(data, folder, eval_fraction=0.25)
    assert caught.value.code == "E108"
    assert f"{data}, line 3: " in caught.value.message


def test_with_the_usual_policy_the_first_one_ends_it(tmp_path: Path) -> None:
    folder = folder_with(GEMMA, tmp_path / "model")
    data = chats(tmp_path / "chats.jsonl", {4, 5})
    with pytest.raises(LuminaError) as caught:
        prepared(data, folder)
    assert caught.value.code == "E108"
    assert f"{data}, line 5: " in caught.value.message
    assert "System role not supported" in caught.value.message
    assert "--data-errors skip" in caught.value.hint


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    folder = folder_with(GEMMA, tmp_path / "model")
    everything = chats(tmp_path / "chats.jsonl", set(range(12)))
    with pytest.raises(LuminaError, match="no conversation is left") as caught:
        prepared(everything, folder, data_errors="skip")
    assert caught.value.code == "E108"
    good = chats(tmp_path / "good.jsonl", set())
    with pytest.raises(LuminaError, match="no conversation is left"):
        prepared(good, folder, data_errors="skip", eval_data=(str(everything),))


def test_nothing_held_out_is_left(tmp_path: Path) -> None:
    """As if nothing were held out; which turns are is decided by their words."""
    folder = folder_with(GEMMA, tmp_path / "model")
    data = chats(tmp_path / "chats.jsonl", {2}, 3)
    lines = data.read_text()
    for n in range(1, 30):  # until the one that is refused is the one held out
        data.write_text(lines.replace("dog", "dog " * n))
        found, events = prepared(data, folder, data_errors="skip", eval_fraction=0.34)
        if found.eval is None:
            break
    assert found.eval is None and len(found.train) == 2
    assert any(event["kind"] == "data_no_eval" for event in events)


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "loops that choose nothing": "{% for i in range(99999) %}"
    "{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "output": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{{ 'x' * 999 }}{% endfor %}{% endfor %}",
    "kept output": "{% set x %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"
    "{% endset %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(90) }}",
    "lists in lists": "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "numbers": "{% set ns = namespace(x=9) %}{% for i in range(90) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "width": "{{ 'a'.ljust(9999999999) }}",
    "format": "{{ '{:9999999999}'.format(1) }}",
    **{
        f"doubling: {twice}": "{% set ns = namespace(x='ab') %}{% for i in range(90) %}"
        f"{{% set ns.x = {twice} %}}{{% endfor %}}"
        for twice in (
            "ns.x + ns.x",
            "ns.x ~ ns.x",
            "ns.x | replace('a', 'aaaa')",
            "ns.x.replace('a', 'aaaa')",
            "'%s%s' | format(ns.x, ns.x)",
            "[ns.x, ns.x] | join",
        )
    },
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_works_without_end_is_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it does, not by the clock, and not only once for every conversation."""
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", math.inf)
    begun: list[int] = []
    begin = template_sandbox.Sandbox.begin

    def counted(self: Any, turns: int, characters: int) -> None:
        begun.append(turns)
        begin(self, turns, characters)

    monkeypatch.setattr(template_sandbox.Sandbox, "begin", counted)
    folder = folder_with(ENDLESS[name] + CHATML, tmp_path / "model")
    data = chats(tmp_path / "chats.jsonl", set())
    with pytest.raises(LuminaError) as caught:
        prepared(data, folder, data_errors="skip", num_workers=0)
    assert caught.value.code == "E108"
    assert "was stopped" in caught.value.message
    assert len(begun) < 12  # the conversations


@pytest.mark.parametrize("template", [LLAMA3, QWEN3])
def test_long_conversations_are_taken(template: str, tmp_path: Path) -> None:
    mine = Tokenizer.from_path(folder_with(template, tmp_path))
    roles = ("user", "assistant")
    many: list[Message] = [
        {"role": roles[n % 2], "content": f"the fox {n}"} for n in range(400)
    ]
    long: list[Message] = [
        {"role": role, "content": "the lazy dog\n" * 20_000} for role in roles
    ]
    for chat in (many, long):
        ids, mask = mine.encode_chat(chat)
        assert len(ids) > 4_000 and any(mask)
