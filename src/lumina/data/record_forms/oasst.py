"""Trees of Open Assistant: a prompt, the replies to it, and the replies to those."""

from __future__ import annotations

from typing import Any

from lumina.data.record_forms.form import Form, Record
from lumina.data.record_forms.message import (
    ROLES,
    BadRecord,
    Content,
    Message,
    filled,
    kind_of,
    string_of,
)
from lumina.data.record_forms.turns import to_learn_from

MOST_DEPTH = 1000
"""Turns of a path; JSON itself ends before."""


class Oasst(Form):
    """The path of a tree on which people ranked each reply best.

    Of the replies to a message the one with the lowest "rank" is followed (the first
    one where none has a rank, or where two have the same; deleted ones are passed
    over), and the path ends with its last turn of the assistant. Other replies are not
    trained on: they are counted as "replies on other paths" with the unread fields.
    """

    name = "oasst"
    about = '{"prompt": {"role", "text", "replies": [...]}}'
    rank = 10
    marks = ("prompt",)
    fields = ("prompt", "message_tree_id", "tree_state")

    def recognises(self, record: Record) -> bool:
        """Its prompt is a message with replies."""
        prompt = record.get("prompt")
        return isinstance(prompt, dict) and "replies" in prompt and "text" in prompt

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation."""
        turns = [_turn(node, f"message {n}") for n, node in enumerate(_path(record), 1)]
        while turns and turns[-1]["role"] != "assistant":
            turns.pop()
        return {"": to_learn_from(tuple(turns))}

    def unread(self, record: Record) -> list[str]:
        """A name for every reply that is not on the path."""
        path = _path(record)
        last = max(n for n, one in enumerate(path) if _role(one) == "assistant")
        count = _size(record["prompt"]) - last - 1
        return super().unread(record) + ["replies on other paths"] * count


def _path(record: Record) -> list[dict[str, Any]]:
    """The messages from the prompt on, the best reply of each behind it."""
    node = record.get("prompt")
    found: list[dict[str, Any]] = []
    while node is not None and len(found) < MOST_DEPTH:
        if not isinstance(node, dict):
            raise BadRecord("E102", f"a message of the tree is {kind_of(node)}")
        found.append(node)
        replies = [one for one in _replies(node) if not one.get("deleted")]
        node = min(replies, key=_rank, default=None)
    return found


def _rank(reply: dict[str, Any]) -> float:
    rank = reply.get("rank")
    known = isinstance(rank, (int, float)) and not isinstance(rank, bool)
    return float(rank) if known else float("inf")  # type: ignore[arg-type]


def _replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or any(not isinstance(r, dict) for r in replies):
        raise BadRecord("E102", "'replies' of a message is no list of messages")
    return replies


def _size(node: dict[str, Any]) -> int:
    return 1 + sum(_size(reply) for reply in _replies(node))


def _role(node: dict[str, Any]) -> str | None:
    return ROLES.get(str(node.get("role")).strip().lower())


def _turn(node: dict[str, Any], where: str) -> Message:
    role = _role(node)
    if role is None:
        name = string_of(node.get("role"), f"'role' of {where}")
        raise BadRecord("E102", f"{where} has the unknown role {name!r}")
    return {"role": role, "content": filled(node.get("text"), f"'text' of {where}")}


FORM = Oasst()
