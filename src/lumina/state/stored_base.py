"""The base of adapters as a run saw it that held it in few bits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lumina.model.declared import tensor_info
from lumina.model.spec import ModelSpec
from lumina.ops.low_bits.codec import found_codec

ROLES = ("matrix", "expert")


class StoredBase:
    """A source whose matrices have the values that their few bits stand for.

    The adapters of a run were trained beside these values. With the values of the
    files in their place, the model would not be the one that was trained and evaluated.

    Args:
        source: the base as it is in its files.
        spec: its shape.
        storage: the codec that held its matrices.
    """

    def __init__(self, source: Any, spec: ModelSpec, storage: str) -> None:
        self._source = source
        self._codec = found_codec(storage)
        info = tensor_info(spec)
        self._few = {name for name, one in info.items() if one.role in ROLES}

    def __getattr__(self, name: str) -> Any:
        """Everything but the matrices is the source's own."""
        return getattr(self._source, name)

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        tensor: Tensor = self._source.tensor(name)
        return self._codec.pack(tensor).unpacked() if name in self._few else tensor
