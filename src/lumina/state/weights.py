"""Weights from wherever they are: a run, a checkpoint, or an exported folder."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.spec import ModelSpec
from lumina.ops.low_bits.codec import Packed
from lumina.state.adapter_base import OnBase, open_base
from lumina.state.manifest import MANIFEST_NAME
from lumina.state.reader import (
    CheckpointReader,
    OnEvent,
    open_checkpoint,
    open_latest,
    pointed_at,
)
from lumina.state.run_directory import RunDirectory
from lumina.state.stored_base import StoredBase

_OWNED = re.compile(r"([A-Za-z0-9][\w.-]*)/[\w.-]+")
"""OWNER/NAME."""

Which = Literal["latest", "best"]


@dataclass(frozen=True)
class Weights:
    """A model's weights, to be read tensor by tensor.

    Attributes:
        spec: the shape they fit.
        source: `names()`, `tensor(name)` and `close()`; a checkpoint's has optimizer
            slots too.
        tokenizer: the folder of the tokenizer that belongs to them, if there is one.
        path: the folder they come from.
        description: what they are, in words.
        settings: the options of the run that they come from; empty for an exported
            folder.
        averages_too: beside these weights, their moving average was kept.
        averaged: they are that average.
        encoding: what made the ids that they learned from, as their run recorded it;
            see `lumina.data.recorded_encoding`.
    """

    spec: ModelSpec
    source: Any
    tokenizer: Path | None
    path: Path
    description: str
    settings: dict[str, Any] = field(default_factory=dict)
    averages_too: bool = False
    averaged: bool = False
    encoding: dict[str, str] = field(default_factory=dict)

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer's folder, where one is needed.

        Raises:
            LuminaError: E104 when there is none.
        """
        if self.tokenizer is None:
            raise LuminaError(
                "E104",
                f"there is no tokenizer with the weights in {self.path}",
                "a checkpoint is used inside its run directory; an exported folder "
                "has a tokenizer.json; `train` and `import` take --tokenizer",
            )
        return self.tokenizer

    def check_names(self) -> None:
        """Refuse weights that lack a tensor of their shape or hold another.

        Raises:
            LuminaError: E303.
        """
        expected, found = set(tensor_info(self.spec)), set(self.source.names())
        if expected == found:
            return
        missing = sorted(expected - found)[:3]
        surplus = sorted(found - expected)[:3]
        raise LuminaError(
            "E303",
            f"the weights of {self.description} do not fit their own description: "
            f"missing {missing or 'none'}, not expected {surplus or 'none'}",
            "use another checkpoint; or load the plug-ins that it was trained with",
        )

    def in_memory(self) -> Weights:
        """The same with every tensor read, and the files released."""
        names = self.source.names()
        held = InMemory({name: self.source.tensor(name) for name in names})
        self.source.close()
        return replace(self, source=held)

    def close(self) -> None:
        """Release the files."""
        self.source.close()


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

    def close(self) -> None:
        """Release the memory."""
        self.tensors.clear()


@dataclass(frozen=True)
class LowBitWeights(InMemory):
    """Tensors in memory of which some are held in few bits.

    Attributes:
        packed: those, by their logical names.
    """

    packed: dict[str, Packed]

    def names(self) -> list[str]:
        """Logical names."""
        return [*self.tensors, *self.packed]

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole, widened to float32."""
        if name in self.packed:
            return self.packed[name].unpacked()
        return super().tensor(name)

    def close(self) -> None:
        """Release the memory."""
        self.packed.clear()
        super().close()


@dataclass(frozen=True)
class FolderWeights(InMemory):
    """Tensors of a folder, each read when it is asked for; `tensors` is empty.

    Attributes:
        readers: what reads each tensor, by its logical name.
        files: keeps the files open.
    """

    readers: Mapping[str, Callable[[], Any]]
    files: ExitStack

    def names(self) -> list[str]:
        """Logical names."""
        return list(self.readers)

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole, in float32."""
        value = self.readers[name]()
        return value.unpacked() if isinstance(value, Packed) else value

    def close(self) -> None:
        """Close the files."""
        self.files.close()


@dataclass(frozen=True)
class Averaged:
    """A checkpoint's moving average of its weights, in the shape of its reader."""

    reader: CheckpointReader
    held: frozenset[str]

    def names(self) -> list[str]:
        """Logical names."""
        return self.reader.names()

    def tensor(self, name: str) -> Tensor:
        """One tensor; what is frozen, and buffers, are the same in both."""
        if name in self.held:
            return self.reader.optimizer_tensor("ema", name)
        return self.reader.tensor(name)

    def close(self) -> None:
        """Release the files."""
        self.reader.close()


