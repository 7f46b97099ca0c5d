"""Weights from wherever they are: a run, a checkpoint, or an exported folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.state.reader import latest_good, open_checkpoint, read_pointer
from lumina.state.run_directory import RunDirectory

Which = Literal["latest", "best"]


@dataclass(frozen=True)
class Weights:
    """A model's weights, to be read tensor by tensor.

    Attributes:
        spec: the shape they fit.
        source: `names()` and `tensor(name)`; a checkpoint's has optimizer slots too.
        tokenizer: the folder of the tokenizer that belongs to them, if there is one.
        path: the folder they come from.
    """

    spec: ModelSpec
    source: Any
    tokenizer: Path | None
    path: Path


@dataclass(frozen=True)
class InMemory:
    """Logical tensors in memory, in the shape of a checkpoint's reader."""

    tensors: dict[str, Tensor]

    def names(self) -> list[str]:
        """Logical names."""
        return list(self.tensors)

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        return self.tensors[name]

    def optimizer_names(self, slot: str) -> list[str]:
        """None: an exported folder has no optimizer."""
        return []

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """Never there."""
        raise KeyError(f"{slot} {name}")


def find_checkpoint(path: Path, which: Which = "latest") -> Path | None:
    """The checkpoint that `path` means, verified; None if it holds none.

    Args:
        path: a run directory or a checkpoint folder.
        which: in a run, the newest good one or the best.

    Raises:
        LuminaError: E303 for damaged checkpoints, E304 for `best` without one.
    """
    if (path / "manifest.json").is_file():
        return path
    if not RunDirectory(path).is_run:
        return None
    if which == "best":
        best = read_pointer(path / "checkpoints", "BEST")
        if best is None:
            raise LuminaError(
                "E304", f"{path} has no best checkpoint", "use its latest one"
            )
        return best
    return latest_good(path)


def open_weights(path: str | Path, which: Which = "latest") -> Weights:
    """Find and verify the weights at `path`.

    Args:
        path: a run directory, a checkpoint folder, or an exported Hugging Face folder.
        which: in a run, the newest good checkpoint or the best one.

    Raises:
        LuminaError: E104 when nothing is there, E101 when it is none of the three,
            E303 when it is damaged, E304 when a run has no checkpoint yet.
    """
    path = Path(path)
    if not path.exists():
        raise LuminaError("E104", f"there is no {path}", "check the path")
    checkpoint = find_checkpoint(path, which) if path.is_dir() else None
    if checkpoint is not None:
        reader = open_checkpoint(checkpoint)
        tokenizer = checkpoint.resolve().parent.parent / "tokenizer"
        return Weights(
            ModelSpec.from_dict(reader.meta.spec),
            reader,
            tokenizer if tokenizer.is_dir() else None,
            checkpoint,
        )
    if (path / "config.json").is_file():
        from lumina.state.huggingface import import_folder

        spec, tensors = import_folder(path)
        has_tokenizer = (path / "tokenizer.json").is_file()
        return Weights(spec, InMemory(tensors), path if has_tokenizer else None, path)
    if RunDirectory(path).is_run:
        raise LuminaError(
            "E304", f"{path} has no checkpoint yet", "wait for its first one"
        )
    raise LuminaError(
        "E101",
        f"{path} is neither a run, nor a checkpoint, nor an exported folder",
        "a run has config.yaml, a checkpoint manifest.json, an export config.json",
    )
