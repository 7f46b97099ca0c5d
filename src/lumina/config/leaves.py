"""Single options: their spellings, meaning, conversion, and what they may be."""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lumina.config.deepspeed import translated
from lumina.config.names_elsewhere import NAMES
from lumina.config.phase_text import phase_text
from lumina.config.provenance import show
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.spellings import MEANT, SWITCHES, SYNONYMS, VALUES
from lumina.errors import LuminaError

SWITCHED: dict[str, tuple[str, str]] = {
    "gradient_checkpointing": ("full", "none"),
    "attention": ("auto", "sdpa"),
    "moe_dispatch": ("capacity", "dropless"),
}
"""Choices that the documents write as a switch: what on and off mean."""

VALUE_SYNONYMS: dict[str, dict[str, str]] = {
    "lr_scheduler": {
        "none": "constant",
        "constant_with_warmup": "constant",
        "warmup_stable_decay": "wsd",
        "one_cycle": "onecycle",
        "poly": "polynomial",
        "inverse_square_root": "inverse_sqrt",
    },
    "attention": {
        "flash": "auto",
        "flash_attention_2": "flash2",
        "flash_attention_3": "flash3",
        "varlen": "flash2",
        "plain": "reference",
    },
}

PATHS = (
    "train_data", "eval_data", "tokenizer", "init_from", "branch_from", "plugins",
    "expert_registry", "run_dir", "resume", "stop_file", "base_training_paths",
    "base_eval_paths",
    "finetuning_paths", "finetuning_eval_paths", "tensorboard_dir", "backup_dir",
)  # fmt: skip
"""Options that name files or folders; a ~ at their beginning is the home folder."""

NAMED_PATHS = ("tasks", "task_eval_data", "sources", "source_eval_data")
"""Options whose entries are NAME=PATH."""


IN_STEPS = {
    "warmup_steps": "warmup_ratio",
    "eval_every_n_batches": "",
    "save_every_n_batches": "",
    "log_every_n_batches": "",
}
"""Counts of steps; transformers takes a share of the run too. How to give that here."""

USE_DEEPSPEED = "use_deepspeed"
"""A switch of the earlier designs: which stage it is, another option may say."""

_SPELLED_ALIKE = 0.85
"""How like an option a wrong name must be to be a slip of the fingers."""

_BEGINNING = 3
"""Letters from which on the beginning of an option's name stands for the option."""


def meaning(name: str, known: Iterable[str] = (*LEAVES, "preset", *SYNONYMS)) -> str:
    """What a wrong name was meant to be: by its meaning first, then by its letters.

    Returns:
        The beginning of a hint; nothing where no option is surely meant.
    """
    key = str(name).strip().replace("-", "_")
    if said := MEANT.get(key) or NAMES.get(key):
        return f"{said}; "
    names = list(known)
    found = difflib.get_close_matches(key, names, n=1, cutoff=_SPELLED_ALIKE)
    if not found and len(key) >= _BEGINNING:
        found = sorted((n for n in names if n.startswith(key)), key=len)[:1]
    return f"did you mean {found[0]!r}? " if found else ""


def understood(name: str, value: object) -> dict[str, object]:
    """One option as it was written, under its one key.

    Other trainers have values that mean "not set": max_steps of -1, bf16 and fp16 of
    false. Such an option says nothing, and is left out.

    Returns:
        Key -> value, or nothing.

    Raises:
        LuminaError: E004 unknown option, E005 a switch that is neither on nor off.
    """
    key = str(name).strip().replace("-", "_")
    if key == "deepspeed":
        return translated(value)
    if key == USE_DEEPSPEED:
        return {}
    leaf = canonical(name)
    if key == "max_steps" and str(value).strip() == "-1":
        return {}
    if key in SWITCHES:
        return _switched(key, value)
    if key in VALUES:
        word = str(value).strip().lower()
        if word not in VALUES[key]:
            raise LuminaError(
                "E005",
                f"{key} cannot be {value!r}",
                f"it is one of {', '.join(VALUES[key])}; see {leaf}",
            )
        meant = VALUES[key][word]
        return {} if meant is None else {leaf: meant}
    if key in ("bf16", "fp16"):
        word = str(value).strip().lower()
        if word in ("false", "no", "off"):
            return {}
        if word == "auto" and key == "bf16":
            return {leaf: "auto"}
        if word not in ("true", "yes", "on"):
            raise LuminaError(
                "E005",
                f"{key} cannot be {value!r}",
                f"{key} is true or false; precision takes {', '.join(choices(leaf))}",
            )
        return {leaf: f"mixed_{key}"}
    return {leaf: value}


def _switched(key: str, value: object) -> dict[str, object]:
    """What a switch that stands for a value says, or nothing where it is off."""
    leaf, meant = SWITCHES[key]
    return {leaf: meant} if is_on(key, value, f"; see {leaf}") else {}


def is_on(key: str, value: object, more: str = "") -> bool:
    """Whether a switch is on.

    Args:
        key: its name.
        value: as written.
        more: for the hint.

    Raises:
        LuminaError: E005 for what is neither on nor off.
    """
    word = str(value).strip().lower()
    if word not in ("true", "yes", "on", "false", "no", "off"):
        raise LuminaError(
            "E005", f"{key} cannot be {value!r}", f"{key} is true or false{more}"
        )
    return word in ("true", "yes", "on")


def canonical(name: str) -> str:
    """The one key for a spelling: hyphen or underscore, synonym or the leaf itself.

    Returns:
        A key of `LEAVES`, or "preset".

    Raises:
        LuminaError: E004, naming the nearest option.
    """
    key = str(name).strip().replace("-", "_")
    key = SYNONYMS.get(key, key)
    if key in LEAVES or key == "preset":
        return key
    raise LuminaError(
        "E004",
        f"{name!r} is not an option",
        f"{meaning(name) or ''}`lumina config explain` lists every option",
    )


