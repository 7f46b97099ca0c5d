"""The manifest: what a checkpoint holds, so that anything else is noticed."""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.model.tensors import TensorInfo
from lumina.state import exact_json
from lumina.state.migration import FORMAT_VERSION, Migration, steps_from

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"
_MOST_JSON_BYTES = 2**30

# No separator and no leading dot: a name can only mean a file of this very folder.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """A file's length and digest."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor is and what it looks like; dtype as safetensors spells it."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    info: TensorInfo | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        entry: dict[str, Any] = {
            "file": self.file,
            "dtype": self.dtype,
            "shape": list(self.shape),
        }
        if self.info is not None:
            entry |= {"role": self.info.role, "axes": list(self.info.axes)}
        return entry

    @staticmethod
    def from_json(entry: dict[str, Any]) -> TensorEntry:
        """The inverse of `to_json`."""
        shape = tuple(entry["shape"])
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"a tensor has the shape {shape}")
        info = None
        if "role" in entry:
            info = TensorInfo(str(entry["role"]), tuple(entry["axes"]))
        return TensorEntry(str(entry["file"]), str(entry["dtype"]), shape, info)


@dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json.

    Attributes:
        step: completed optimizer steps.
        kinds: every kind it was saved as: regular, best, emergency, phase.
        created: Unix seconds.
        files: name -> length and digest of every file but the manifest.
        tensors: logical name -> where the parameter or buffer is.
        optimizer: slot -> logical name -> where that is.
        migrations: the steps its state.json still has to take.
        raw: the object as read, for what a newer minor version added.
    """

    step: int
    kinds: tuple[str, ...]
    created: float
    files: dict[str, FileEntry]
    tensors: dict[str, TensorEntry]
    optimizer: dict[str, dict[str, TensorEntry]]
    migrations: tuple[Migration, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the digest."""
        return {
            **self.raw,
            "format_version": self.raw.get("format_version", FORMAT_VERSION),
            "step": self.step,
            "kinds": list(self.kinds),
            "created": self.created,
            "files": {
                name: {"bytes": entry.bytes, "sha256": entry.sha256}
                for name, entry in self.files.items()
            },
            "tensors": {n: entry.to_json() for n, entry in self.tensors.items()},
            "optimizer": {
                slot: {name: entry.to_json() for name, entry in held.items()}
                for slot, held in self.optimizer.items()
            },
        }

    def write(self, folder: Path) -> None:
        """Put it into a checkpoint, durably."""
        values = self.to_json()
        values.pop("digest", None)
        values["digest"] = _digest_of(values)
        text = exact_json.dumps(values, indent=1) + "\n"
        write_file(folder / MANIFEST_NAME, text.encode())

    def with_kind(self, kind: str) -> Manifest:
        """The same, also saved as `kind`."""
        kinds = self.kinds if kind in self.kinds else (*self.kinds, kind)
        return replace(self, kinds=kinds)

    @staticmethod
    def from_json(values: dict[str, Any], migrations: list[Migration]) -> Manifest:
        """From the object of a manifest.json, brought to the present format."""
        manifest = Manifest(
            step=values["step"],
            kinds=tuple(values["kinds"]),
            created=float(values["created"]),
            files={
                name: FileEntry(entry["bytes"], entry["sha256"])
                for name, entry in values["files"].items()
            },
            tensors=_entries(values["tensors"]),
            optimizer={s: _entries(held) for s, held in values["optimizer"].items()},
            migrations=tuple(migrations),
            raw=values,
        )
        manifest.check_names()
        return manifest

    def check_names(self) -> None:
        """Refuse a name or number that could lead out of the folder (ValueError)."""
        if type(self.step) is not int or self.step < 0:
            raise ValueError(f"the step is {self.step!r}")
        for name, entry in self.files.items():
            if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
                raise ValueError(f"{name!r} is not the name of a checkpoint's file")
            if type(entry.bytes) is not int or entry.bytes < 0:
                raise ValueError(f"{name} has {entry.bytes!r} bytes")
            if not _DIGEST.fullmatch(str(entry.sha256)):
                raise ValueError(f"{name} has no sha256")
        if STATE_NAME not in self.files:
            raise ValueError(f"it does not list {STATE_NAME}")
        for name, place in self.all_tensors():
            if place.file not in self.files:
                raise ValueError(f"{name} is said to be in {place.file!r}")

    def all_tensors(self) -> list[tuple[str, TensorEntry]]:
        """Every tensor under the name it has in its file."""
        found = list(self.tensors.items())
        for slot, held in self.optimizer.items():
            found += [(slot_key(slot, name), entry) for name, entry in held.items()]
        return found


def slot_key(slot: str, name: str) -> str:
    """The name an optimizer's tensor has in its file."""
    return f"{slot}/{name}"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a checkpoint's JSON file.

    Raises:
        LuminaError: E303 when it is missing, empty or not JSON.
    """
    check_regular(path)
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise damaged(path, "it is too large to be what it should be")
    try:
        values = exact_json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, KeyError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise damaged(path, "it is not a JSON object")
    return values


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, itself checked, its files not.

    Raises:
        LuminaError: E303 when it is missing, damaged, or of an unknown version.
    """
    path = folder / MANIFEST_NAME
    values = read_json(path)
    # Before the digest: a newer format may have another idea of digests.
    steps = steps_from(values.get("format_version"))
    digest = values.pop("digest", None)
    if digest != _digest_of(values):
        raise damaged(path, "its digest does not match its contents")
    try:
        for step in steps:
            values = step.manifest(values)
        return Manifest.from_json(values, steps)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def check_regular(path: Path) -> None:
    """Refuse a missing file, a link that may lead elsewhere, a pipe that hangs."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise damaged(path, f"it is missing ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise damaged(path, "it is not a regular file")


def damaged(path: Path, reason: str) -> LuminaError:
    """E303 that names the file and what is wrong with it."""
    return LuminaError(
        "E303",
        f"{path}: {reason}",
        "resume from the run directory, which takes the newest good checkpoint, or "
        "name an older one",
    )


def _entries(values: dict[str, Any]) -> dict[str, TensorEntry]:
    return {name: TensorEntry.from_json(entry) for name, entry in values.items()}


def _digest_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(exact_json.dumps(values, sort_keys=True).encode()).hexdigest()
