"""What reads the matrices that a tool has written in few bits, and the table of them.

A method takes the tensors that make up a matrix out of the files' list and puts one
`HeldMatrix` in their place, under the name that the matrix had before. A matrix that is
as one of our codecs holds it is kept in its bits; any other is widened as it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName
from lumina.ops.low_bits.codec import Packed, Shape
from lumina.state.huggingface.files import WeightFiles


class HeldMatrix:
    """A matrix in few bits, as a folder holds it.

    Attributes:
        name: of the matrix, as it was before it was in few bits.
        shape: of the matrix, from the headers of the files.
        first_part: the tensor that holds its codes.
    """

    name: str
    shape: Shape
    first_part: str

    def check(self, files: WeightFiles) -> None:
        """Refuse parts of other shapes or types than the matrix needs.

        Raises:
            LuminaError: E303 naming the tensor. Only headers are read.
        """
        raise NotImplementedError

    def read(self, files: WeightFiles) -> Tensor | Packed:
        """The matrix: kept in its bits, or float32 [out, in].

        Raises:
            LuminaError: E303 for values that cannot be.
        """
        raise NotImplementedError


class Method:
    """A tool that writes matrices in few bits.

    Attributes:
        name: its `quant_method`; that of its file with `_` for `-`.
        reads: what of it can be read, in words.
    """

    name: str
    reads: str

    def matrices(
        self, settings: Mapping[str, Any], files: WeightFiles
    ) -> Iterator[HeldMatrix]:
        """The matrices in few bits; their parts are taken out of `files.where`.

        Args:
            settings: the folder's `quantization_config`.
            files: its files.

        Raises:
            LuminaError: E002 for settings that are not read, E102 for missing parts.
        """
        raise NotImplementedError


METHODS: FoundByName[Method] = FoundByName("lumina.state.huggingface.quantised.methods")
"""The methods by name, `_` for `-`."""


def register_method(cls: type[Method]) -> type[Method]:
    """A class decorator: an object of the class becomes the entry of its name."""
    METHODS[cls.name.replace("-", "_")] = cls()
    return cls


def found_method(settings: Any) -> Method:
    """The method that a `quantization_config` names.

    Raises:
        LuminaError: E002 for any other.
    """
    named = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if named is None and isinstance(settings, Mapping):
        # bitsandbytes' first folders named no method (transformers reads them so, too).
        loads = ("load_in_4bit", "load_in_8bit")
        named = "bitsandbytes" if any(settings.get(key) for key in loads) else None
    found = None
    if isinstance(named, str) and "_" not in named:
        found = METHODS.found(named.replace("-", "_"))
    if found is None:
        raise not_read(f"quant_method is {named!r}")
    return found


def not_read(what: str) -> LuminaError:
    """E002 for a kind of few bits that is not read.

    Args:
        what: of `quantization_config`, such as "bits is 5".
    """
    known = "; ".join(
        f"{one.name} ({one.reads})"
        for one in map(METHODS.found, METHODS.known())
        if one is not None
    )
    return LuminaError(
        "E002",
        f"config.json: quantization_config is of a kind Lumina does not read: {what}",
        f"weights without it can be imported, and these: {known}",
    )


def taken(files: WeightFiles, stem: str, parts: tuple[str, ...]) -> dict[str, str]:
    """The parts of a matrix; from here on the files' list does not have them.

    Args:
        files: of the folder.
        stem: what their names begin with.
        parts: what their names end with; a `?` after one that may be missing.

    Returns:
        Part without its `?` -> the name of its tensor.

    Raises:
        LuminaError: E102 for a part that is not there.
    """
    found = {}
    for part in parts:
        name = stem + part.removesuffix("?")
        if name in files.where:
            found[part.removesuffix("?")] = name
            files.part_of[name] = files.where.pop(name)
        elif not part.endswith("?"):
            raise LuminaError(
                "E102",
                f"the folder has no tensor {name}, which {stem}weight is made of",
                "fetch the folder again",
            )
    return found
