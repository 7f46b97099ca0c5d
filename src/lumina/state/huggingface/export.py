"""Writes a Hugging Face folder that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumina.durable import free_bytes, write_file
from lumina.errors import LuminaError
from lumina.model.declared import fused_pieces, tensor_info
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.model.stored import declared_tensors, stored_pieces
from lumina.state.huggingface.configuration import config_of
from lumina.state.huggingface.formats import Format, choose
from lumina.state.huggingface.names import EMBEDDING, HEAD, Entry, entries
from lumina.state.huggingface.staging import staged
from lumina.state.huggingface.written import EightBits, Stored
from lumina.state.state import State
from lumina.state.tensor_file import write_tensors

if TYPE_CHECKING:
    from lumina.data.tokenizer import Tokenizer

SHARD_BYTES = 5 * 10**9
"""Most bytes of one file; the convention of the hub."""

BALANCE = (".load", ".selection_bias")
"""Endings of buffers that only balance experts while a model trains."""

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Read = Callable[[str], Tensor]
"""Logical name -> whole tensor."""


def export_folder(
    source: Network | State | tuple[ModelSpec, Read],
    tokenizer: Tokenizer | None,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    format_name: str | None = None,
    bits: int | None = None,
    stored: Stored | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a folder in the format that holds the model.

    The folder appears whole or not at all. Tensors are read one at a time, so memory
    holds one shard. The exported model is dropless, as generation here is.

    Args:
        source: an unsharded network, a State, or a shape and a reader of its logical
            tensors (a checkpoint).
        tokenizer: written beside the weights; None leaves it out.
        folder: must not exist, or be empty.
        dtype: "float32", "bfloat16" or "float16".
        format_name: a `model_type` of `FORMATS`; None takes the first that holds it.
        bits: 8 stores large matrices as `lumina.state.huggingface.int8` says, and
            `dtype` is that of the rest; None stores all in `dtype`.
        stored: how tensors are written, in place of `dtype` and `bits`.
        shard_bytes: a new file starts past this size.

    Raises:
        LuminaError: E002 for what the format cannot hold and for a folder in use, E005
            dtype or format, E104/E106/E204 when it cannot be written.
    """
    if dtype not in DTYPES:
        raise LuminaError(
            "E005", f"unknown dtype {dtype!r}", f"choose one of {', '.join(DTYPES)}"
        )
    if bits not in (None, 8):
        raise LuminaError("E005", f"there are no weights of {bits} bits", "choose 8")
    spec, read = _opened(source)
    row = choose(spec, format_name)
    bos_id = None if tokenizer is None else tokenizer.bos_id
    ends = None if tokenizer is None else tokenizer.eos_token_id
    config = config_of(spec, row, dtype, bos_id, ends)
    _check_places(spec, row)
    _check_bias(spec, row, read)
    read = _with_bias(spec, read)
    if tokenizer is not None and tokenizer.vocab_size > spec.vocab_size:
        raise LuminaError(
            "E002",
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{spec.vocab_size}",
            "export with the tokenizer the model was trained with",
        )
    target = Path(folder)
    with staged(target) as partial:
        if stored is None:
            stored = (Stored if bits is None else EightBits)(DTYPES[dtype])
        settings = stored.settings(list(_ignored(spec, row)))
        if settings is not None:
            config["quantization_config"] = settings
        _write_json(partial / "config.json", config)
        shards = list(_shards(spec, row, stored, shard_bytes))
        _write_weights(partial, shards, read, stored)
        if tokenizer is not None:
            tokenizer.save(partial)  # with generation_config.json
        else:
            _write_json(partial / "generation_config.json", {})
    return target


def _opened(source: Network | State | tuple[ModelSpec, Read]) -> tuple[ModelSpec, Read]:
    """The shape, and a reader of logical tensors."""
    if isinstance(source, tuple):
        return source
    if isinstance(source, State):
        return ModelSpec.from_dict(source.spec), source.tensors.__getitem__
    tensors: dict[str, Tensor] = {}
    pieces = fused_pieces(source.spec)
    for name, tensor in declared_tensors(source).items():
        tensor = tensor.detach()
        if name in pieces:
            split = tensor.split(list(pieces[name].sizes), dim=pieces[name].dim)
            tensors |= dict(zip(pieces[name].names, split, strict=True))
        else:
            tensors[name] = tensor
    packed = stored_pieces(source)
    return (
        source.spec,
        lambda name: packed[name].unpacked() if name in packed else tensors[name],
    )


