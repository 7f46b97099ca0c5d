"""Calls of tools and their results in conversations."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lumina.data.records import Message


def tools_of(message: Message) -> str:
    """The calls and definitions of tools in a message as JSON; "" without any."""
    found = [message[name] for name in ("tools", "tool_calls") if name in message]
    return json.dumps(found, ensure_ascii=False, sort_keys=True) if found else ""


def has_tools(messages: Sequence[Message]) -> bool:
    """Whether a conversation has calls, results or definitions of tools."""
    return any(m["role"] == "tool" or tools_of(m) for m in messages)
