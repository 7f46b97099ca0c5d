"""Lists of turns -> the messages of a conversation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lumina.data.record_forms.message import (
    CALL_ROLES,
    RESULT_ROLES,
    ROLES,
    BadRecord,
    Message,
    is_empty,
    kind_of,
    string_of,
)
from lumina.data.record_forms.tool_calls import (
    calls_in_text,
    tool_calls,
    tool_definitions,
)

LOST = ("reasoning_content", "reasoning", "thinking")
"""Fields whose content no turn can hold: a record with one of them is refused."""

TRAIN = ("train", "training", "trainable", "loss")
"""Names that trainers give to whether a turn bears loss: true or false."""

WEIGHT = ("weight", "loss_weight")
"""Names that they give to the weight of its loss."""

LOSS = (*TRAIN, *WEIGHT)
"""Fields of a turn that say how it bears loss."""

UNCLEAR = ("mask", "masked", "loss_mask", "loss_scale", "train_detail")
"""Fields that speak of the loss, too, but not in one way everywhere: refused."""

CALLS = ("tool_calls", "function_call")
"""Fields of a turn that hold calls of tools."""

NAMES = ("name", "tool_call_id")
"""Fields of a turn that a chat template may write."""

TOOLS = ("tools", "functions")
"""Fields of a record that define tools."""


def turn_keys(turns: Any, usual: tuple[str, str]) -> tuple[str, str]:
    """The fields of a turn, speaker first: "from" and "value", or "role" and "content".

    Args:
        turns: of a record.
        usual: those of the form.
    """
    first = turns[0] if isinstance(turns, list) and turns else None
    if isinstance(first, dict) and usual[0] not in first:
        for keys in (("role", "content"), ("from", "value")):
            if keys[0] in first:
                return keys
    return usual


def read_turns(
    turns: Any, field: str, role_key: str = "role", content_key: str = "content"
) -> tuple[Message, ...]:
    """The turns of a conversation, the system's first; `field` is their name in errors.

    Raises:
        BadRecord: E102 fields or roles, E103 text that is not Unicode, E105 no turn.
    """
    if not isinstance(turns, list):
        raise BadRecord("E102", f"'{field}' is {kind_of(turns)}, not a list")
    if not turns:
        raise BadRecord("E105", f"'{field}' is empty")
    messages = [
        _message(turn, f"message {number}", role_key, content_key)
        for number, turn in enumerate(turns, 1)
    ]
    # The system's instructions hold for the whole conversation: they come first.
    system = [m["content"] for m in messages if m["role"] == "system"]
    spoken = [m for m in messages if m["role"] != "system"]
    if system:
        # One that is empty stays: some templates write their own where there is none.
        text = "\n\n".join(words for words in system if words.strip())
        spoken.insert(0, {"role": "system", "content": text})
    return tuple(spoken)


def turns_in(value: Any, field: str) -> Any:
    """The turns of a field, which a table can only hold as a text of JSON.

    Raises:
        BadRecord: E102 a text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRecord(
            "E102", f"'{field}' is a string, not a list, and not JSON: {error}"
        ) from None


def with_record_loss(
    turns: tuple[Message, ...], record: dict[str, Any]
) -> tuple[Message, ...]:
    """The conversation, whose turns weigh what the whole record weighs, too."""
    trained, weight = _loss(record, "the record")
    if trained is False:
        raise BadRecord("E102", "the record bears no loss: there is nothing to learn")
    if weight is None:
        return turns
    return tuple({**m, "weight": m.get("weight", 1.0) * weight} for m in turns)


def conversation(
    turns: Any, field: str, role_key: str = "role", content_key: str = "content"
) -> tuple[Message, ...]:
    """Turns to learn from; errors as `read_turns`."""
    return to_learn_from(read_turns(turns, field, role_key, content_key))


