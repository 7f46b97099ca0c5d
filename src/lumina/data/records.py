"""What one JSON record of a data file means: a text or a conversation."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

ROLES: dict[str, str] = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
    "system": "system",
}
"""Role names met in the wild -> the three roles of a conversation."""


LOST = ("tools", "functions", "tool_calls", "function_call", "reasoning_content")
"""Fields whose content no turn can hold: a record with one of them is refused."""

TOOL_ROLES = (
    "tool", "tool_call", "tool_response", "function", "function_call", "observation",
    "ipython",
)  # fmt: skip
"""Roles of calls of tools and of their results: no turn of a conversation here."""

_TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Field that holds a conversation -> the fields of each turn, speaker first."""

_LOSS = ("train", "weight")
"""Fields of a turn that say whether it bears loss."""


_READ = {"text", "system", *_TURNS, *sum(_TURNS.values(), ()), *_LOSS}
"""Fields that are read."""


class Message(TypedDict):
    """One turn; `role` is user, assistant or system.

    `train`, where it is there, says whether the turn bears loss, whatever its role.
    """

    role: str
    content: str
    train: NotRequired[bool]


class BadRecord(Exception):
    """A record that cannot be used: an error code and a reason.

    Attributes:
        hint: what to do, where the code's usual advice does not fit.
    """

    def __init__(self, code: str, reason: str, hint: str | None = None) -> None:
        self.code = code
        self.reason = reason
        self.hint = hint
        super().__init__(reason)


def parse_record(record: Any) -> str | tuple[Message, ...]:
    """The text, or the conversation, of one record.

    Understood: {"text": ...}, {"messages": [{"role", "content"}, ...]} and ShareGPT's
    {"conversations": [{"from", "value"}, ...]}, both also with "system" beside them.
    A field that is null counts as absent; other fields are ignored, and named by
    `unread_fields`.

    Raises:
        BadRecord: E101 not an object, E102 fields or roles, E103 text that is not
            Unicode, E105 nothing in it.
    """
    if not isinstance(record, dict):
        raise BadRecord("E101", f"expected a JSON object, found {_kind(record)}")
    nulls = [name for name, value in record.items() if value is None]
    record = {name: value for name, value in record.items() if value is not None}
    for field, (role, content) in _TURNS.items():
        if field in record:
            _refuse_lost(record, "the record")
            turns = _conversation(record[field], field, role, content)
            return _with_system(turns, record.get("system"))
    if "text" in record:
        text = _string(record["text"], "'text'")
        if not text.strip():
            raise BadRecord("E105", "'text' is empty")
        return text
    names = [*map(repr, record), *(f"{name!r}, which is null" for name in nulls)]
    fields = ", ".join(sorted(names)) or "none"
    raise BadRecord("E102", f"no field 'text' or 'messages' (fields: {fields[:200]})")


def each_field_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its fields, for `json.loads`.

    Raises:
        BadRecord: E102 a field that is read stands there twice with two values, of
            which JSON does not say which one holds.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        for name, value in pairs:
            if name in _READ and fields[name] != value:
                raise BadRecord(
                    "E102", f"the field {name!r} is there twice, with two values"
                )
    return fields


def unread_fields(record: Any) -> list[str]:
    """Names of the fields of a good record that hold something and are not read.

    Those of turns are named as in "messages[].name", once for every turn.
    """
    holds = {name: value for name, value in record.items() if not _empty(value)}
    field = next((field for field in _TURNS if record.get(field) is not None), None)
    if field is None:
        return [name for name in holds if name != "text"]
    unread = [name for name in holds if name not in (field, "system")]
    read = (*_TURNS[field], *_LOSS)
    return unread + [
        f"{field}[].{name}"
        for turn in record[field]
        for name, value in turn.items()
        if name not in read and not _empty(value)
    ]


def _empty(value: Any) -> bool:
    """Whether a field says nothing; a zero and "false" say something."""
    return value is None or value in ("", [], {})


