"""A JSON schema of configuration files, for editors that complete and check YAML.

It accepts what the loader accepts and refuses keys that it refuses. Of values it knows
the type, the choices and the bounds; what goes together is checked by `lumina` itself.
"""

from __future__ import annotations

import re
import typing
from functools import reduce
from typing import Any

from lumina.config.leaves import (
    SWITCHED,
    VALUE_SYNONYMS,
    choices,
    field,
    is_list,
    optional,
    value_type,
)
from lumina.config.migrations import KEY, VERSION
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.spellings import DICTIONARIES, SWITCHES, SYNONYMS

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that editors' YAML servers read best."""

_NUMBER = r"^\s*[-+]?[0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?\s*$"
"""A number as text, as YAML gives 1e-4."""

_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}

_OFF_OR_ON = ("true", "yes", "on", "y", "t", "1", "false", "no", "off", "n", "f", "0")


def schema() -> Schema:
    """The schema of a configuration file."""
    definitions = {leaf: _leaf(leaf) for leaf in LEAVES}
    definitions["preset"] = {
        "description": "a preset; `lumina presets` lists them",
        "type": ["string", "null"],
    }
    own = _object({name: _meant(name) for name in _spellings(LEAVES)})
    definitions["any option"] = own | {"description": "options of any section"}
    top = _object(
        {
            KEY: {"description": "of the file", "type": "integer", "maximum": VERSION},
            "asked": {
                "description": "in a saved file: options that were chosen for the run",
                "type": "array",
                "items": {"type": "string"},
            },
            "decided": {
                "description": "in a saved file: options that were worked out, and why",
                "type": ["object", "null"],
            },
            **{name: _ref("preset") for name in _spellings(["preset"])},
            **{name: _ref("any option") for name in DICTIONARIES},
            **{name: _meant(name) for name in _spellings(LEAVES)},
        }
    )
    for name in SECTIONS:
        section = _section(name)
        if name in top["properties"]:  # also a synonym of an option
            section = {"anyOf": [section, top["properties"][name]]}
        top["properties"][name] = section
    return {
        "$schema": DRAFT,
        "title": "Settings of a Lumina run",
        "definitions": definitions,
        **top,
    }


def _section(name: str) -> Schema:
    section = SECTIONS[name]
    text = (section.__doc__ or "").strip().splitlines()[0]
    options = {one: _meant(one) for one in _spellings(section.model_fields)}
    return {"description": text, **_object(options), "type": ["object", "null"]}


def _object(properties: dict[str, Schema]) -> Schema:
    """An object with these keys and no others; hyphens may stand for underscores."""
    patterns = {
        f"^{re.escape(name).replace('_', '[-_]')}$": value
        for name, value in properties.items()
        if "_" in name
    }
    return {
        "type": "object",
        "properties": dict(properties),
        "patternProperties": patterns,
        "additionalProperties": False,
    }


def _spellings(leaves: typing.Iterable[str]) -> list[str]:
    wanted = set(leaves)
    return [*wanted & {*LEAVES}, *(s for s, leaf in SYNONYMS.items() if leaf in wanted),
            *wanted & {"preset"}]  # fmt: skip


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name.replace(' ', '%20')}"}


def _meant(spelling: str) -> Schema:
    """What may stand behind one spelling of an option."""
    leaf = SYNONYMS.get(spelling, spelling)
    if spelling in SWITCHES:
        text = f"{leaf} {SWITCHES[spelling][1]}"
        return {"description": text, "anyOf": _switch()}
    if spelling in ("bf16", "fp16"):
        text = f"precision mixed_{spelling}"
        return {"description": text, "anyOf": [*_switch(), {"const": "auto"}]}
    if spelling == "max_steps":
        return {"anyOf": [_ref(leaf), {"const": -1, "description": "no limit"}]}
    return _ref(leaf)


def _leaf(leaf: str) -> Schema:
    """The schema of one option."""
    found = field(leaf)
    kinds = _kinds(leaf)
    if optional(leaf):
        kinds.append({"type": "null"})
        if value_type(leaf) is not str:
            kinds.append({"const": "auto"})
    described: Schema = {"title": leaf, "description": found.description or leaf}
    default = list(found.default) if isinstance(found.default, tuple) else found.default
    return described | {"default": default, "anyOf": kinds}


def _kinds(leaf: str) -> list[Schema]:
    kind = value_type(leaf)
    if words := choices(leaf):
        return _choices(leaf, words)
    if is_list(leaf):
        item = _items(leaf)
        return [{"type": "array", "items": item}, item]
    if kind is bool:
        return _switch()
    if kind in (int, float):
        return [*_number(leaf, kind), {"type": "string", "pattern": _NUMBER}]
    return [{"type": "string", "pattern": r"\S"}]


def _choices(leaf: str, words: tuple[str, ...]) -> list[Schema]:
    numbers = [int(word) for word in words if word.isdigit()]
    kinds: list[Schema] = [{"enum": [*words, *numbers]}]
    if others := VALUE_SYNONYMS.get(leaf):
        kinds.append({"enum": list(others)})
    if leaf in SWITCHED:
        kinds += [{"type": "boolean"}, _words(("yes", "on", "no", "off"))]
    return kinds


def _items(leaf: str) -> Schema:
    kind = typing.get_args(value_type(leaf))[0]
    if kind in (int, float):
        numbers = [{"type": "integer" if kind is int else "number"},
                   {"type": "string", "pattern": _NUMBER}]  # fmt: skip
        return {"anyOf": numbers}
    types = ["string", "object"] if leaf == "phases" else ["string"]
    return {"type": types}


def _number(leaf: str, kind: type) -> list[Schema]:
    bounds = {
        _BOUNDS[name]: getattr(item, name)
        for item in field(leaf).metadata
        for name in _BOUNDS
        if hasattr(item, name)
    }
    whole = {"multipleOf": 1} if kind is int else {}
    return [{"type": "number", **whole, **bounds}]


def _switch() -> list[Schema]:
    return [{"type": "boolean"}, _words(_OFF_OR_ON)]


def _words(words: tuple[str, ...]) -> Schema:
    """One of some words, in small letters or capital ones."""

    def either(word: str) -> str:
        return reduce(lambda text, c: text + f"[{c.upper()}{c}]", word, "")

    return {"type": "string", "pattern": f"^({'|'.join(map(either, words))})$"}
