"""Reads a folder of PEFT's format into an `Adapter`.

The folder is untrusted: only JSON and safetensors are read, every name and shape is
compared with the model before its values are used, and settings that would change what
the adapter computes are refused by name where Lumina does not know them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.declared import logical_shapes
from lumina.model.spec import ModelSpec
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.deltas import delta
from lumina.state.adapters.experts import fused_pieces_of, stacked
from lumina.state.adapters.peft_type import PEFT_TYPES, PeftType, alpha_of
from lumina.state.adapters.places import Place, Places, places
from lumina.state.huggingface.files import read_json, some
from lumina.state.huggingface.names import EMBEDDING, HEAD
from lumina.state.readable import require_readable

CONFIG, WEIGHTS, FACTS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "lumina_adapter.json",
)
PREFIX = "base_model.model."
"""What names of tensors in a folder begin with."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class AdapterFolder:
    """A folder, of which the settings are read and the tensors are not.

    Attributes:
        path: the folder.
        config: its settings.
        type: of the adapter.
        facts: what Lumina wrote beside them; empty for a folder of PEFT.
    """

    path: Path
    config: Mapping[str, Any]
    type: PeftType
    facts: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The method that the settings mean."""
        return self.type.method(self.config)


def is_adapter_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether there is an adapter in PEFT's format."""
    return (Path(folder).expanduser() / CONFIG).is_file()