def _refuse_lost(fields: dict[str, Any], where: str) -> None:
    """Refuse what would be lost; empty values hold nothing."""
    for name in LOST:
        if fields.get(name):
            raise BadRecord(
                "E102",
                f"{where} has '{name}', which Lumina cannot train on and would lose; "
                "write it into the turns' text, or remove the field",
            )


def _with_system(turns: tuple[Message, ...], system: Any) -> tuple[Message, ...]:
    """The conversation with the instructions that stand beside its turns."""
    if system is None:
        return turns
    text = _string(system, "'system'")
    if not text.strip():
        return turns
    if turns[0]["role"] != "system":
        return ({"role": "system", "content": text}, *turns)
    if turns[0]["content"] != text:
        raise BadRecord(
            "E102", "'system' and the conversation's own system turn are not the same"
        )
    return turns


def read_turns(
    turns: Any, field: str, role_key: str = "role", content_key: str = "content"
) -> tuple[Message, ...]:
    """The turns of a conversation, the system's first; `field` is their name in errors.

    Raises:
        BadRecord: as `parse_record`, but for what bears loss.
    """
    if not isinstance(turns, list):
        raise BadRecord("E102", f"'{field}' is {_kind(turns)}, not a list")
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
        spoken.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return tuple(spoken)


def _conversation(
    turns: Any, field: str, role_key: str, content_key: str
) -> tuple[Message, ...]:
    """Turns to learn from."""
    messages = read_turns(turns, field, role_key, content_key)
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRecord("E102", "no turn of the assistant, so nothing to learn")
    if not any(m.get("train", m["role"] == "assistant") for m in messages):
        raise BadRecord(
            "E102", "'train' or 'weight' leaves no turn that bears loss to learn from"
        )
    return messages


def _message(turn: Any, where: str, role_key: str, content_key: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRecord("E102", f"{where} is {_kind(turn)}, not an object")
    _refuse_lost(turn, where)
    for key in (role_key, content_key):
        if key not in turn:
            raise BadRecord("E102", f"{where} has no '{key}'")
    name = _string(turn[role_key], f"'{role_key}' of {where}")
    role = ROLES.get(name.strip().lower())
    if name.strip().lower() in TOOL_ROLES:
        raise BadRecord(
            "E102",
            f"{where} has the role {name!r}: calls of tools and their results are no "
            "turns that Lumina can train on",
            "write the calls and their results into the text of the user's and the "
            "assistant's turns, or leave such records out with --data-errors skip",
        )
    if role is None:
        known = ", ".join(ROLES)
        raise BadRecord("E102", f"{where} has the unknown role {name!r} ({known})")
    content = _string(turn[content_key], f"'{content_key}' of {where}")
    if not content.strip():
        raise BadRecord("E102", f"{where} has an empty '{content_key}'")
    message: Message = {"role": role, "content": content}
    trained = _trained(turn, where)
    if trained is not None:
        message["train"] = trained
    return message


def _trained(turn: dict[str, Any], where: str) -> bool | None:
    """Whether the turn bears loss by its own "train" or "weight"; None: unsaid.

    A weight of 1 says nothing: it is what every turn has that bears loss.
    """
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise BadRecord("E102", f"'train' of {where} is {_kind(train)}, not true/false")
    if weight is not None and (isinstance(weight, str) or weight not in (0, 1)):
        raise BadRecord(
            "E102", f"'weight' of {where} is {weight!r}; only 0 and 1 are understood"
        )
    if weight is not None and train is not None and bool(weight) != train:
        raise BadRecord(
            "E102", f"'weight' and 'train' of {where} contradict each other"
        )
    return False if weight == 0 and weight is not None else train


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRecord("E102", f"{where} is {_kind(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            "E103", f"{where} holds half a surrogate pair at character {error.start}"
        ) from None
    return value


def _kind(value: Any) -> str:
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
