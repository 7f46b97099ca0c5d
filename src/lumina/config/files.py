"""Configuration files: YAML in, YAML out."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lumina.config.layer import Layer
from lumina.config.leaves import at_home, canonical, meaning
from lumina.config.migrations import migrated
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.spellings import DICTIONARIES, SYNONYMS
from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean

_GUESSED = ("bool", "int", "float", "timestamp")

_MEANT = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (
        r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)",
        "-+0123456789",
    ),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""Which plain words are no text, and how they begin. YAML 1.1 also takes 010 for
eight, 1:30 for ninety, a date for a day and `no` for false; here these stay text,
and the option says what the text means: 010 is ten, `no` is false for a switch and
a name for a name, 1:30 is refused where a number is wanted."""


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which refuses a key given twice and reads words as written."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, Hashable):
                continue  # refused by the loader itself
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# Its own table, so that the one of yaml.SafeLoader stays as it is.
_StrictLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in pairs
        if tag.removeprefix("tag:yaml.org,2002:") not in _GUESSED
    ]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _MEANT.items():
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def read_layer(path: str | Path) -> Layer:
    """The options a YAML file sets, sectioned or flat, under their canonical names.

    Returns:
        Leaf (or "preset"; in a saved file "asked" and "decided") -> value as written.

    A file of an earlier version is read as it was meant (`lumina.config.migrations`).

    Raises:
        LuminaError: E101 not YAML, not a mapping, or of a newer version, E103 not
            UTF-8, E104 no such file, E106 a folder or no permission, E004 unknown key,
            E002 one option given under two spellings.
    """
    values = migrated(read_mapping(Path(at_home(str(path)))), str(path))
    layer = Layer(str(path))
    put = layer.put
    for key, value in values.items():
        name = str(key)
        if name in SECTIONS and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                _check_section(path, name, str(inner))
                put(str(inner), inner_value)
        elif name in SECTIONS and value is None:
            continue  # a heading with nothing below it
        elif name in DICTIONARIES and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                put(str(inner), inner_value)
        elif name in ("asked", "decided"):
            layer.leaves[name] = value
        elif isinstance(value, Mapping):
            raise _unknown_section(path, name)
        elif name in SECTIONS and name not in SYNONYMS and name not in LEAVES:
            raise LuminaError(
                "E005",
                f"{path}: the section {name!r} cannot be {value!r}",
                "it holds options, one on a line, indented",
            )
        else:
            put(name, value)
    return layer


def read_value(text: str) -> Any:
    """One value as a configuration file writes it, such as `0.1`, `no` or `[a, b]`.

    Raises:
        LuminaError: E005 for text that YAML cannot read.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise LuminaError(
            "E005", f"the value {text!r} cannot be read", "write it as in a YAML file"
        ) from error


def write_yaml(path: str | Path, text: str) -> None:
    """Write a configuration file, with the failures a person can act on coded."""
    target = Path(at_home(str(path)))
    try:
        target.write_text(text, encoding="utf-8")
    except FileNotFoundError as error:
        raise LuminaError(
            "E104", f"{target.parent} is not a folder", "make the folder first"
        ) from error
    except (PermissionError, IsADirectoryError) as error:
        raise LuminaError(
            "E106", f"cannot write {target}", "choose a file you may write"
        ) from error


def read_mapping(path: Path) -> dict[Any, Any]:
    """What a YAML file holds, read without guesses about words.

    Raises:
        LuminaError: E101 not YAML or not a mapping, E103 not UTF-8, E104 no such file,
            E106 a folder or no permission.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LuminaError(
            "E104", f"there is no file {path}", "check the path of --config-file"
        ) from error
    except IsADirectoryError as error:
        inside = path / "config.yaml"
        raise LuminaError(
            "E106",
            f"{path} is a folder, not a file",
            f"name {inside}" if inside.is_file() else "name the YAML file inside it",
        ) from error
    except PermissionError as error:
        raise LuminaError(
            "E106", f"{path} may not be read", "check its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise LuminaError(
            "E103", f"{path} is not UTF-8 text", "save the file as UTF-8"
        ) from error
    try:
        # A subclass of the safe loader: no tag can build an object.
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise _broken(path, error) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise LuminaError(
            "E101",
            f"{path} holds a {type(values).__name__}, not options",
            "write one `option: value` on each line",
        )
    return values


def _broken(path: Path, error: yaml.YAMLError) -> LuminaError:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return LuminaError("E101", f"{path}{line}: {problem}", "correct the YAML there")


def _check_section(path: str | Path, section: str, name: str) -> None:
    leaf = canonical(name)
    if leaf == "preset" or LEAVES[leaf] != section:
        home = "the top level" if leaf == "preset" else f"section {LEAVES[leaf]!r}"
        raise LuminaError(
            "E004",
            f"{path}: {name!r} is not an option of section {section!r}",
            f"it belongs to {home}",
        )


def _unknown_section(path: str | Path, name: str) -> LuminaError:
    meant = meaning(name)
    if meant:
        return LuminaError(
            "E004",
            f"{path}: {name!r} is not an option",
            f"{meant}`lumina config explain` lists every option",
        )
    hint = did_you_mean(name, SECTIONS)
    return LuminaError(
        "E004",
        f"{path}: {name!r} is not a section",
        f"{hint}sections are {', '.join(SECTIONS)}; options may also be written flat",
    )