def open_adapter(folder: str | os.PathLike[str]) -> AdapterFolder:
    """The settings of a folder, checked.

    Raises:
        LuminaError: E104 or E106 for files that are not there or not readable, E101 for
            what is not JSON, E002 for a type or a setting that Lumina does not compute.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise LuminaError("E104", f"{path}: there is no such folder", "check the path")
    config = read_json(path / CONFIG)
    name = config.get("peft_type")
    found = PEFT_TYPES.found(name.lower()) if isinstance(name, str) else None
    if found is None:
        known = ", ".join(one.upper() for one in PEFT_TYPES.known())
        raise LuminaError(
            "E002",
            f"{path / CONFIG}: the peft_type {name!r} is not computed here",
            f"there are {known}; PEFT itself can merge others into their model",
        )
    for setting, values in found.plain.items():
        if config.get(setting) not in values:
            raise LuminaError(
                "E002",
                f"{path / CONFIG}: {setting} is {config[setting]!r}, which is not "
                "computed here",
                "merge the adapter into its model with PEFT and use the merged model",
            )
    facts = read_json(path / FACTS) if (path / FACTS).is_file() else {}
    return AdapterFolder(path, config, found, facts)


def read_adapter(folder: str | os.PathLike[str], spec: ModelSpec) -> Adapter:
    """An adapter for a model.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        spec: the shape of the model that it is to change.

    Raises:
        LuminaError: as `open_adapter`; E101 for pickles, E102 for tensors that are
            missing, unknown or of another shape, E303 for damaged files; E002 for a
            change of a tied embedding, which the head shares.
    """
    opened = open_adapter(folder)
    where = places(spec)
    with ExitStack() as stack:
        tensors = _Tensors(opened.path, stack)
        by_module, whole = _grouped(tensors.names(), opened.type)
        _require_known(opened, where, by_module, whole)
        pieces = _pieces(opened, where, tensors, by_module, spec)
        replaced = {
            where.by_module[module].logical: tensors.read(name)
            for module, name in whole.items()
        }
    _check_shapes(opened, where, pieces, replaced, spec)
    if spec.tie_embeddings and {EMBEDDING, HEAD} & (pieces.keys() | replaced.keys()):
        raise LuminaError(
            "E002",
            f"{opened.path} changes the table of token vectors, which the head of this "
            "model shares; PEFT changes one of the two",
            "leave embed_tokens and lm_head out of the adapter",
        )
    config = opened.config
    base = opened.facts.get("base") or config.get("base_model_name_or_path")
    dropout = opened.facts.get("dropout", config.get("lora_dropout") or 0.0)
    digest = opened.facts.get("base_hash")
    return Adapter(
        name=opened.path.resolve().name,
        method=opened.method,
        pieces=pieces,
        dropout=alpha_of(dropout, "lora_dropout"),
        options={n: config[n] for n in opened.type.options if n in config},
        replaced=replaced,
        base=base if isinstance(base, str) else None,
        base_hash=digest if isinstance(digest, str) else None,
        base_storage=str(opened.facts.get("base_storage") or ""),
    )


class _Tensors:
    """The safetensors file of a folder, open."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = folder / WEIGHTS
        if not self.path.is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            raise LuminaError(
                "E101" if pickled else "E104",
                f"{folder}: the adapter is a pickle, which can run code and is not "
                "opened"
                if pickled
                else f"{folder}: there is no {WEIGHTS}",
                "save it as safetensors (PEFT: save_pretrained)",
            )
        require_readable(self.path)
        try:
            self._file = stack.enter_context(
                safe_open(self.path, framework="pt", device="cpu")
            )
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self._file.keys())

    def read(self, name: str) -> Tensor:
        """A tensor as float32, checked to be finite."""
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise self._damaged(error) from error
        if tensor.dtype not in _FLOATS:
            raise LuminaError(
                "E101",
                f"{self.path}: {name} is stored as {tensor.dtype}",
                "float32, bfloat16 and float16 can be read",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise LuminaError(
                "E303",
                f"{self.path}: {name} has values that are not finite",
                "this adapter is damaged; fetch the folder again",
            )
        return tensor.float()

    def _damaged(self, error: Exception) -> LuminaError:
        return LuminaError(
            "E303", f"{self.path} is damaged: {error}", "fetch the folder again"
        )


def _grouped(
    names: list[str], kind: PeftType
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Module -> its tensors by the method's names; module -> a weight held whole."""
    by_module: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for name in sorted(names):
        path = name.removeprefix(PREFIX)
        for ending, own in kind.tensors.items():
            if path.endswith(f".{ending}"):
                by_module.setdefault(path[: -len(ending) - 1], {})[own] = name
                break
        else:
            whole[path.removesuffix(".weight").removesuffix(".base_layer")] = name
    return by_module, whole


def _require_known(
    opened: AdapterFolder,
    where: Places,
    by_module: Mapping[str, Any],
    whole: Mapping[str, str],
) -> None:
    """Refuse a folder with tensors that the model has no place for.

    Raises:
        LuminaError: E102 naming some; E105 where there are none at all.
    """
    experts = {*where.experts, *(f"{module}.base_layer" for module in where.experts)}
    strange = [m for m in by_module if m not in where.by_module and m not in experts]
    strange += [name for module, name in whole.items() if module not in where.by_module]
    if strange:
        raise LuminaError(
            "E102",
            f"{opened.path}: the model has no place for {some(sorted(strange))}",
            "use the model that the adapter was trained on "
            f"({opened.config.get('base_model_name_or_path') or 'not said which'})",
        )
    if not by_module and not whole:
        raise LuminaError(
            "E105", f"{opened.path} changes nothing", "fetch the folder again"
        )


def _pieces(
    opened: AdapterFolder,
    where: Places,
    tensors: _Tensors,
    by_module: Mapping[str, Mapping[str, str]],
    spec: ModelSpec,
) -> dict[str, Piece]:
    """What the folder holds, by logical weight."""
    pieces: dict[str, Piece] = {}
    of_experts: dict[str, dict[int, Piece]] = {}
    shapes = logical_shapes(spec)
    for module, named in by_module.items():
        held = {own: tensors.read(name) for own, name in named.items()}
        path = module.removesuffix(".base_layer")
        if path in where.experts:
            pieces |= fused_pieces_of(
                opened.type, opened.config, path, held, where.experts[path], shapes
            )
            continue
        place = where.by_module[module]
        piece = opened.type.piece(opened.config, module, held)
        if place.expert is None:
            pieces[place.logical] = piece
        else:
            of_experts.setdefault(place.logical, {})[place.expert] = piece
    for logical, parts in of_experts.items():
        pieces[logical] = stacked(opened.method, logical, parts, shapes[logical][0])
    return pieces


def _check_shapes(
    opened: AdapterFolder,
    where: Places,
    pieces: Mapping[str, Piece],
    replaced: Mapping[str, Tensor],
    spec: ModelSpec,
) -> None:
    """Refuse (E102) tensors of which the change does not have the weight's shape."""
    wanted = {**logical_shapes(spec), **_cut(where.by_module.values())}
    probe = Adapter("", opened.method, {})
    for logical, piece in pieces.items():
        tensors = {n: t.to("meta") for n, t in piece.tensors.items()}
        base = torch.empty(wanted[logical], device="meta")
        try:
            change = delta(probe, Piece(tensors, piece.rank, 1.0), base)
        except (RuntimeError, IndexError):
            change = base.new_empty(())
        if change.shape != base.shape or not _exact(tensors, base.shape, piece.rank):
            shapes = {n: tuple(t.shape) for n, t in piece.tensors.items()}
            raise LuminaError(
                "E102",
                f"{opened.path}: {logical} of shape {wanted[logical]} cannot be "
                f"changed by {shapes} of rank {piece.rank}",
                "use the model that the adapter was trained on",
            )
    for logical, tensor in replaced.items():
        if tuple(tensor.shape) != tuple(wanted[logical]):
            raise LuminaError(
                "E102",
                f"{opened.path}: {logical} has shape {tuple(tensor.shape)}, not "
                f"{wanted[logical]}",
                "use the model that the adapter was trained on",
            )


def _exact(tensors: Mapping[str, Tensor], shape: torch.Size, rank: int) -> bool:
    """Whether tensors that are multiplied number by number have their full length."""
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    lead, (rows, columns) = tuple(shape[:-2]), shape[-2:]
    if "e" in held:  # training may have dropped some of the ranks
        return held["e"] == (held["a"][0], 1)
    if "a" in held and held["a"][-2] != rank:
        return False
    if held.get("factors", (rows,)) != (rows,):
        return False
    if held.get("factors_in", (columns,)) != (columns,):
        return False
    return held.get("magnitude", (*lead, rows)) == (*lead, rows)


def _cut(found: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of tables without their padded vocabulary."""
    ones: list[Place] = [one for one in found if one.logical in (EMBEDDING, HEAD)]
    return {one.logical: one.shape for one in ones}