def to_learn_from(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, among which has to be something to learn."""
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRecord("E102", "no turn of the assistant, so nothing to learn")
    if not any(m.get("train", m["role"] == "assistant") for m in messages):
        raise BadRecord(
            "E102", "'train' or 'weight' leaves no turn that bears loss to learn from"
        )
    return messages


def with_system(turns: tuple[Message, ...], system: Any) -> tuple[Message, ...]:
    """The conversation with the instructions that stand beside its turns."""
    if system is None:
        return turns
    text = string_of(system, "'system'")
    if not text.strip():
        return turns
    if turns[0]["role"] != "system":
        return ({"role": "system", "content": text}, *turns)
    if not turns[0]["content"].strip():
        return ({**turns[0], "content": text}, *turns[1:])
    if turns[0]["content"] != text:
        raise BadRecord(
            "E102", "'system' and the conversation's own system turn are not the same"
        )
    return turns


def with_tools(
    turns: tuple[Message, ...], record: dict[str, Any]
) -> tuple[Message, ...]:
    """The conversation with the definitions of tools that stand beside its turns."""
    for name in TOOLS:
        if not is_empty(record.get(name)) and (made := tool_definitions(record[name])):
            first: Message = {**turns[0], "tools": made}
            return (first, *turns[1:])
    return turns


def unread_in_turns(turns: Sequence[Any], field: str, keys: Sequence[str]) -> list[str]:
    """Fields of turns that hold something and are not read, as "field[].name".

    `NAMES` are among them: whether a chat template writes them is known only later.
    """
    read = (*keys, *LOSS, *CALLS)
    return [
        f"{field}[].{name}"
        for turn in turns
        for name, value in turn.items()
        if name not in read and not is_empty(value)
    ]


def refuse_lost(fields: dict[str, Any], where: str) -> None:
    """Refuse what would be lost; empty values hold nothing."""
    for name in LOST:
        if fields.get(name):
            raise BadRecord(
                "E102",
                f"{where} has '{name}', which Lumina cannot train on and would lose; "
                "write it into the turns' text, or remove the field",
            )
    for name in UNCLEAR:
        if not is_empty(fields.get(name)):
            raise BadRecord(
                "E102",
                f"{where} has '{name}', which says something of its loss that Lumina "
                "does not know",
                "say which turns bear loss with 'train': true or false, or with "
                "'weight', and remove the field",
            )


def _message(turn: Any, where: str, role_key: str, content_key: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRecord("E102", f"{where} is {kind_of(turn)}, not an object")
    refuse_lost(turn, where)
    calls = _calls(turn, where)
    if role_key not in turn or (content_key not in turn and not calls):
        missing = role_key if role_key not in turn else content_key
        raise BadRecord("E102", f"{where} has no '{missing}'")
    name = string_of(turn[role_key], f"'{role_key}' of {where}")
    role = name.strip().lower()
    content = text_of(turn.get(content_key), f"'{content_key}' of {where}", bool(calls))
    message = _of_role(role, name, content, calls, where, content_key)
    if calls and turn.get(content_key) is None:
        message["no_content"] = True
    for key in NAMES:
        if not is_empty(turn.get(key)):
            value = string_of(turn[key], f"'{key}' of {where}")
            message[key] = value  # type: ignore[literal-required]
    trained, weight = _loss(turn, where)
    if trained is not None:
        message["train"] = trained
    if weight is not None:
        message["weight"] = weight
    return message


def _of_role(
    role: str,
    name: str,
    content: str,
    calls: list[dict[str, Any]],
    where: str,
    content_key: str,
) -> Message:
    if role in CALL_ROLES:
        made = calls_in_text(content, where)
        return {"role": "assistant", "content": "", "no_content": True,
                "tool_calls": made}  # fmt: skip
    known = "tool" if role in RESULT_ROLES else ROLES.get(role)
    if known is None:
        every = ", ".join((*ROLES, *RESULT_ROLES, *CALL_ROLES))
        raise BadRecord("E102", f"{where} has the unknown role {name!r} ({every})")
    if calls and known != "assistant":
        raise BadRecord("E102", f"{where}, of the {known}, has calls of tools")
    if not content.strip() and not calls and known not in ("tool", "system"):
        raise BadRecord("E102", f"{where} has an empty '{content_key}'")
    message: Message = {"role": known, "content": content}
    if calls:
        message["tool_calls"] = calls
    return message


def _calls(turn: dict[str, Any], where: str) -> list[dict[str, Any]]:
    found = []
    for name in CALLS:
        if not is_empty(turn.get(name)):
            found += tool_calls(turn[name], where)
    return found


def text_of(value: Any, where: str, optional: bool = False) -> str:
    """The words of a turn: a string, or parts of which each is text.

    Args:
        value: of the field.
        where: names it in errors.
        optional: null is no words.

    Raises:
        BadRecord: E102 for a part that is an image, a sound or another thing.
    """
    if value is None and optional:
        return ""
    if not isinstance(value, list):
        return string_of(value, where)
    texts = []
    for number, part in enumerate(value, 1):
        if isinstance(part, str):
            texts.append(string_of(part, f"part {number} of {where}"))
            continue
        if not isinstance(part, dict):
            raise BadRecord("E102", f"part {number} of {where} is {kind_of(part)}")
        kind = part.get("type", "text" if "text" in part else None)
        if kind not in ("text", "input_text", "output_text"):
            raise BadRecord(
                "E102",
                f"part {number} of {where} is of type {kind!r}, and only text can be "
                "trained on",
                "take such parts out, or leave such records out with "
                "--data-errors skip",
            )
        texts.append(string_of(part.get("text"), f"part {number} of {where}"))
    return "".join(texts)


def _loss(turn: dict[str, Any], where: str) -> tuple[bool | None, float | None]:
    """(whether the turn bears loss by its own "train" or "weight", its weight).

    A weight of 1 says nothing: it is what every turn has that bears loss.
    """
    train, said = _one_of(TRAIN, turn, where)
    weight, weighed = _one_of(WEIGHT, turn, where)
    if train is not None and not isinstance(train, bool):
        raise BadRecord(
            "E102", f"'{said}' of {where} is {kind_of(train)}, not true/false"
        )
    if weight is not None and not (
        isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0
    ):
        raise BadRecord(
            "E102", f"'{weighed}' of {where} is {weight!r}, not a number of 0 or more"
        )
    if weight is not None and train is not None and bool(weight) != train:
        raise BadRecord(
            "E102", f"'{weighed}' and '{said}' of {where} contradict each other"
        )
    if weight is None or weight == 1:
        return train, None
    return (False, None) if weight == 0 else (train, float(weight))


def _one_of(names: Sequence[str], turn: dict[str, Any], where: str) -> tuple[Any, str]:
    """What one of several names of the same thing holds, and which name it was."""
    found = [(turn[name], name) for name in names if turn.get(name) is not None]
    for value, name in found[1:]:
        if value != found[0][0]:
            raise BadRecord(
                "E102", f"'{found[0][1]}' and '{name}' of {where} contradict each other"
            )
    return found[0] if found else (None, names[0])