@cache
def field(leaf: str) -> FieldInfo:
    """The declaration of a leaf."""
    return SECTIONS[LEAVES[leaf]].model_fields[leaf]


@cache
def _types(section: str) -> dict[str, Any]:
    """The types of a section's leaves; all of them are evaluated to know one."""
    return typing.get_type_hints(SECTIONS[section])


@cache
def value_type(leaf: str) -> Any:
    """The leaf's type without `None`: bool, int, float, str, a Literal or a tuple."""
    annotation = _types(LEAVES[leaf])[leaf]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


@cache
def optional(leaf: str) -> bool:
    """Whether None ("decide for me") is a value of the leaf."""
    return type(None) in typing.get_args(_types(LEAVES[leaf])[leaf])


def choices(leaf: str) -> tuple[str, ...]:
    """The words a leaf may be, or nothing when it is not a choice."""
    kind = value_type(leaf)
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return ()


def is_list(leaf: str) -> bool:
    """Whether the leaf holds several values."""
    return typing.get_origin(value_type(leaf)) is tuple


def allowed(leaf: str) -> str:
    """What a leaf may be, in words."""
    kind = value_type(leaf)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{signs[name]} {show(getattr(item, name))}"
        for item in field(leaf).metadata
        for name in signs
        if hasattr(item, name)
    ]
    if choices(leaf):
        text = "one of " + ", ".join(choices(leaf))
    elif is_list(leaf):
        number = float in typing.get_args(kind)
        text = "one or more numbers" if number else "one or more texts"
    else:
        names = {bool: "yes or no", int: "a whole number", float: "a number"}
        text = names.get(kind, "a text")
        text = " ".join([text, " and ".join(bounds)]).rstrip()
    if optional(leaf) and kind is not str:
        text += ", or auto"
    return text


def convert(leaf: str, value: object) -> object:
    """The value of a leaf, from what was written in YAML, a flag or Python.

    Raises:
        LuminaError: E005, naming the option, the value and what is allowed.
    """
    prepared = _at_home(leaf, _prepare(leaf, value))
    if prepared is not _BAD:
        try:
            section = SECTIONS[LEAVES[leaf]].model_validate({leaf: prepared})
            return getattr(section, leaf)
        except ValidationError:
            pass
    raise LuminaError(
        "E005",
        f"{leaf} cannot be {value!r}",
        f"{leaf} ({field(leaf).description}) is {allowed(leaf)}{_share(leaf, value)}",
    )


def _share(leaf: str, value: object) -> str:
    """What is said of a share of the run, which transformers takes for some steps."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    if leaf not in IN_STEPS or not 0 < number < 1:
        return ""
    if named := IN_STEPS[leaf]:
        return f"; as a share of the run it is {named}"
    return "; a share of the run cannot be given"


def _at_home(leaf: str, value: object) -> object:
    """The value with ~ in paths replaced, as a shell does for an unquoted word.

    A shell leaves --run-dir=~/r as it is, and YAML and Python know nothing of it.
    """
    if isinstance(value, tuple):
        return tuple(_at_home(leaf, item) for item in value)
    if not isinstance(value, str):
        return value
    if leaf in PATHS:
        return at_home(value)
    if leaf in NAMED_PATHS:
        name, equals, path = value.partition("=")
        return name + equals + at_home(path)
    return value


def at_home(path: str) -> str:
    """The path with ~ or ~USER at its beginning replaced by that home folder.

    Raises:
        LuminaError: E104 when that home is not known.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise LuminaError(
            "E104",
            f"{path}: the home folder that ~ stands for is not known",
            f"write the whole path; ./{path} is a file or folder of that name here",
        )
    return found


_BAD = object()

_SWITCH_WORDS = {
    "yes": True, "on": True, "true": True, "no": False, "off": False, "false": False,
}  # fmt: skip


def _prepare(leaf: str, value: object) -> object:
    """Undo what YAML and the shell do to values; refuse silent conversions."""
    kind = value_type(leaf)
    if leaf in SWITCHED and isinstance(value, str):
        value = _SWITCH_WORDS.get(value.strip().lower(), value)
    if isinstance(value, bool) and leaf in SWITCHED:
        value = SWITCHED[leaf][0 if value else 1]
    if isinstance(value, str):
        value = VALUE_SYNONYMS.get(leaf, {}).get(value, value)
    if value == "auto" and optional(leaf) and kind is not str:
        return None
    if leaf == "phases" and isinstance(value, (list, tuple)):
        value = [
            phase_text(item) if isinstance(item, Mapping) else item for item in value
        ]
    if is_list(leaf):
        if isinstance(value, str) or hasattr(value, "__fspath__"):
            value = (value,)
        if not isinstance(value, (list, tuple)):
            return _BAD
        return tuple(
            str(item) if hasattr(item, "__fspath__") else item for item in value
        )
    if kind is str and hasattr(value, "__fspath__"):
        return str(value)
    if kind is str and isinstance(value, str) and not value.strip():
        return _BAD  # mostly a shell variable that was not set
    if kind in (int, float) and isinstance(value, bool):
        return _BAD
    if kind is bool and not isinstance(value, (bool, str)) and value is not None:
        return _BAD
    if kind is int and isinstance(value, str):
        # "1e3" is a whole number to a reader, and YAML gives it as text.
        try:
            number = float(value)
        except ValueError:
            return _BAD
        return int(value) if value.strip().lstrip("+-").isdigit() else number
    return value
