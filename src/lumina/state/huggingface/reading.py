"""Reads a Hugging Face folder into logical tensors.

The folder is untrusted: only JSON and safetensors are read, every name and shape is
compared with what `config.json` implies before a tensor is allocated, and no file
outside the folder's own names is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.declared import declared
from lumina.model.initial import initial_value
from lumina.model.spec import ModelSpec
from lumina.ops.low_bits.codec import Packed, stacked
from lumina.state.huggingface.configuration import spec_of
from lumina.state.huggingface.files import WeightFiles, read_json, some
from lumina.state.huggingface.formats import Format
from lumina.state.huggingface.latent import Habits, habits_of
from lumina.state.huggingface.names import (
    EMBEDDING,
    HEAD,
    HEAD_BIAS,
    HF_EMBEDDING,
    HF_HEAD,
    Entry,
    count,
    entries,
    is_fused_name,
)
from lumina.state.huggingface.older import OLDER
from lumina.state.huggingface.quantised.method import found_method

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")
_EMBEDDINGS = tuple(
    f"{name}.weight"
    for name in ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
)
"""How names of tables of token vectors end: Llama and its kin, GPT-2, GPT-NeoX..."""
_FLOATS = ("F32", "BF16", "F16")

Read = Callable[[], Tensor | Packed]
"""Reads a tensor of a folder."""


def import_folder(
    folder: str | os.PathLike[str], *, drop_mtp: bool = False
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The shape and weights of a folder; those in few bits are widened.

    Args:
        folder: holds config.json and model.safetensors, or shards with their index.
        drop_mtp: leave out DeepSeek-V3's layers for predicting several tokens.

    Returns:
        The shape, and float32 CPU tensors under their logical names, the vocabulary
        padded with its mean row; routed layers get an even `load`.

    Raises:
        LuminaError: as `read_folder`.
    """
    spec, tensors = read_folder(folder, drop_mtp=drop_mtp)
    return spec, {
        name: value.unpacked() if isinstance(value, Packed) else value
        for name, value in tensors.items()
    }


def read_folder(
    folder: str | os.PathLike[str], *, drop_mtp: bool = False
) -> tuple[ModelSpec, dict[str, Tensor | Packed]]:
    """As `import_folder`, with matrices in few bits left so where a codec holds them.

    Raises:
        LuminaError: E104 files that are not there, E101 pickles and what is not JSON,
            E002 what Lumina's model cannot compute, E102 missing, unknown or misshapen
            tensors, E303 damaged files. Each names the file or tensor.
    """
    with ExitStack() as stack:
        spec, readers = opened_folder(folder, stack, drop_mtp=drop_mtp)
        return spec, {name: read() for name, read in readers.items()}


def opened_folder(
    folder: str | os.PathLike[str], stack: ExitStack, *, drop_mtp: bool = False
) -> tuple[ModelSpec, dict[str, Read]]:
    """As `read_folder`, with functions that read each tensor when they are called.

    Args:
        folder: as of `import_folder`.
        stack: keeps the files open.
        drop_mtp: as of `import_folder`.

    Returns:
        The shape, and logical name -> what reads the tensor. All names and shapes are
        checked.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise LuminaError("E104", f"{path}: there is no such folder", "check the path")
    config = read_json(path / "config.json")
    settings = config.pop("quantization_config", None)
    method = None if settings is None else found_method(settings)
    older = OLDER.get(str(config.get("model_type")))
    spec, row = (older.spec(config), older.row) if older else spec_of(config)
    # An index may list a tied head that was saved only as the embedding.
    tied = (HF_HEAD,) if spec.tie_embeddings else ()
    files = WeightFiles(path, stack, unneeded=tied)
    if method is not None:
        files.hold(method.matrices(settings, files))
    _extra_layers(config, spec, files, drop_mtp)
    habits = habits_of(config, spec)
    return spec, dict(_logical(spec, row, files, habits))


def read_embedding(folder: str | os.PathLike[str]) -> tuple[str, Tensor]:
    """The table of token vectors of a folder of any architecture.

    Returns:
        Its name there, and [V, D] float32.

    Raises:
        LuminaError: as `import_folder`; E102 where there is not one such table.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise LuminaError("E104", f"{path}: there is no such folder", "check the path")
    with ExitStack() as stack:
        files = WeightFiles(path, stack, unneeded=(HF_HEAD,))
        found = [name for name in files.where if name.endswith(_EMBEDDINGS)]
        if len(found) != 1:
            raise LuminaError(
                "E102",
                f"{path}: {some(sorted(found)) if found else 'no tensor'} is called "
                "like a table of token vectors",
                "name the folder of one causal language model",
            )
        return found[0], files.read(found[0])


def _extra_layers(
    config: dict[str, Any], spec: ModelSpec, files: WeightFiles, drop: bool
) -> None:
    """DeepSeek-V3's layers after the last, which guess the tokens after the next."""
    layer_counts = [
        config.get(f"num_{word}_layers") for word in ("nextn_predict", "mtp")
    ]
    layers = max((n for n in layer_counts if type(n) is int), default=0)
    if config["model_type"] != "deepseek_v3" or layers < 1:
        return
    places = [(name, _LAYER.match(name)) for name in files.where]
    last = spec.num_layers + layers
    extra = [
        name
        for name, found in places
        if found is not None and spec.num_layers <= int(found[1]) < last
    ]
    if extra and not drop:
        raise LuminaError(
            "E002",
            f"{len(extra)} tensors belong to layers for predicting several tokens "
            f"({some(extra)}), which Lumina's model does not have",
            "`lumina import FOLDER RUN --drop-mtp` leaves them out; the next token's "
            "logits do not depend on them",
        )
    for name in extra:
        del files.where[name]


