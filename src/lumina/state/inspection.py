"""Checkpoints seen from outside a run: what they are, whether they are good."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina.durable import write_error
from lumina.errors import LuminaError
from lumina.state.finite import not_finite
from lumina.state.manifest import Manifest, read_manifest
from lumina.state.metrics import read_metrics
from lumina.state.reader import (
    latest_good,
    open_checkpoint,
    pointed_at,
    step_folders,
)
from lumina.state.retention import Pruning, prune, superseded
from lumina.state.run_directory import RunDirectory
from lumina.state.tensor_file import write_tensors

POINTERS = ("LATEST", "BEST")


def described(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What is known of each checkpoint of a run from its manifest and the metrics.

    Args:
        run: a run directory.

    Returns:
        Plain JSON values for each, the oldest first: name, step, kinds, created, bytes,
        tensors, epoch, loss, eval_loss, named_by, and problem (None where its manifest
        can be read; only `examined` reads everything).

    Raises:
        LuminaError: E104 for a folder that is no run.
    """
    folder = _run(run).checkpoints
    rows = {row["step"]: row for row in read_metrics(run)}
    pointers = {name: pointed_at(folder, name) for name in POINTERS}
    found = []
    for step, path in step_folders(folder):
        one: dict[str, Any] = {"name": path.name, "step": step, "problem": None}
        one["named_by"] = [n for n, target in pointers.items() if target == path.name]
        row = rows.get(step, {})
        one |= {key: row.get(key) for key in ("epoch", "loss", "eval_loss")}
        try:
            one |= _of_manifest(read_manifest(path))
        except LuminaError as error:
            one["problem"] = error.message
        found.append(one)
    return found


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    return {
        "kinds": list(manifest.kinds),
        "created": manifest.created,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "tensors": len(manifest.tensors),
    }


def checkpoints_at(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The checkpoints that are named, and all those of the runs that are.

    Raises:
        LuminaError: E104 for what is neither, or a run without a checkpoint.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if RunDirectory(path).is_run:
            folders = [folder for _, folder in step_folders(path / "checkpoints")]
            if not folders:
                raise LuminaError(
                    "E104", f"{path} has no checkpoints yet", "name another run"
                )
            found += folders
        elif path.is_dir():
            found.append(path)
        else:
            raise LuminaError(
                "E104", f"{path} is neither a run nor a checkpoint", "check the path"
            )
    return found


def one_checkpoint(path: str | os.PathLike[str]) -> Path:
    """A checkpoint that is named, or the newest good one of a run.

    Raises:
        LuminaError: E104 for what is neither, or a run without a checkpoint; E303 for
            a run without a good one.
    """
    if not RunDirectory(path).is_run:
        return checkpoints_at([path])[0]
    latest = latest_good(path)
    if latest is None:
        raise LuminaError("E104", f"{path} has no checkpoints yet", "name another run")
    return latest


def examined(path: Path) -> dict[str, Any]:
    """A checkpoint after every byte of it was read.

    Returns:
        Plain JSON values: path, step, format, parameters, slots, bytes, and problem:
        what is wrong with it, or None.
    """
    try:
        with open_checkpoint(path) as reader:
            manifest = reader.manifest
            return {
                "path": str(path),
                "step": manifest.step,
                "format": manifest.raw["format_version"],
                "parameters": sum(_size(e.shape) for e in manifest.tensors.values()),
                "slots": list(manifest.optimizer),
                "bytes": sum(entry.bytes for entry in manifest.files.values()),
                "problem": not_finite(reader),
            }
    except LuminaError as error:
        return {"path": str(path), "problem": error.message}


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def compared(first: Path, second: Path) -> dict[str, Any]:
    """How two checkpoints differ, tensor by tensor.

    Returns:
        Plain JSON values: steps; settings, the options that differ with both values;
        only, tensors that one of them lacks or has in another shape, with where; and
        tensors, those of both, which differ most first: name, relative (the norm of
        the difference over that of the first one's) and largest (absolute).
    """
    with open_checkpoint(first) as one, open_checkpoint(second) as other:
        shapes = [
            {name: entry.shape for name, entry in reader.manifest.tensors.items()}
            for reader in (one, other)
        ]
        both = [n for n, shape in shapes[0].items() if shapes[1].get(n) == shape]
        only = {n: "first" for n in shapes[0] if n not in both}
        for name in shapes[1]:
            if name not in both:
                differs = name in shapes[0]
                only[name] = "both, in another shape" if differs else "second"
        tensors = [
            _difference(name, one.tensor(name), other.tensor(name)) for name in both
        ]
        before, after = one.meta.config, other.meta.config
        return {
            "steps": [one.meta.step, other.meta.step],
            "settings": {
                name: [before.get(name), after.get(name)]
                for name in {**before, **after}
                if before.get(name) != after.get(name)
            },
            "only": only,
            "tensors": sorted(tensors, key=lambda found: -found["relative"]),
        }


def _difference(name: str, first: Tensor, second: Tensor) -> dict[str, Any]:
    a, b = first.double(), second.double()
    apart, norm = (b - a).norm().item(), a.norm().item()
    return {
        "name": name,
        "relative": apart / norm if norm else (float("inf") if apart else 0.0),
        "largest": (b - a).abs().max().item() if a.numel() else 0.0,
    }


def pruned(
    run: str | os.PathLike[str],
    keep: int,
    *,
    delete: bool,
    pruning: Pruning = "newest",
) -> tuple[list[str], int]:
    """The checkpoints that newer ones take the place of, and their bytes.

    Args:
        run: a run directory.
        keep: regular checkpoints that stay.
        delete: delete them, and not only say which.
        pruning: which regular ones stay.

    Raises:
        LuminaError: E104 for a folder that is no run; E002 for one that is trained.
    """
    directory = _run(run)
    folder = directory.checkpoints
    size = {path: _bytes(path) for _, path in step_folders(folder)}
    size |= {path: _bytes(path) for path in folder.glob("abandoned-*-step-*")}
    if delete:
        with directory.acquire(resume=True):
            gone = prune(folder, keep, pruning)
    else:
        gone = superseded(folder, keep, pruning)
    return sorted(path.name for path in gone), sum(size[path] for path in gone)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def consolidate(
    path: Path, file: str | os.PathLike[str], *, average: bool = False
) -> tuple[int, int]:
    """Write all weights of a checkpoint into one new safetensors file.

    Args:
        path: a checkpoint.
        file: the file, which must not be there yet.
        average: their moving average in place of the weights themselves.

    Returns:
        How many tensors it holds, and its bytes.

    Raises:
        LuminaError: E002 for a file that is there, or a checkpoint without an average;
            E303 for a damaged checkpoint; E204 or E106 where it cannot be written.
    """
    target = Path(file)
    if target.exists():
        raise LuminaError(
            "E002", f"{target} is there already", "remove it, or name another file"
        )
    with open_checkpoint(path) as reader:
        averaged = set(reader.optimizer_names("ema"))
        if average and not averaged:
            raise LuminaError(
                "E002", f"{path} keeps no moving average", "leave --ema out"
            )
        tensors = {
            name: reader.optimizer_tensor("ema", name)
            if average and name in averaged
            else reader.tensor(name)
            for name in reader.names()
        }
    unfinished = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        written = write_tensors(unfinished, tensors)
        os.replace(unfinished, target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise write_error(error, target) from error
    return len(tensors), written.bytes


def _run(path: str | os.PathLike[str]) -> RunDirectory:
    directory = RunDirectory(path)
    if not directory.is_run:
        raise LuminaError("E104", f"{path} is no run directory", "check the path")
    return directory
