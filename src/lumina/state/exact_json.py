"""JSON that gives back exactly what was put in: strict tokens, exact floats, bytes."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NoReturn

_FLOAT = "$float"
_BYTES = "$bytes"
_PLAIN = frozenset({type(None), bool, int, str})
"""Types that are written as they are; most values, so nothing is called for them."""
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def dumps(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Strict JSON of `value`.

    Floats are written with the digits that read back to the same bits. NaN and the
    infinities, which JSON lacks, become `{"$float": "nan"}`; bytes become
    `{"$bytes": base64}`. Tuples come back as lists.

    Raises:
        TypeError: for anything else that JSON cannot hold, naming where it is.
    """
    return json.dumps(
        _encode(value, "value"), allow_nan=False, sort_keys=sort_keys, indent=indent
    )


def loads(text: str | bytes) -> Any:
    """The inverse of `dumps`; refuses NaN tokens and doubled keys (ValueError)."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """What one object of the text stands for; those inside it were read before."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice in one object")
    if len(value) == 1:
        if _FLOAT in value:
            return _NON_FINITE[value[_FLOAT]]
        if _BYTES in value:
            return base64.b64decode(value[_BYTES], validate=True)
    return value


def _encode(value: Any, where: str) -> Any:
    # bool before int, since True is an int; exact types only, so that a tensor or a
    # numpy scalar is refused rather than rounded.
    if type(value) in _PLAIN:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, list | tuple):
        return [
            item if type(item) in _PLAIN else _encode(item, f"{where}[{i}]")
            for i, item in enumerate(value)
        ]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys must be strings")
            if key in (_FLOAT, _BYTES):
                raise TypeError(f"{where} has the key {key!r}, which is reserved")
        return {
            key: item if type(item) in _PLAIN else _encode(item, f"{where}.{key}")
            for key, item in value.items()
        }
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")