def _logical(
    spec: ModelSpec, row: Format, files: WeightFiles, habits: Habits
) -> Iterator[tuple[str, Read]]:
    """Compare all names and shapes; then what reads each tensor."""
    if spec.tie_embeddings:
        _drop_tied_head(files, row)
    fused = any(is_fused_name(name) for name in files.where)
    older = OLDER.get(row.name)
    if count(spec, fused=fused) > 4 * len(files.where) + 64:
        # Absurd sizes in config.json must not make us list millions of names.
        raise LuminaError(
            "E102",
            f"config.json describes {count(spec, fused=fused)} tensors, the files hold "
            f"{len(files.where)}",
            "config.json and weights do not belong together",
        )
    listed = older.entries(spec, files.where) if older else None
    table = list(listed or entries(spec, row, fused=fused))
    _check_names(table, row, files)
    by_logical: dict[str, list[Entry]] = {}
    for entry in table:
        by_logical.setdefault(entry.logical, []).append(entry)
    for logical, group in by_logical.items():
        read: Read = partial(_assembled, spec, group, files)
        if habits != Habits() and ".attention." in logical:
            read = partial(_taken_up, habits, spec, logical, read)
        yield logical, read
    for name, one in declared(spec).items():
        if one.kind == "buffer" and name not in by_logical:  # no folder holds it
            yield name, partial(initial_value, one, seed=0)


def _taken_up(habits: Habits, spec: ModelSpec, logical: str, read: Read) -> Tensor:
    """A tensor of attention in Lumina's order of channels."""
    value = read()
    wide = value.unpacked() if isinstance(value, Packed) else value
    return habits.taken_up(spec, logical, wide)


def _drop_tied_head(files: WeightFiles, row: Format) -> None:
    """Some folders repeat a tied head; it must then be the embedding."""
    ends = OLDER[row.name].embedding if row.name in OLDER else HF_EMBEDDING
    found = [name for name in files.where if name.endswith(ends)]
    if HF_HEAD not in files.where or len(found) != 1:
        return
    same = files.shape(HF_HEAD) == files.shape(found[0]) and torch.equal(
        files.read(HF_HEAD), files.read(found[0])
    )
    if not same:
        raise LuminaError(
            "E102",
            f"config.json ties the head to the embedding, but {HF_HEAD} differs",
            "set tie_word_embeddings to false in config.json if the head is its own",
        )
    del files.where[HF_HEAD]


def _check_names(table: list[Entry], row: Format, files: WeightFiles) -> None:
    expected = {entry.name: entry.shape for entry in table}
    missing = [name for name in expected if name not in files.where]
    if missing:
        raise LuminaError(
            "E102",
            f"missing: {some(missing)}",
            "config.json and weights do not belong together, or a shard is missing",
        )
    unknown = sorted(set(files.where) - set(expected))
    unknown = [name for name in unknown if not _is_empty_bias(name, files)]
    if unknown:
        raise LuminaError(
            "E102",
            f"not part of this architecture: {some(unknown)}",
            f"config.json says {row.name}: see whether the weights are something else",
        )
    for name, shape in expected.items():
        if files.shape(name) != shape:
            raise LuminaError(
                "E102",
                f"{name} has shape {list(files.shape(name))}, config.json implies "
                f"{list(shape)}",
                "config.json and weights do not belong together",
            )
        if name not in files.held and files.dtype(name) not in _FLOATS:
            raise LuminaError(
                "E101",
                f"{name} is stored as {files.dtype(name)}",
                f"weights in {', '.join(_FLOATS)} can be imported",
            )


def _is_empty_bias(name: str, files: WeightFiles) -> bool:
    """Whether it is a bias of zeros, which tools put beside matrices in few bits."""
    stem, _, leaf = name.rpartition(".")
    if leaf != "bias" or f"{stem}.weight" not in files.held:
        return False
    rows = files.shape(f"{stem}.weight")[0]
    return files.shape(name) == (rows,) and not bool(files.stored(name).any())


def _assembled(
    spec: ModelSpec, group: list[Entry], files: WeightFiles
) -> Tensor | Packed:
    """One logical tensor from its one or many pieces."""
    first = group[0]
    kept = _kept(group, files)
    if kept is not None:
        return kept
    if first.expert is not None:
        return torch.stack([files.read(entry.name) for entry in group])
    if first.logical in (EMBEDDING, HEAD, HEAD_BIAS):
        # The mean token, not zeros: a token added later (a chat marker) starts there,
        # and the first norm would magnify the gradient of a zero vector.
        rest = spec.padded_vocab_size - spec.vocab_size
        whole = files.read(first.name, more=rest)
        if rest:
            whole[-rest:] = whole[:-rest].mean(0, keepdim=True)
        return whole
    tensor = files.read(first.name)
    if first.transposed:
        tensor = tensor.t()
    if first.rows is not None:
        chosen = slice(*first.rows)
        tensor = tensor[:, chosen] if tensor.ndim == 3 else tensor[chosen]
    return tensor.contiguous()


def _kept(group: list[Entry], files: WeightFiles) -> Packed | None:
    """A logical tensor in the bits that its pieces have in the folder.

    Returns:
        None where it has to be widened: a table of token vectors or a head, which are
        filled up with rows, and what no codec holds just so.
    """
    first = group[0]
    if first.logical in (EMBEDDING, HEAD) or first.rows is not None:
        return None
    if first.transposed:
        return None
    if not all(entry.name in files.held for entry in group):
        return None
    pieces = []
    for entry in group:
        piece = files.held[entry.name].read(files)
        if not isinstance(piece, Packed):
            return None
        pieces.append(piece)
    if first.expert is None:
        return pieces[0]
    if any(piece.codec != pieces[0].codec for piece in pieces):
        return None
    return stacked(pieces)