def _check_places(spec: ModelSpec, row: Format) -> None:
    """Refuse a model with a tensor that the format has no name for."""
    placed = {entry.logical for entry in entries(spec, row)}
    left = [n for n in tensor_info(spec) if n not in placed and not n.endswith(BALANCE)]
    if left:
        raise LuminaError(
            "E002",
            f"the {row.title} format has no place for {left[0]}"
            + (f" and {len(left) - 1} other tensors" if len(left) > 1 else ""),
            "the run's own checkpoints keep every tensor, and generate and chat read "
            "them",
        )


def _check_bias(spec: ModelSpec, row: Format, read: Read) -> None:
    if spec.moe is None or spec.moe.bias_update_rate == 0:
        return
    if row.experts is not None and row.experts.bias:
        return
    for layer in spec.moe.layers:
        name = f"backbone.blocks.{layer}.feedforward.selection_bias"
        if bool(read(name).any()):
            raise LuminaError(
                "E002",
                f"the {row.title} format has no place for {name}, which is not zero",
                "only models trained with --moe-bias-update-rate 0 can be exported",
            )


def _with_bias(spec: ModelSpec, read: Read) -> Read:
    """A router without a selection bias chooses as with one of zeros."""
    if spec.moe is None or spec.moe.bias_update_rate > 0:
        return read
    zeros = torch.zeros(spec.moe.num_experts)
    return lambda name: zeros if name.endswith(".selection_bias") else read(name)


def _ignored(spec: ModelSpec, row: Format) -> Iterator[str]:
    """The linear modules that keep their weights, by the names transformers has."""
    yield "lm_head"
    for entry in entries(spec, row):
        if entry.logical.endswith("router.weight"):
            yield entry.name.removesuffix(".weight")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_file(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def _write_weights(
    folder: Path, shards: list[list[Entry]], read: Read, stored: Stored
) -> None:
    """model.safetensors, or numbered shards and their index."""
    needed = sum(stored.size(entry) for shard in shards for entry in shard)
    if needed > free_bytes(folder):
        raise LuminaError(
            "E204",
            f"the weights take {needed:,} bytes, {folder.parent} has "
            f"{free_bytes(folder):,}",
            "free some disk space, or name a folder on another disk",
        )
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            name: tensor
            for entry, whole in _tensors(shard, read)
            for name, tensor in stored.tensors(entry, whole).items()
        }
        write_tensors(folder / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(
    spec: ModelSpec, row: Format, stored: Stored, most: int
) -> Iterator[list[Entry]]:
    """Entries in order, cut where a file would grow past `most` bytes."""
    shard: list[Entry] = []
    filled = 0
    for entry in entries(spec, row):
        size = stored.size(entry)
        if shard and filled + size > most:
            yield shard
            shard, filled = [], 0
        shard.append(entry)
        filled += size
    yield shard


def _tensors(shard: list[Entry], read: Read) -> Iterator[tuple[Entry, Tensor]]:
    """The tensors of one file, checked against the shape they must have."""
    held: tuple[str, Tensor] | None = None
    for entry in shard:
        if held is None or held[0] != entry.logical:
            # Neighbours are often slices of the same tensor: read it once.
            held = (entry.logical, read(entry.logical))
        tensor = held[1]
        if entry.logical in (EMBEDDING, HEAD):
            tensor = tensor[: entry.shape[0]]  # without the padded vocabulary
        if entry.expert is not None:
            tensor = tensor[entry.expert]
        if tuple(tensor.shape) != entry.shape:
            raise LuminaError(
                "E303",
                f"{entry.logical} has shape {tuple(tensor.shape)}, not {entry.shape}",
                "the checkpoint does not fit its own description; use another",
            )
        yield entry, tensor.detach().cpu()
