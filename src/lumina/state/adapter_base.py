"""The base of adapters: a checkpoint holds their tensors and names the base.

The base is known by its content: the sha256 of the files that hold its weights. So it
may be moved, but not be another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lumina.data.known_hashes import known_hash
from lumina.errors import LuminaError
from lumina.state.manifest import MANIFEST_NAME, STATE_NAME, read_manifest

if TYPE_CHECKING:
    from lumina.state.weights import Weights

Reference = Mapping[str, Any]
"""`path`, `sha256` of the content, and whether the averaged weights are meant."""

Opener = Callable[..., "Weights"]
"""`lumina.state.weights.open_weights`."""


def content_of(folder: Path) -> str:
    """One sha256 for the content of all files of a folder that hold weights.

    Args:
        folder: a checkpoint, or an exported folder.
    """
    if (folder / MANIFEST_NAME).is_file():
        files = read_manifest(folder).files
        found = [entry.sha256 for name, entry in files.items() if name != STATE_NAME]
    else:
        found = [known_hash(path) for path in folder.glob("*.safetensors")]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def reference_to(weights: Weights) -> dict[str, Any]:
    """The reference to weights that adapters are trained on.

    Weights that have adapters already are not the base: theirs is.

    Args:
        weights: as they were opened.
    """
    if weights.spec.adapters:
        return dict(weights.source.reference)
    folder = weights.path.resolve()
    return {
        "path": str(folder),
        "sha256": content_of(folder),
        "averaged": weights.averaged,
    }


def open_base(reference: Reference, opener: Opener) -> Weights:
    """The weights that a reference names.

    Raises:
        LuminaError: E104 where nothing is there, E303 where its content is another.
    """
    folder = Path(reference["path"])
    if not folder.exists():
        raise LuminaError(
            "E104",
            f"the base of the adapters, {folder}, is not there",
            "put it back, or say where it is now with --peft-base",
        )
    weights = opener(folder, ema=reference["averaged"])
    if content_of(weights.path) != reference["sha256"]:
        weights.close()
        raise LuminaError(
            "E303",
            f"{folder} has other weights than those the adapters were trained on",
            "name the base that they were trained on with --peft-base",
        )
    return weights


class OnBase:
    """The tensors of adapters and those of their base, as one source.

    Args:
        held: the source of what a checkpoint holds: adapters, buffers, and what of the
            base trains too.
        base: gives the other tensors.
        reference: to the base.
    """

    def __init__(self, held: Any, base: Weights, reference: Reference) -> None:
        self.held = held
        self.base = base
        self.reference = reference

    def __getattr__(self, name: str) -> Any:
        """Everything but the tensors is the checkpoint's own."""
        return getattr(self.held, name)

    def names(self) -> list[str]:
        """Logical names: those held, and those that only the base has."""
        held = self.held.names()
        own = set(held)
        return [*held, *(name for name in self.base.source.names() if name not in own)]

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        source = self.held if name in set(self.held.names()) else self.base.source
        tensor: Tensor = source.tensor(name)
        return tensor

    def close(self) -> None:
        """Release the files."""
        close = getattr(self.held, "close", None)
        if close is not None:
            close()
        self.base.close()


class Started:
    """Weights, and adapters beside them with their first values.

    Args:
        base: the source of the weights.
        made: gives the adapters' first values, by name.
        own: the names of the adapters' tensors.
    """

    def __init__(self, base: Any, made: Callable[[str], Tensor], own: set[str]) -> None:
        self.base = base
        self.made = made
        self.own = own

    def names(self) -> list[str]:
        """Logical names."""
        return [*self.base.names(), *sorted(self.own)]

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        tensor: Tensor = self.made(name) if name in self.own else self.base.tensor(name)
        return tensor

    def optimizer_names(self, slot: str) -> list[str]:
        """None: nothing was trained yet."""
        return []

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """Never there."""
        raise KeyError(f"{slot} {name}")

    def close(self) -> None:
        """Release the files."""
        self.base.close()
