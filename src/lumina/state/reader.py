"""Reads checkpoints: everything is checked before anything is believed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina.durable import sha256_of
from lumina.errors import LuminaError
from lumina.state.manifest import (
    STATE_NAME,
    Manifest,
    TensorEntry,
    check_regular,
    damaged,
    read_json,
    read_manifest,
    slot_key,
)
from lumina.state.readable import require_readable
from lumina.state.state import JSON_PARTS, State

OnEvent = Callable[..., Any]
"""Called like `EventLog.emit`: (kind, severity, code, message, step, **data)."""

Verify = Literal["full", "size"]

_STEP_NAME = re.compile(r"step-(\d{8,})")


class CheckpointReader:
    """A verified checkpoint. Tensors are read when asked for; each is the caller's own.

    Its files are open from the beginning: a training that deletes an older checkpoint,
    or renames it, takes nothing from those who read it.

    Attributes:
        path: its folder.
        manifest: what it says it holds.
        meta: its State without tensors.
    """

    def __init__(
        self, path: Path, manifest: Manifest, meta: State, files: dict[str, Any]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.meta = meta
        self._files = files

    def names(self) -> list[str]:
        """Logical names of the parameters and buffers."""
        return list(self.manifest.tensors)

    def slots(self) -> list[str]:
        """Names of the optimizer's slots."""
        return list(self.manifest.optimizer)

    def optimizer_names(self, slot: str) -> list[str]:
        """Logical names held in one slot."""
        return list(self.manifest.optimizer.get(slot, {}))

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer, whole."""
        return self._tensor(name, self.manifest.tensors.get(name))

    def slice(self, name: str) -> Any:
        """A parameter to be read in part: index it like a tensor."""
        return self._slice(name, self.manifest.tensors.get(name))

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """One slot's tensor, whole."""
        entry = self.manifest.optimizer.get(slot, {}).get(name)
        return self._tensor(slot_key(slot, name), entry)

    def optimizer_slice(self, slot: str, name: str) -> Any:
        """One slot's tensor to be read in part: index it like a tensor."""
        entry = self.manifest.optimizer.get(slot, {}).get(name)
        return self._slice(slot_key(slot, name), entry)

    def state(self) -> State:
        """The whole State, tensors and all."""
        return State(
            tensors={name: self.tensor(name) for name in self.names()},
            optimizer={
                slot: {n: self.optimizer_tensor(slot, n) for n in held}
                for slot, held in self.manifest.optimizer.items()
            },
            info=dict(self.meta.info),
            **self.meta.json_parts(),
        )

    def check_architecture(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse to be loaded into a network of another shape.

        Args:
            expected: logical name -> shape of the network's tensors.

        Raises:
            LuminaError: E303 naming what is missing, unexpected, or differs.
        """
        found = {name: entry.shape for name, entry in self.manifest.tensors.items()}
        wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
        wrong += [f"{name} is not wanted" for name in found.keys() - expected.keys()]
        wrong += [
            f"{name} is {list(found[name])}, not {list(expected[name])}"
            for name in found.keys() & expected.keys()
            if found[name] != tuple(expected[name])
        ]
        if wrong:
            raise LuminaError(
                "E303",
                f"{self.path} does not fit the model: {'; '.join(sorted(wrong)[:5])}"
                + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
                "use the settings it was trained with",
            )

    def close(self) -> None:
        """Release the files."""
        self._files.clear()

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _tensor(self, key: str, entry: TensorEntry | None) -> Tensor:
        # The clone owns its memory: nothing done to the file later can change it.
        tensor: Tensor = self._open(key, entry).get_tensor(key)
        return tensor.clone()

    def _slice(self, key: str, entry: TensorEntry | None) -> Any:
        return self._open(key, entry).get_slice(key)

    def _open(self, key: str, entry: TensorEntry | None) -> Any:
        if entry is None:
            raise LuminaError(
                "E303", f"{self.path} holds no {key}", "use another checkpoint"
            )
        return self._files[entry.file]


def open_checkpoint(
    path: str | os.PathLike[str],
    verify: Verify = "full",
    *,
    from_device: bool = False,
) -> CheckpointReader:
    """Open one checkpoint folder after checking it against its manifest.

    Args:
        path: a `step-...` folder.
        verify: "full" reads every byte and compares digests; "size" compares lengths
            and headers, and digests of the JSON only.
        from_device: read past the memory the files were written from, where possible.

    Raises:
        LuminaError: E104 when there is no such folder, or it went while it was read;
            E106 for a file that this user may not read; E303 naming the file and what
            is wrong with it.
    """
    path = Path(path)
    before = _identity(path)
    if before is None:
        raise LuminaError("E104", f"there is no checkpoint {path}", "check the path")
    try:
        return _opened(path, verify, from_device)
    except (LuminaError, OSError) as error:
        if _identity(path) == before:
            raise
        raise LuminaError(
            "E104",
            f"the checkpoint {path} was deleted or replaced while it was read",
            "name the run, whose newest checkpoint is taken, or keep more of them: "
            "--save-total-limit",
        ) from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Of a folder, whatever its name is; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _opened(path: Path, verify: Verify, from_device: bool) -> CheckpointReader:
    manifest = read_manifest(path)
    match = _STEP_NAME.fullmatch(path.name)
    if match and int(match[1]) != manifest.step:
        raise damaged(path, f"it holds step {manifest.step}")
    for name, entry in manifest.files.items():
        file = path / name
        check_regular(file)
        size = file.stat().st_size
        if size != entry.bytes:
            raise damaged(file, f"it has {size} bytes, not {entry.bytes}")
        if verify == "full" or name == STATE_NAME:
            _check_digest(file, entry.sha256, from_device)
    files = _checked_files(path, manifest)
    return CheckpointReader(path, manifest, _read_meta(path, manifest), files)


def step_name(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_folders(checkpoints: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that presents itself as a checkpoint, by step."""
    if not checkpoints.is_dir():
        return []
    found = []
    for path in checkpoints.iterdir():
        match = _STEP_NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def read_pointer(checkpoints: Path, name: str) -> Path | None:
    """The folder that LATEST or BEST names; None when it names none that exists."""
    target = pointed_at(checkpoints, name)
    path = None if target is None else checkpoints / target
    return path if path is not None and path.is_dir() else None


def pointed_at(checkpoints: Path, name: str) -> str | None:
    """What LATEST or BEST names, whether or not it is there; None for no such name."""
    try:
        target = (checkpoints / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return target if re.fullmatch(r"(abandoned-\d+-)?step-\d{8,}", target) else None


def latest_good(
    run_dir: str | os.PathLike[str],
    on_event: OnEvent | None = None,
    require: Callable[[CheckpointReader], None] | None = None,
) -> Path | None:
    """The checkpoint to go on from: what LATEST names, else the highest step.

    Each damaged one is skipped with an event (`checkpoint_refused`), and so is one that
    LATEST names and that is not there.

    Args:
        run_dir: a run directory.
        on_event: called with each event.
        require: raises E303 for a whole checkpoint that is not to be taken either.

    Returns:
        A verified folder, or None when the run has no checkpoint at all.

    Raises:
        LuminaError: E303 when there are checkpoints but none is good, E106 for one
            that this user may not read.
    """
    reader = open_latest(run_dir, on_event, require)
    if reader is None:
        return None
    with reader:
        return reader.path


def open_latest(
    run_dir: str | os.PathLike[str],
    on_event: OnEvent | None = None,
    require: Callable[[CheckpointReader], None] | None = None,
) -> CheckpointReader | None:
    """What `latest_good` names, opened: nothing can delete it any more.

    A checkpoint that a training deletes while it is verified is no damaged one: a newer
    one has taken its place, and the search begins anew.
    """
    checkpoints = Path(run_dir) / "checkpoints"
    refused: dict[Path, str] = {}
    candidates, lost = _candidates(checkpoints)
    if lost is not None and candidates and on_event is not None:
        on_event(
            "checkpoint_refused",
            "warning",
            "E303",
            f"{lost}, the newest checkpoint, is not there: an older one is taken",
            int(lost.rpartition("-")[2]),
            checkpoint=lost,
            reason="it is not there",
        )
    while left := [path for path in candidates if path not in refused]:
        path = left[0]
        try:
            reader = open_checkpoint(path)
            if require is not None:
                require(reader)
        except LuminaError as error:
            if error.code == "E106":
                raise  # nothing is damaged; an older checkpoint is not what is meant
            if error.code == "E104":
                candidates, _ = _candidates(checkpoints)
                continue
            refused[path] = error.message
            if on_event is not None:
                on_event(
                    "checkpoint_refused",
                    "warning",
                    "E303",
                    f"{path.name} is damaged and was passed over: {error.message}",
                    int(path.name.rpartition("-")[2]),
                    checkpoint=path.name,
                    reason=error.message,
                )
        else:
            return reader
    if refused:
        raise LuminaError(
            "E303",
            f"none of the {len(refused)} checkpoints in {checkpoints} is good: "
            + "; ".join(refused.values()),
            "restore one from a copy, or start again in another --run-dir",
        )
    return None


def _candidates(checkpoints: Path) -> tuple[list[Path], str | None]:
    """The checkpoints to be tried, the best choice first, and a LATEST that is lost."""
    while True:
        named = pointed_at(checkpoints, "LATEST")
        found = [path for _, path in reversed(step_folders(checkpoints))]
        if named is None:
            return found, None
        latest = checkpoints / named
        if latest.is_dir():
            return [latest, *(path for path in found if path != latest)], None
        if pointed_at(checkpoints, "LATEST") == named:
            return found, named
        # LATEST has moved on meanwhile, and what it named before was deleted.


def _check_digest(file: Path, sha256: str, from_device: bool) -> None:
    require_readable(file)
    try:
        found = sha256_of(file, from_device=from_device)
    except OSError as error:
        raise damaged(file, f"it cannot be read ({error.strerror})") from error
    if found != sha256:
        raise damaged(file, "its sha256 does not match the manifest")


def _checked_files(path: Path, manifest: Manifest) -> dict[str, Any]:
    """The safetensors files, their headers compared; allocates no tensor."""
    files = {}
    wanted: dict[str, dict[str, TensorEntry]] = {
        name: {} for name in manifest.files if name != STATE_NAME
    }
    for key, entry in manifest.all_tensors():
        wanted.setdefault(entry.file, {})[key] = entry
    for name, entries in wanted.items():
        file = path / name
        require_readable(file)
        try:
            held = files[name] = safe_open(file, framework="pt")
            found = {key: held.get_slice(key) for key in held.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise damaged(file, f"it is no safetensors file ({error})") from error
        if found.keys() != entries.keys():
            odd = sorted(found.keys() ^ entries.keys())[0]
            raise damaged(file, f"it and the manifest disagree on having {odd}")
        for key, entry in entries.items():
            shape, dtype = tuple(found[key].get_shape()), found[key].get_dtype()
            if (shape, dtype) != (entry.shape, entry.dtype):
                raise damaged(
                    file,
                    f"{key} is {dtype} {list(shape)}, "
                    f"not {entry.dtype} {list(entry.shape)}",
                )
    return files


def _read_meta(path: Path, manifest: Manifest) -> State:
    file = path / STATE_NAME
    values = read_json(file)
    try:
        for step in manifest.migrations:
            values = step.state(values)
        info = {
            name: entry.info
            for name, entry in manifest.tensors.items()
            if entry.info is not None
        }
        meta = State(info=info, **{name: values[name] for name in JSON_PARTS})
        if meta.step != manifest.step:
            raise ValueError(f"it is of step {meta.step}, not {manifest.step}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}") from error
    return meta
