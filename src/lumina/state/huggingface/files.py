"""The weight files of an untrusted model folder: opened, listed, read, checked.

Only JSON and safetensors are read, and no file outside the folder's own names.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina.errors import LuminaError
from lumina.ops.low_bits.codec import Packed
from lumina.state.huggingface.int8 import PACKED, SCALE, SHAPE, unpacked
from lumina.state.huggingface.names import IGNORED
from lumina.state.readable import require_readable

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class WeightFiles:
    """The safetensors files of a folder, open, and which tensor is in which."""

    def __init__(
        self, folder: Path, stack: ExitStack, unneeded: Collection[str] = ()
    ) -> None:
        """Open the files.

        Args:
            unneeded: tensors that an index may list although no file holds them.
        """
        self.where: dict[str, Any] = {}
        self.packed: dict[str, str] = {}
        self.scales: dict[str, Any] = {}
        self.file_of: dict[str, Path] = {}
        for path, promised in _listed(folder).items():
            handle = stack.enter_context(_open(path))
            for name in handle.keys():  # noqa: SIM118 (not a mapping)
                if IGNORED.fullmatch(name):
                    continue
                if name in self.where:
                    raise LuminaError(
                        "E102",
                        f"{name} is both in {self.file_of[name].name} and {path.name}",
                        "each tensor must be in one file",
                    )
                self.where[name], self.file_of[name] = handle, path
            missing = sorted(promised - set(self.where) - set(unneeded))
            missing = [name for name in missing if not IGNORED.fullmatch(name)]
            if missing:
                raise LuminaError(
                    "E303",
                    f"{path} lacks {some(missing)}, which the index says it holds",
                    "fetch the folder again",
                )

    def join_packed(self) -> None:
        """Know matrices of 8 bits by the names they had before."""
        for packed in [name for name in self.where if name.endswith(f".{PACKED}")]:
            stem = packed.removesuffix(PACKED)
            lacking = [
                stem + part for part in (SCALE, SHAPE) if stem + part not in self.where
            ]
            if lacking:
                raise LuminaError(
                    "E102",
                    f"missing: {some(lacking)}",
                    f"{packed} cannot be read without; fetch the folder again",
                )
            self.packed[f"{stem}weight"] = stem
            self.file_of[f"{stem}weight"] = self.file_of[packed]
            self.where[f"{stem}weight"] = self.where.pop(packed)
            self.scales |= {n: self.where.pop(n) for n in (stem + SCALE, stem + SHAPE)}

    def int8(self, name: str) -> Packed:
        """A matrix of 8 bits."""
        stem, path = self.packed[name], self.file_of[name]
        try:
            words = self.where[name].get_tensor(stem + PACKED)
            scale = self.scales[stem + SCALE].get_tensor(stem + SCALE)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise _damaged(path, error) from error
        rows, columns = self.shape(name)
        whole = bool(torch.isfinite(scale).all()) and scale.is_floating_point()
        fitting = tuple(words.shape) == (rows, -(-columns // 4))
        if words.dtype != torch.int32 or not fitting:
            raise _damaged(path, ValueError(f"{stem}{PACKED} does not fit its shape"))
        if tuple(scale.shape) != (rows, 1) or not whole:
            raise _damaged(path, ValueError(f"{stem}{SCALE} does not fit its matrix"))
        tensors = {
            "values": unpacked(words, columns),
            "scale": scale.squeeze(-1).float(),
        }
        return Packed("int8", (rows, columns), tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the file's header; nothing is read but the shape of 8-bit matrices."""
        if name in self.packed:
            key = self.packed[name] + SHAPE
            return tuple(int(n) for n in self.scales[key].get_tensor(key).flatten())
        return tuple(self.where[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As the file's header spells it."""
        if name in self.packed:
            return "INT8"
        return str(self.where[name].get_slice(name).get_dtype())

    def read(self, name: str, more: int = 0) -> Tensor:
        """The tensor as float32, checked to be finite.

        Args:
            name: in the files.
            more: zero rows at its end, for which it is not copied a second time.
        """
        try:
            tensor: Tensor = self.where[name].get_tensor(name)
            if more:
                rows, *others = tensor.shape
                filled = torch.zeros(rows + more, *others)
                filled[:rows] = tensor
                tensor = filled
            tensor = tensor.float()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise _damaged(self.file_of[name], error) from error
        # Both ends are NaN where any value is; nothing of the tensor's size is made.
        ends = torch.stack(tensor.aminmax()) if tensor.numel() else tensor
        if not bool(torch.isfinite(ends).all()):
            raise LuminaError(
                "E303",
                f"{self.file_of[name]}: {name} has values that are not finite",
                "these weights are damaged; fetch the folder again",
            )
        return tensor


def _listed(folder: Path) -> dict[Path, set[str]]:
    """The weight files, and the tensors an index promises in each."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: set()}
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise LuminaError(
                "E102", f"{folder / INDEX}: no weight_map", "fetch the folder again"
            )
        listed: dict[Path, set[str]] = {}
        for name, file in weight_map.items():
            listed.setdefault(_inside(folder, file), set()).add(name)
        return listed
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise LuminaError(
            "E101",
            f"{folder}: the weights are pickles ({some(pickles)}), which can run code "
            "and are not opened",
            "save the model as safetensors (transformers: save_pretrained)",
        )
    raise LuminaError(
        "E104",
        f"{folder}: there is no {WEIGHTS} and no {INDEX}",
        "name the folder that save_pretrained or `lumina export` wrote",
    )


def _inside(folder: Path, file: Any) -> Path:
    """A weight file named by an index: a plain name in the same folder."""
    if (
        not isinstance(file, str)
        or Path(file).name != file
        or not file.endswith(".safetensors")
    ):
        raise LuminaError(
            "E101",
            f"{folder / INDEX}: {file!r} is not the name of a safetensors file",
            "weight files lie beside their index; fetch the folder again",
        )
    path = folder / file
    if not path.is_file():
        raise LuminaError(
            "E303", f"{path}: this shard is missing", "fetch the folder again"
        )
    return path


def _open(path: Path) -> Any:
    require_readable(path)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> LuminaError:
    return LuminaError(
        "E303", f"{path} is damaged: {error}", "fetch or export the folder again"
    )


def some(names: list[str]) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        LuminaError: E104, E106 or E101.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LuminaError(
            "E104", f"{path}: there is no such file", "a model folder has one"
        ) from None
    except PermissionError:
        raise LuminaError(
            "E106", f"{path}: no permission to read", "check its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise LuminaError(
            "E101", f"{path}: not JSON: {error}", "fetch or export the folder again"
        ) from None
    if not isinstance(values, dict):
        raise LuminaError(
            "E101", f"{path}: not a JSON object", "fetch or export the folder again"
        )
    return values
