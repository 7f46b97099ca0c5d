"""`Message`, one turn of a conversation, and `BadRecord`, what cannot be one."""

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
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
"""Role names met in the wild -> the roles of a conversation."""

RESULT_ROLES = (
    "tool", "tool_response", "function", "function_response", "observation", "ipython",
)  # fmt: skip
"""Roles of what a tool answered."""

CALL_ROLES = ("function_call", "tool_call")
"""Roles of calls that stand in a turn of their own, as JSON."""


class Message(TypedDict):
    """One turn; `role` is user, assistant, system or tool.

    Attributes:
        role: the speaker.
        content: the words.
        train: whether the turn bears loss, whatever its role; where it is there.
        weight: what the loss of its tokens is multiplied with; 1 where it is not there.
        no_content: the record has null in place of the words, beside calls of tools.
        tool_calls: of the assistant, as transformers' templates take them: each
            {"type": "function", "function": {"name", "arguments"}}, perhaps with "id".
        name: of the speaker, or of the tool that answers.
        tool_call_id: the call that a tool answers.
        tools: definitions of tools; of the first message only, for the conversation.
    """

    role: str
    content: str
    train: NotRequired[bool]
    weight: NotRequired[float]
    no_content: NotRequired[bool]
    tool_calls: NotRequired[list[dict[str, Any]]]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]
    tools: NotRequired[list[dict[str, Any]]]


Content = str | tuple[Message, ...]
"""A text or a conversation."""


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


def is_empty(value: Any) -> bool:
    """Whether a field says nothing; a zero and "false" say something."""
    return value is None or value in ("", [], {})


def string_of(value: Any, where: str) -> str:
    """The value, which has to be a string; `where` names it in errors.

    Raises:
        BadRecord: E102 not a string, E103 not Unicode.
    """
    if not isinstance(value, str):
        raise BadRecord("E102", f"{where} is {kind_of(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            "E103", f"{where} holds half a surrogate pair at character {error.start}"
        ) from None
    return value


def filled(value: Any, where: str) -> str:
    """The value, which has to be a string with more than white space in it."""
    text = string_of(value, where)
    if not text.strip():
        raise BadRecord("E105", f"{where} is empty")
    return text


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
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
