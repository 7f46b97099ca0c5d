"""The registry of named experts: what they are for, their states, goals and files.

One JSON file in a folder, beside a folder for each expert's weights.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lumina.durable import changing, write_error, write_file
from lumina.errors import LuminaError

REGISTRY_NAME = "registry.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Refuse what cannot be a folder's name everywhere (E005)."""
    if not _NAME.fullmatch(name):
        raise LuminaError(
            "E005",
            f"{name!r} cannot be the name of an expert",
            "use letters, digits, dots, hyphens and underscores, at most 64",
        )


@dataclass
class Entry:
    """One named expert.

    Attributes:
        id: unique for ever.
        name: unique in the registry.
        description: what it is for, in words.
        category: a free label.
        goals: texts of the goals it is linked to.
        created: UTC, as ISO 8601; `updated` likewise.
        active: attached to a model by the last attach or detach.
        frozen: not to be trained further.
        parent_id: the expert above it, or None.
        child_ids: the experts below it.
        checkpoint: its weights' file; None before it is trained.
        training: how it was trained: base, run, steps, loss, settings.
    """

    id: str
    name: str
    description: str = ""
    category: str = "general"
    goals: list[str] = field(default_factory=list)
    created: str = ""
    updated: str = ""
    active: bool = False
    frozen: bool = False
    parent_id: str | None = None
    child_ids: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    training: dict[str, Any] = field(default_factory=dict)


class Registry:
    """The experts below a folder.

    Args:
        folder: where `registry.json` is or will be.

    Raises:
        LuminaError: E101 for a file that is not a registry.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.entries: dict[str, Entry] = {}
        self._read()

    def _read(self) -> None:
        path = self.folder / REGISTRY_NAME
        if not path.is_file():
            return
        try:
            listed = json.loads(path.read_text())["experts"]
            self.entries = {entry["name"]: Entry(**entry) for entry in listed}
        except (ValueError, KeyError, TypeError) as error:
            raise LuminaError(
                "E101",
                f"{path} is not a registry of experts ({error})",
                "name the folder that `lumina experts create` made",
            ) from error

    def find(self, name: str) -> Entry:
        """The expert of that name (E005 when there is none)."""
        if name not in self.entries:
            known = ", ".join(self.entries) or "none yet"
            raise LuminaError(
                "E005",
                f"there is no expert {name} in {self.folder}",
                f"known are: {known}; `lumina experts create {name}` makes it",
            )
        return self.entries[name]

    def create(
        self,
        name: str,
        *,
        description: str = "",
        category: str = "general",
        goals: list[str] | None = None,
        parent: str | None = None,
    ) -> Entry:
        """Enter a new expert (E002 when the name is taken, E005 for a bad one)."""
        check_name(name)
        if name in self.entries:
            raise LuminaError("E002", f"{name} exists already", "choose another name")
        above = self.find(parent) if parent is not None else None
        now = _now()
        entry = Entry(
            id=uuid.uuid4().hex,
            name=name,
            description=description,
            category=category,
            goals=list(goals or []),
            created=now,
            updated=now,
            parent_id=above.id if above else None,
        )
        if above is not None:
            above.child_ids.append(entry.id)
        self.entries[name] = entry
        return entry

    def goals(self) -> dict[str, list[str]]:
        """Every goal's text, and the names of the experts linked to it."""
        found: dict[str, list[str]] = {}
        for entry in self.entries.values():
            for goal in entry.goals:
                found.setdefault(goal, []).append(entry.name)
        return found

    def link(self, name: str, goal: str) -> None:
        """Link an expert to a goal, once."""
        entry = self.find(name)
        if goal not in entry.goals:
            entry.goals.append(goal)
        self.touch(entry)

    def unlink(self, name: str, goal: str) -> None:
        """Take the link away (E005 when there is none)."""
        entry = self.find(name)
        if goal not in entry.goals:
            raise LuminaError(
                "E005",
                f"{name} is not linked to the goal {goal!r}",
                f"its goals are: {', '.join(entry.goals) or 'none'}",
            )
        entry.goals.remove(goal)
        self.touch(entry)

    def file_of(self, name: str) -> Path:
        """Where an expert's weights belong."""
        return self.folder / name / "expert.safetensors"

    def touch(self, entry: Entry) -> None:
        """Note that an entry changed now."""
        entry.updated = _now()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change the registry in here; it is then written, whole or not at all.

        It begins with what the file holds now, and other processes wait: so none loses
        what another enters. After an error nothing is written.

        Raises:
            LuminaError: where it cannot be written.
        """
        path = self.folder / REGISTRY_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with changing(path):
                self._read()
                yield
                listed = [asdict(entry) for entry in self.entries.values()]
                values = {"version": 1, "experts": listed}
                write_file(path, (json.dumps(values, indent=1) + "\n").encode())
        except OSError as error:
            raise write_error(error, path) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
