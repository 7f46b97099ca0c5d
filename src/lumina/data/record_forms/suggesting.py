"""How to say what the fields of a record are that is of no known form."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from lumina.data.record_forms.form import Record, all_fields

_ASKED = (
    "prompt", "question", "query", "instruction", "input", "human", "user", "problem",
)  # fmt: skip
_SAID = (
    "completion", "answer", "response", "output", "assistant", "gpt", "solution",
    "target",
)  # fmt: skip
_SYSTEM = ("system_prompt", "system_message")
_TEXT = (
    "content", "raw_content", "body", "document", "article", "story", "passage", "code",
    "sentence", "completion",
)  # fmt: skip


def suggestion(fields: Record) -> str | None:
    """The options under which a record would be read, if its fields suggest any.

    Args:
        fields: of the record, none of them null.
    """
    known = all_fields()
    nearly = {
        name: name.strip().lower()
        for name in fields
        if name not in known and name.strip().lower() in known
    }
    if nearly:
        return f"say what its fields are: {_options(None, nearly)}"
    asked, said = _first(_ASKED, fields), _first(_SAID, fields)
    if asked is not None and said is not None:
        alpaca = asked == "instruction"
        names = {said: "output"} if alpaca else {asked: "prompt", said: "completion"}
        if alpaca and "context" in fields:
            names["context"] = "input"
        system = _first(_SYSTEM, fields)
        if system is not None:
            names[system] = "system"
        form = "alpaca" if alpaca else "prompt"
        return (
            "say which fields hold the question and the answer: "
            f"{_options(form, names)}"
        )
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            if {"role", "content"} <= value[0].keys():
                turns = ("messages", "messages")
            elif {"from", "value"} <= value[0].keys():
                turns = ("sharegpt", "conversations")
            else:
                continue
            return f"say where the turns stand: {_options(turns[0], {name: turns[1]})}"
    text = _first(_TEXT, fields)
    if text is not None and isinstance(fields[text], str):
        return f"say where the text stands: {_options('text', {text: 'text'})}"
    return None


def _first(names: Sequence[str], fields: Record) -> str | None:
    return next((name for name in names if name in fields), None)


def _options(form: str | None, names: dict[str, str]) -> str:
    words = [] if form is None else ["--format", form]
    renamed = [f"{name}={meant}" for name, meant in names.items() if name != meant]
    return shlex.join([*words, "--field", *renamed])