def open_weights(
    path: str | os.PathLike[str],
    which: Which = "latest",
    *,
    ema: bool = False,
    drop_mtp: bool = False,
    piecewise: bool = False,
    on_event: OnEvent | None = None,
) -> Weights:
    """Find and verify the weights at `path`.

    Args:
        path: a run directory, a checkpoint folder, or an exported Hugging Face folder.
        which: in a run, the newest good checkpoint or the best evaluated one.
        ema: take the moving average of the weights.
        drop_mtp: of a DeepSeek-V3 folder, leave out the layers for several tokens.
        piecewise: read a folder's tensors when they are asked for, so that memory never
            holds them all; a damaged one is then found as it is read.
        on_event: called for damaged checkpoints that were passed over.

    Raises:
        LuminaError: E104 when nothing is there, E101 when it is none of the three,
            E303 when it is damaged, E304 when a run has no (such) checkpoint yet,
            E002 when no average was kept.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise LuminaError(
            "E104",
            f"{folder} does not exist",
            "`lumina runs` lists the runs" + _hub_advice(os.fspath(path)),
        )
    if (folder / MANIFEST_NAME).is_file():
        return _checkpoint(open_checkpoint(folder), ema)
    if RunDirectory(folder).is_run:
        return _checkpoint(_chosen(folder, which, on_event), ema)
    if (folder / "config.json").is_file():
        return _exported(folder, ema, drop_mtp, piecewise)
    if (folder / "adapter_config.json").is_file():
        raise LuminaError(
            "E101",
            f"{folder} is an adapter, without the model that it belongs to",
            f"name the model, and --adapter {shlex.quote(str(folder))} beside it",
        )
    raise LuminaError(
        "E101",
        f"{folder} is neither a run, nor a checkpoint, nor an exported model",
        "name a run directory, one of its checkpoints, or a Hugging Face folder",
    )


def _hub_advice(name: str) -> str:
    """What to do with the name of a model on the Hugging Face hub, if it looks so."""
    owner = _OWNED.fullmatch(name)
    if owner is None or Path(owner[1]).exists():
        return ""
    return (
        f"; a model of the Hugging Face hub is fetched first (hf download {name} "
        "--local-dir FOLDER), and then FOLDER is named"
    )


def _chosen(run: Path, which: Which, on_event: OnEvent | None) -> CheckpointReader:
    """The checkpoint of a run that is meant."""
    while which == "best":
        named = pointed_at(run / "checkpoints", "BEST")
        best = None if named is None else run / "checkpoints" / named
        try:
            if best is not None:
                return open_checkpoint(best)
        except LuminaError as error:
            if error.code != "E104":
                raise
        if pointed_at(run / "checkpoints", "BEST") != named:
            continue  # a better one took its place meanwhile
        if named is not None:
            raise LuminaError(
                "E303",
                f"{named}, the best checkpoint of {run}, is not there",
                "restore it from a copy; without --best, the newest is taken",
            )
        raise LuminaError(
            "E304",
            f"{run} has no best checkpoint: nothing was evaluated and kept",
            "leave out --best, which takes the newest",
        )
    latest = open_latest(run, on_event)
    if latest is None:
        raise LuminaError(
            "E304",
            f"{run} has no checkpoint yet",
            "wait until it has written one (--save-every-n-batches)",
        )
    return latest


def _checkpoint(reader: CheckpointReader, ema: bool) -> Weights:
    folder = reader.path
    run = folder.resolve().parent.parent
    tokenizer = run / "tokenizer"
    averaged = ema or bool(reader.meta.extra.get("averages_by_default"))
    whole: Any = reader
    if reference := reader.meta.plan.get("adapter_base"):
        base = open_base(reference, open_weights)
        if storage := reader.meta.plan.get("base_storage"):
            base = as_trained_on(base, storage)
        whole = OnBase(reader, base, reference)
    return Weights(
        spec=ModelSpec.from_dict(reader.meta.spec),
        source=_averaged(whole) if averaged else whole,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        path=folder,
        description=f"step {reader.meta.step:,} of {run.name}"
        + (", averaged weights" if averaged else ""),
        settings=dict(reader.meta.config),
        averages_too=not averaged and bool(reader.optimizer_names("ema")),
        averaged=averaged,
        encoding=dict(reader.meta.extra.get("encoding") or {}),
    )


def _averaged(reader: CheckpointReader) -> Averaged:
    held = frozenset(reader.optimizer_names("ema"))
    if not held:
        reader.close()
        raise LuminaError(
            "E002",
            f"{reader.path} holds no averaged weights",
            "leave out --ema; training keeps them with --ema-decay, --swa-start or "
            "--lookahead-steps",
        )
    return Averaged(reader, held)


def _exported(folder: Path, ema: bool, drop_mtp: bool, piecewise: bool) -> Weights:
    if ema:
        raise LuminaError(
            "E002", f"{folder} holds no average of its weights", "leave out --ema"
        )
    opened = _piecewise if piecewise else _at_once
    spec, source = opened(folder, drop_mtp)
    return Weights(
        spec=spec,
        source=source,
        tokenizer=folder if (folder / "tokenizer.json").is_file() else None,
        path=folder,
        description=folder.name,
    )


def _at_once(folder: Path, drop_mtp: bool) -> tuple[ModelSpec, InMemory]:
    """All tensors of a folder in memory."""
    from lumina.state.huggingface.reading import read_folder

    spec, tensors = read_folder(folder, drop_mtp=drop_mtp)
    plain = {n: value for n, value in tensors.items() if isinstance(value, Tensor)}
    small = {n: v for n, v in tensors.items() if not isinstance(v, Tensor)}
    return spec, LowBitWeights(plain, small) if small else InMemory(plain)


def _piecewise(folder: Path, drop_mtp: bool) -> tuple[ModelSpec, InMemory]:
    """A folder's tensors, read when they are asked for."""
    from lumina.state.huggingface.reading import opened_folder

    with ExitStack() as stack:
        spec, readers = opened_folder(folder, stack, drop_mtp=drop_mtp)
        return spec, FolderWeights({}, readers, stack.pop_all())


def as_trained_on(base: Weights, storage: str) -> Weights:
    """A base with the matrices as adapters were trained on them, in few bits.

    Args:
        base: as it is in its files.
        storage: the codec that held its matrices.
    """
    return replace(base, source=StoredBase(base.source, base.spec, storage))
