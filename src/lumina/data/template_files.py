"""The chat templates of a model's folder."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumina.data.template_errors import UnusableTemplateError
from lumina.errors import LuminaError

DEFAULT = "default"
VARIABLES = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
"""Special tokens that a template can name."""


@dataclass(frozen=True)
class Templates:
    """The chat templates of a model's folder.

    Attributes:
        named: by name; the one for conversations is named "default".
        variables: the special tokens that they can write, by name.
        day: the date that conversations to train on get where a template writes the
            date, as YYYY-MM-DD: a resumed run must get the same ids on another day.
        origin: the file that `--chat-template` named; "" for the model's own.
    """

    named: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    day: str = ""
    origin: str = ""

    @property
    def conversation(self) -> str:
        """The template of conversations.

        Raises:
            LuminaError: E108 when there is none among several.
        """
        if DEFAULT not in self.named:
            raise UnusableTemplateError(
                "E108",
                f"none of the chat templates ({', '.join(self.named)}) is named "
                f"{DEFAULT!r}",
                f"name the one for conversations {DEFAULT!r}",
            )
        return self.named[DEFAULT]

    def to_config(self) -> dict[str, Any]:
        """As `tokenizer_config.json` holds them."""
        if list(self.named) == [DEFAULT]:
            written: Any = self.named[DEFAULT]
        else:
            written = [{"name": n, "template": t} for n, t in self.named.items()]
        config = {"chat_template": written}
        if any("strftime_now" in text for text in self.named.values()):
            config["lumina_training_day"] = self.day
        if self.origin:
            config["lumina_chat_template"] = self.origin
        return config


def read_templates(
    folder: Path, declared: dict[str, Any], notes: list[str]
) -> Templates | None:
    """The chat templates in a folder, or None.

    As transformers has it, .jinja files replace all that tokenizer_config.json holds.
    chat_template.json, which only its processors read, is used where nothing else is.

    Args:
        folder: where `chat_template.jinja` and others may be.
        declared: what `tokenizer_config.json` says.
        notes: takes a sentence about each contradiction.

    Raises:
        LuminaError: E101 or E103 for a file that is no template, E106 permission.
    """
    inside = _from_config(declared.get("chat_template"), folder)
    named = {}
    if (folder / "chat_template.jinja").is_file():
        named[DEFAULT] = _text(folder / "chat_template.jinja")
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        text = _text(path)
        if named.get(path.stem, text) != text:
            notes.append(
                f"additional_chat_templates/{path.name} is another chat template than "
                "chat_template.jinja: it is used, as in transformers"
            )
        named[path.stem] = text
    if named and inside and named != inside:
        notes.append(
            "tokenizer_config.json holds another chat template than the folder's "
            ".jinja files: these are used, as in transformers"
        )
    named = named or inside
    if (folder / "chat_template.json").is_file():
        legacy = _from_json(folder / "chat_template.json")
        if legacy and not named:
            named = legacy
            notes.append(
                "the chat template is that of chat_template.json, which transformers "
                "reads for processors only"
            )
        elif legacy and legacy.get(DEFAULT) != named.get(DEFAULT):
            notes.append(
                "chat_template.json holds another chat template than the folder's "
                "other files: it is not used, as in transformers"
            )
    if not named.get(DEFAULT, "x").strip():
        notes.append("the chat template is empty: it counts as none")
        del named[DEFAULT]
    if not named:
        return None
    values = {name: declared.get(name) for name in VARIABLES}
    variables = {
        name: value.get("content", "") if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }
    day = declared.get("lumina_training_day")
    if not isinstance(day, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        day = datetime.date.today().isoformat()
    origin = declared.get("lumina_chat_template")
    return Templates(named, variables, day, origin if isinstance(origin, str) else "")


def _from_json(path: Path) -> dict[str, str]:
    try:
        values = json.loads(_text(path))
    except ValueError as error:
        raise _broken(path, f"not JSON: {error}") from None
    return _from_config(
        values.get("chat_template") if isinstance(values, dict) else None, path.parent
    )


def _from_config(value: Any, folder: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, dict):
        value = [{"name": name, "template": text} for name, text in value.items()]
    found = {}
    for one in value if isinstance(value, list) else [None]:
        name, text = (
            (one.get("name"), one.get("template"))
            if isinstance(one, dict)
            else (None, None)
        )
        if not isinstance(name, str) or not isinstance(text, str):
            raise _broken(folder, "'chat_template' is neither a text nor named texts")
        found[name] = text
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LuminaError("E103", f"{path}: not UTF-8", "fetch it again") from None
    except PermissionError:
        raise LuminaError(
            "E106", f"{path}: this user may not read it", "chmod +r it"
        ) from None


def _broken(path: Path, what: str) -> LuminaError:
    return LuminaError("E101", f"{path}: {what}", "fetch the model's files again")
