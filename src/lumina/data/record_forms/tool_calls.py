"""Calls of tools and definitions of tools, in the one shape that templates take."""

from __future__ import annotations

import json
from typing import Any

from lumina.data.record_forms.message import BadRecord, kind_of, string_of


def tool_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls as {"type": "function", "function": {"name", "arguments"}}.

    Understood are OpenAI's calls and bare {"name", "arguments"}. Arguments that are
    JSON in a string, as OpenAI's API gives them, become an object: templates write JSON
    of them.

    Args:
        value: a call or a list of calls.
        where: names it in errors.

    Raises:
        BadRecord: E102 for what is no call.
    """
    calls = value if isinstance(value, list) else [value]
    return [_call(call, f"call {n} of {where}") for n, call in enumerate(calls, 1)]


def calls_in_text(text: str, where: str) -> list[dict[str, Any]]:
    """Calls that stand as JSON in the words of a turn."""
    return tool_calls(_json(text, where), where)


def _call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise BadRecord("E102", f"{where} is {kind_of(call)}, not an object")
    inner = call.get("function", call)
    if not isinstance(inner, dict):
        raise BadRecord("E102", f"{where} has a 'function' that is {kind_of(inner)}")
    name = string_of(inner.get("name"), f"'name' of {where}")
    if not name.strip():
        raise BadRecord("E102", f"{where} has an empty 'name'")
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments, f"'arguments' of {where}") if arguments else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadRecord(
            "E102", f"'arguments' of {where} is {kind_of(arguments)}, not an object"
        )
    unicode(arguments, where)
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call.get("id") is not None:
        made = {"id": string_of(call["id"], f"'id' of {where}"), **made}
    return made


def tool_definitions(value: Any) -> list[dict[str, Any]]:
    """Definitions as {"type": "function", "function": {"name", ...}}.

    They may stand in a string as JSON, and without the outer object.

    Raises:
        BadRecord: E102 for what defines no tools.
    """
    if isinstance(value, str):
        value = _json(value, "'tools'") if value.strip() else []
    if not isinstance(value, list):
        raise BadRecord("E102", f"'tools' is {kind_of(value)}, not a list")
    made = []
    for number, tool in enumerate(value, 1):
        if not isinstance(tool, dict):
            raise BadRecord("E102", f"tool {number} is {kind_of(tool)}, not an object")
        whole = tool if "function" in tool else {"type": "function", "function": tool}
        inner = whole["function"]
        if not isinstance(inner, dict):
            raise BadRecord("E102", f"'function' of tool {number} is {kind_of(inner)}")
        string_of(inner.get("name"), f"'name' of tool {number}")
        unicode(whole, f"tool {number}")
        made.append(whole)
    return made


def unicode(value: Any, where: str) -> None:
    """Refuse half of a surrogate pair anywhere within a value."""
    string_of(json.dumps(value, ensure_ascii=False), where)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord("E102", f"{where} is not JSON: {error}") from None
