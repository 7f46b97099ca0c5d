"""From a folder to a network and its tokenizer: a run, a checkpoint, an export."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lumina.assemble.logical import join_fused, logical_names
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.model.logical import logical_parts
from lumina.model.network import Network, build_network
from lumina.model.spec import ModelSpec
from lumina.state.huggingface import import_folder
from lumina.state.manifest import MANIFEST_NAME
from lumina.state.reader import (
    CheckpointReader,
    OnEvent,
    latest_good,
    open_checkpoint,
    read_pointer,
)
from lumina.state.run_directory import RunDirectory

Which = Literal["latest", "best"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        spec: the shape.
        names: logical names of all tensors.
        read: logical name -> whole CPU tensor.
        tokenizer: the folder that holds the tokenizer.
        description: what it is, in words.
        close: lets go of the files.
    """

    spec: ModelSpec
    names: frozenset[str]
    read: Callable[[str], Tensor]
    tokenizer: Path
    description: str
    close: Callable[[], None]


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    dtype: torch.dtype | None = None,
    *,
    which: Which = "latest",
    ema: bool = False,
    on_event: OnEvent | None = None,
) -> tuple[Network, Tokenizer]:
    """A trained network in evaluation mode, and its tokenizer.

    Args:
        path: a run directory, a checkpoint in it, or an exported (Hugging Face) folder.
        device: "auto" takes a GPU where there is one; or "cpu", "cuda", "cuda:1".
        dtype: of weights and activations; None keeps float32.
        which: of a run, the newest good checkpoint or the best evaluated one.
        ema: take the moving average of the weights.
        on_event: told of damaged checkpoints that were passed over.

    Raises:
        LuminaError: E104 nothing there, E101 not a folder of these kinds, E304 a run
            without (such) a checkpoint, E303 damaged, E002 no average was kept,
            E003 no such device.
    """
    place = find_device(device)
    source = open_source(path, which=which, ema=ema, on_event=on_event)
    try:
        tokenizer = Tokenizer.from_path(source.tokenizer)
        network = _filled(source, place, dtype or torch.float32)
    finally:
        source.close()
    return network.eval(), tokenizer


def find_device(name: str) -> torch.device:
    """The device a name means.

    Raises:
        LuminaError: E003 when it is not there, E005 when it is no device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LuminaError(
            "E005", f"{name!r} is not a device", "give auto, cpu, cuda or cuda:1"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LuminaError(
            "E003",
            f"there is no {name}: {torch.cuda.device_count()} CUDA devices were found",
            "use --device cpu",
        )
    return device


def find_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type a precision means; "auto" is bf16 on GPUs that have it, else fp32."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        return torch.bfloat16 if fast else torch.float32
    return {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }[precision]


def open_source(
    path: str | os.PathLike[str],
    *,
    which: Which = "latest",
    ema: bool = False,
    on_event: OnEvent | None = None,
) -> Source:
    """Finds out what a folder is and opens its weights; see `load`."""
    folder = Path(path).expanduser()
    if not folder.exists():
        raise LuminaError(
            "E104", f"{folder} does not exist", "`lumina runs` lists the runs"
        )
    if (folder / MANIFEST_NAME).is_file():
        return _checkpoint(folder, ema)
    if RunDirectory(folder).is_run:
        return _checkpoint(_chosen(folder, which, on_event), ema)
    if (folder / "config.json").is_file():
        return _exported(folder, ema)
    raise LuminaError(
        "E101",
        f"{folder} is neither a run, nor a checkpoint, nor an exported model",
        "name a run directory, one of its checkpoints, or a Hugging Face folder",
    )


def _chosen(run: Path, which: Which, on_event: OnEvent | None) -> Path:
    if which == "best":
        best = read_pointer(run / "checkpoints", "BEST")
        if best is None:
            raise LuminaError(
                "E304",
                f"{run} has no best checkpoint: nothing was evaluated and kept",
                "leave out --best, which takes the newest",
            )
        return best
    latest = latest_good(run, on_event)
    if latest is None:
        raise LuminaError(
            "E304",
            f"{run} has no checkpoint yet",
            "wait until it has written one (--save-every-n-batches)",
        )
    return latest


def _checkpoint(folder: Path, ema: bool) -> Source:
    reader = open_checkpoint(folder)
    run = folder.resolve().parent.parent
    if not (run / "tokenizer").is_dir():
        reader.close()
        raise LuminaError(
            "E104",
            f"{folder} lies in no run with a tokenizer: {run / 'tokenizer'} is missing",
            "a checkpoint is used inside its run directory",
        )
    return Source(
        spec=ModelSpec.from_dict(reader.meta.spec),
        names=frozenset(reader.names()),
        read=_averaged(reader) if ema else reader.tensor,
        tokenizer=run / "tokenizer",
        description=f"step {reader.meta.step:,} of {run.name}"
        + (", averaged weights" if ema else ""),
        close=reader.close,
    )


def _averaged(reader: CheckpointReader) -> Callable[[str], Tensor]:
    held = frozenset(reader.optimizer_names("ema"))
    if not held:
        raise LuminaError(
            "E002",
            f"{reader.path} holds no averaged weights",
            "leave out --ema; training keeps them with --ema-decay",
        )

    def read(name: str) -> Tensor:
        # Frozen weights and buffers have no average: they are the same in both.
        return (
            reader.optimizer_tensor("ema", name)
            if name in held
            else reader.tensor(name)
        )

    return read


def _exported(folder: Path, ema: bool) -> Source:
    if ema:
        raise LuminaError(
            "E002", f"{folder} holds one set of weights", "leave out --ema"
        )
    spec, tensors = import_folder(folder)
    return Source(
        spec=spec,
        names=frozenset(tensors),
        read=tensors.__getitem__,
        tokenizer=folder,
        description=f"{folder.name}",
        close=tensors.clear,
    )


@torch.no_grad()
def _filled(source: Source, device: torch.device, dtype: torch.dtype) -> Network:
    """The network on its device; parameters in `dtype`, buffers as they are."""
    network = build_network(source.spec, device="meta")
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.to_empty(device=device)
    network.backbone.compute_dtype = dtype
    network.reset_buffers()
    parts = logical_parts(network)
    tensors = network.state_dict(keep_vars=True)
    _check_names({n for name in tensors for n in logical_names(name, parts)}, source)
    for name, tensor in tensors.items():
        value = join_fused(name, parts, source.read)
        if value.shape != tensor.shape:
            raise LuminaError(
                "E303",
                f"{name} has shape {list(value.shape)}, not {list(tensor.shape)}",
                "the weights do not fit their own description; use other ones",
            )
        tensor.copy_(value)
    return network


def _check_names(expected: set[str], source: Source) -> None:
    if expected != source.names:
        missing = sorted(expected - source.names)[:3]
        surplus = sorted(source.names - expected)[:3]
        raise LuminaError(
            "E303",
            f"the weights of {source.description} do not fit their own description: "
            f"missing {missing or 'none'}, not expected {surplus or 'none'}",
            "use another checkpoint",
        )
