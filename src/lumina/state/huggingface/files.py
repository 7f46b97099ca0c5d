"""The weight files of an untrusted model folder: opened, listed, read, checked.

Only JSON and safetensors are read, and no file outside the folder's own names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina.errors import LuminaError
from lumina.json_objects import read_object
from lumina.ops.low_bits.codec import Packed
from lumina.state.huggingface.names import IGNORED
from lumina.state.readable import require_readable

if TYPE_CHECKING:
    from lumina.state.huggingface.quantised.method import HeldMatrix

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class WeightFiles:
    """The safetensors files of a folder, open, and which tensor is in which.

    Attributes:
        where: tensor -> the open file that holds it; a matrix in few bits is listed
            once, by the name that it had before.
        held: what reads the matrices in few bits, by those names.
        part_of: the tensors that such matrices are made of -> the open file.
        file_of: tensor -> the path of its file.
    """

    def __init__(
        self, folder: Path, stack: ExitStack, unneeded: Collection[str] = ()
    ) -> None:
        """Open the files.

        Args:
            unneeded: tensors that an index may list although no file holds them.
        """
        self.where: dict[str, Any] = {}
        self.held: dict[str, HeldMatrix] = {}
        self.part_of: dict[str, Any] = {}
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

    def hold(self, matrices: Iterable[HeldMatrix]) -> None:
        """Know matrices in few bits by the names they had before.

        Raises:
            LuminaError: E303 for parts that do not fit their matrix.
        """
        for one in matrices:
            self.held[one.name] = one
            part = one.first_part
            self.file_of[one.name] = self.file_of[part]
            self.where[one.name] = self.part_of[part]
            one.check(self)

    def header(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and type of a tensor as it is stored, from the file's header."""
        handle = self.part_of.get(name) or self.where[name]
        found = handle.get_slice(name)
        return tuple(found.get_shape()), str(found.get_dtype())

    def expect(self, name: str, shape: tuple[int, ...], types: Collection[str]) -> None:
        """Refuse a stored tensor of another shape or type.

        Raises:
            LuminaError: E303.
        """
        found, dtype = self.header(name)
        if found != shape or dtype not in types:
            raise damaged(
                self.file_of[name],
                f"{name} is {dtype} of shape {list(found)}, not "
                f"{' or '.join(types)} of shape {list(shape)}",
            )

    def stored(self, name: str) -> Tensor:
        """A tensor as it is stored, of any type.

        Raises:
            LuminaError: E303 where the file is damaged.
        """
        handle = self.part_of.get(name) or self.where[name]
        try:
            tensor: Tensor = handle.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise damaged(self.file_of[name], error) from error
        return tensor

    def finite(self, name: str) -> Tensor:
        """A stored tensor as float32, checked to be finite."""
        return self._finite(name, self.stored(name).float())

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the matrix or tensor, from the files' headers."""
        return self.held[name].shape if name in self.held else self.header(name)[0]

    def dtype(self, name: str) -> str:
        """As the file's header spells it."""
        return self.header(name)[1]

    def read(self, name: str, more: int = 0) -> Tensor:
        """The tensor as float32, checked to be finite.

        Args:
            name: in the files.
            more: zero rows at its end, for which it is not copied a second time.
        """
        if name in self.held:
            value = self.held[name].read(self)
            tensor = value.unpacked() if isinstance(value, Packed) else value
        else:
            tensor = self.stored(name)
        if more:
            rows, *others = tensor.shape
            filled = torch.zeros(rows + more, *others)
            filled[:rows] = tensor
            tensor = filled
        return self._finite(name, tensor.float())

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor itself.

        Raises:
            LuminaError: E303 for values that are not finite.
        """
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
                "E102",
                f"{folder / INDEX} has no weight_map, which names each tensor's file",
                "fetch the folder again",
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
        raise damaged(path, error) from error


def damaged(path: Path, error: object) -> LuminaError:
    """E303 for a file, and what is wrong with it."""
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
        LuminaError: as `lumina.json_objects.read_object`.
    """
    return read_object(
        path,
        "fetch or export the folder again",
        absent="name the folder of a model, which has this file",
    )
