"""compressed-tensors: 8 bits with a scale for each output, as `lumina export` writes.

The layout is described in `lumina.state.huggingface.int8`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.ops.low_bits.codec import Packed
from lumina.state.huggingface.files import WeightFiles
from lumina.state.huggingface.int8 import PACKED, SCALE, SHAPE, differs, unpacked
from lumina.state.huggingface.quantised.method import (
    HeldMatrix,
    Method,
    not_read,
    register_method,
    taken,
)


class _Rows(HeldMatrix):
    """A matrix of `weight_packed`, `weight_scale` and `weight_shape`."""

    def __init__(self, stem: str, files: WeightFiles) -> None:
        self.name = f"{stem}weight"
        self._parts = taken(files, stem, (PACKED, SCALE, SHAPE))
        self.first_part = self._parts[PACKED]
        name = self._parts[SHAPE]
        files.expect(name, (2,), ("I64", "I32"))
        rows, columns = files.stored(name).tolist()
        self.shape = (int(rows), int(columns))

    def check(self, files: WeightFiles) -> None:
        """As `HeldMatrix.check`."""
        rows, columns = self.shape
        files.expect(self._parts[PACKED], (rows, -(-columns // 4)), ("I32",))
        files.expect(self._parts[SCALE], (rows, 1), ("F32", "BF16", "F16"))

    def read(self, files: WeightFiles) -> Packed:
        """As `HeldMatrix.read`."""
        words = files.stored(self._parts[PACKED])
        scale = files.finite(self._parts[SCALE]).squeeze(-1)
        values = unpacked(words, self.shape[1])
        return Packed("int8", self.shape, {"values": values, "scale": scale})


@register_method
class CompressedTensors(Method):
    """One scheme of several: "pack-quantized" with 8 bits for each output."""

    name = "compressed-tensors"
    reads = "8 bits per channel, pack-quantized"

    def matrices(
        self, settings: Mapping[str, Any], files: WeightFiles
    ) -> Iterator[HeldMatrix]:
        """As `Method.matrices`."""
        if what := differs(settings):
            raise not_read(what)
        for name in [name for name in files.where if name.endswith(f".{PACKED}")]:
            yield _Rows(name.removesuffix(PACKED), files)
