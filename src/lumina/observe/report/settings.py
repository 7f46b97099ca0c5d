"""The settings and the plan as tables: what differs from defaults comes first."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from lumina import quantities as q

_SETTING = re.compile(r"  (\w+): (.*?)(?:  # (.*))?")

Row = tuple[str, str, str]


def settings(text: str) -> tuple[list[Row], list[Row]]:
    """(option, value, source) of config.yaml: those that were set, and the others.

    The file is Lumina's own and its comments are the sources, so its lines are read as
    they are; YAML would lose them.
    """
    asked: list[Row] = []
    given: list[Row] = []
    for line in text.splitlines():
        match = _SETTING.fullmatch(line)
        if match:
            source = match[3] or ""
            silent = re.match(r"(default|preset)\b", source)
            (given if silent else asked).append((match[1], match[2], source))
    return asked, given


def choices(plan: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    """(name, value, reason) of the plan: those with a reason of their own, the others.

    A reason that only repeats where a value came from, such as "the default", is not
    one of its own.
    """
    rows = _rows(plan)
    why = [row for row in rows if row[2] and not _repeats(row[2])]
    return why, [row for row in rows if row not in why]


def _repeats(reason: str) -> bool:
    return bool(re.fullmatch(r"the default|flag|preset \S+|python|file .*", reason))


def _rows(plan: Mapping[str, Any]) -> list[Row]:
    reasons = plan.get("reasons") or {}
    skipped = ("reasons", "warnings", "features")
    switched = "features."
    rows = [
        (
            name,
            _value(name.removeprefix(switched) in plan.get("features", ())),
            str(why),
        )
        for name, why in reasons.items()
        if name.startswith(switched)
    ]
    for name, value in plan.items():
        if name in skipped:
            continue
        if isinstance(value, Mapping):
            rows += [
                (f"{name}.{inner}", _value(v, name == "memory"), "")
                for inner, v in value.items()
            ]
        else:
            rows.append((name, _value(value), str(reasons.get(name, ""))))
    return rows


def _value(value: Any, is_bytes: bool = False) -> str:
    if is_bytes:
        return q.byte_size(value)
    if value is None:
        return q.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False)
