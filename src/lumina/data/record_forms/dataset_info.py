"""`dataset_info.json`, in which LLaMA-Factory says what the files of a folder hold.

A file that it names by "file_name" is read as it says: the form of the records
("formatting", alpaca unless it says otherwise), the names of their fields ("columns"),
and those of their turns and roles ("tags"). Files that it does not name are read like
any others, and names of data sets on hubs mean nothing here. The library `datasets`
writes a file of the same name, which says nothing of its records' form.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from lumina.data.record_forms.form import Record
from lumina.data.record_forms.message import BadRecord
from lumina.data.record_forms.reader import RecordReader
from lumina.errors import LuminaError

DATASET_INFO = "dataset_info.json"
"""The name of a file that describes others."""

_ALPACA = {
    "prompt": "instruction", "query": "input", "response": "output",
    "system": "system", "history": "history",
}  # fmt: skip
_SHAREGPT = {"messages": "conversations", "system": "system", "tools": "tools"}
_BOTH = {"chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag"}
"""Keys of "columns" -> the fields of a form that they name."""

_MEDIA = ("images", "videos", "audios")

_ROLES = {
    "user_tag": ("human", "human"),
    "assistant_tag": ("gpt", "gpt"),
    "observation_tag": ("observation", "observation"),
    "function_tag": ("function_call", "function_call"),
    "system_tag": ("system", "system"),
}
"""Keys of "tags" -> (their default, the role of ShareGPT that they mean)."""

_MEANT = ("file_name", "formatting", "columns", "tags", "ranking")
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "split")
"""Keys that decide where data comes from, which is a file of the folder here."""

_OF_DATASETS = ("features", "builder_name", "dataset_name", "citation")
"""Keys of the file that the library `datasets` writes."""


class TaggedReader(RecordReader):
    """Reads records whose turns have fields and roles of other names.

    Args:
        format: the form.
        fields: as for `RecordReader`.
        turns: the fields of a turn, speaker first; None: as the form has them.
        roles: role in the records -> role of ShareGPT.
        media: fields that hold images, videos or sounds.
        only: no field is read that `fields` does not name.
    """

    def __init__(
        self,
        format: str,
        fields: dict[str, str],
        turns: tuple[str, str] | None,
        roles: dict[str, str],
        media: tuple[str, ...],
        only: bool,
    ) -> None:
        super().__init__(format, fields)
        self._only = only
        self._turns = turns
        self._roles = roles
        self._media = media

    def _fields_of(self, record: Any) -> Record:
        if self._only and isinstance(record, dict):
            assert self.form is not None
            record = {
                f"{name} (no column)"
                if name in self.form.fields and name not in self.fields
                else name: value
                for name, value in record.items()
            }
        fields = super()._fields_of(record)
        for name in self._media:
            if fields.get(name):
                raise BadRecord(
                    "E102",
                    f"the record has {name!r}, and only text can be trained on",
                    "take such records out, or leave them out with --data-errors skip",
                )
        if self._turns is None:
            return fields
        for name in ("conversations", "chosen", "rejected"):
            value = fields.get(name)
            if isinstance(value, list):
                fields[name] = [self._turn(turn) for turn in value]
            elif isinstance(value, dict):
                fields[name] = self._turn(value)
        return fields

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, dict) or self._turns is None:
            return turn
        speaker, words = self._turns
        made = {n: v for n, v in turn.items() if n not in (speaker, words)}
        if speaker in turn:
            role = turn[speaker]
            known = isinstance(role, str)
            made["from"] = self._roles.get(role, role) if known else role
        if words in turn:
            made["value"] = turn[words]
        return made


def reader_of_source(reader: RecordReader, source: str) -> RecordReader:
    """The reader of the records of one source.

    It is `reader`, unless a dataset_info.json stands beside the file and describes it,
    and no form or field is stated.

    Args:
        reader: as the options ask.
        source: path of the file, or name of the member of an archive.

    Raises:
        LuminaError: as `described_reader`.
    """
    if reader.key:
        return reader
    path = Path(source)
    beside = path.with_name(DATASET_INFO)
    try:
        facts = beside.stat()
    except (OSError, ValueError):
        return reader
    stamp = (facts.st_mtime_ns, facts.st_size)
    description = described_reader(beside, stamp).get(path.name)
    return reader if description is None else reader.described_by(description)


@functools.lru_cache(64)
def described_reader(path: Path, stamp: tuple[int, int]) -> dict[str, RecordReader]:
    """The readers of the files that a dataset_info.json describes, by their names.

    Args:
        path: of the dataset_info.json.
        stamp: its time and size; one that changes is read again.

    Raises:
        LuminaError: E101 not JSON of the right shape, E102 something in it that Lumina
            cannot do.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(described, dict)
        if any(name in described for name in _OF_DATASETS):
            return {}
        sets = {name: dict(one) for name, one in described.items()}
    except (ValueError, TypeError, AssertionError) as error:
        raise LuminaError(
            "E101",
            f"{path}: not an object of descriptions: {error}",
            "correct it, or move it out of the folder",
        ) from None
    found = {}
    for name, one in sets.items():
        file = one.get("file_name")
        if isinstance(file, str) and (path.parent / file).exists():
            found[file] = _reader(f"{path}, {name}", one)
    return found


def _reader(where: str, described: dict[str, Any]) -> RecordReader:
    unknown = [n for n in described if n not in (*_MEANT, *_ELSEWHERE)]
    formatting = described.get("formatting", "alpaca")
    if unknown or formatting not in ("alpaca", "sharegpt", "openai"):
        what = f"{unknown[0]!r}" if unknown else f"the formatting {formatting!r}"
        raise LuminaError(
            "E102",
            f"{where}: Lumina does not know what {what} means",
            "leave it out there, or name the file alone, with --format",
        )
    tags = dict(described.get("tags") or {})
    if formatting == "openai":
        openai = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                  "assistant_tag": "assistant", "observation_tag": "tool"}  # fmt: skip
        tags = openai | tags
    usual = _ALPACA if formatting == "alpaca" else _SHAREGPT
    # Where columns are named, no others are read; without, the usual ones are.
    columns = dict(described.get("columns") or {})
    fields: dict[str, str] = {}
    media: list[str] = []
    for key, name in columns.items():
        if key in _MEDIA and name:
            media.append(str(name))
        elif key in {**usual, **_BOTH}:
            if name is not None:
                fields[str(name)] = {**usual, **_BOTH}[key]
        else:
            raise LuminaError(
                "E102",
                f"{where}: Lumina does not know the column {key!r}",
                "leave it out there, or name the file alone, with --format",
            )
    form = "alpaca" if formatting == "alpaca" else "sharegpt"
    if described.get("ranking"):
        form = "preference"
    elif columns.get("kto_tag"):
        form = "labelled"
    turns, roles = None, {}
    if formatting != "alpaca":
        turns = (tags.get("role_tag", "from"), tags.get("content_tag", "value"))
        for key, (default, meant) in _ROLES.items():
            roles[tags.get(key, default)] = meant
    only = bool(fields)
    return TaggedReader(form, fields, turns, roles, tuple(media), only)
