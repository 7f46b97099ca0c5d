"""GPTQ (Frantar et al., 2022, arXiv:2210.17323) as AutoGPTQ and GPTQModel write it.

A matrix `X.weight` [out, in] is stored as

- `X.qweight` [in * bits / 32, out] int32: codes, those of a column of the transposed
  matrix one after the other, the first in the lowest bits;
- `X.qzeros` [groups, out * bits / 32] int32: zero points, packed along the outputs;
- `X.scales` [groups, out], and `X.g_idx` [in]: the group of each input.

w = scale * (q - zero). In the format "gptq" each word of zero points is stored less 1
in every field, and 1 is added to every field of the whole word again, with its carries,
as GPTQModel does; "gptq_v2" stores them as they are. Codes of 3 bits cross words, and
tools do not agree on what "gptq" adds to them, so only "gptq_v2" is read with 3 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Packed
from lumina.ops.low_bits.grouped import GROUP, joined, separated
from lumina.state.huggingface.files import WeightFiles, damaged
from lumina.state.huggingface.quantised.method import (
    HeldMatrix,
    Method,
    not_read,
    register_method,
    taken,
)

_WORD = 32
_BITS = (2, 3, 4, 8)
_FORMATS = {None: True, "": True, "gptq": True, "gptq_v2": False}
"""Format -> whether zero points are stored less 1."""


class _Grouped(HeldMatrix):
    """A matrix of `qweight`, `qzeros`, `scales` and `g_idx`."""

    def __init__(
        self, stem: str, bits: int, group: int, less_one: bool, files: WeightFiles
    ) -> None:
        self.name = f"{stem}weight"
        self._parts = taken(files, stem, ("qweight", "qzeros", "scales", "g_idx?"))
        self.first_part = self._parts["qweight"]
        self._bits, self._less_one = bits, less_one
        words = files.header(self._parts["qweight"])[0]
        if len(words) != 2:
            raise damaged(files.file_of[self._parts["qweight"]], "qweight is no matrix")
        if words[0] * _WORD % bits:
            raise damaged(
                files.file_of[self._parts["qweight"]],
                f"{self._parts['qweight']} does not hold whole codes of {bits} bits",
            )
        self.shape = (words[1], words[0] * _WORD // bits)
        self._group = self.shape[1] if group == -1 else group

    def check(self, files: WeightFiles) -> None:
        """As `HeldMatrix.check`."""
        rows, columns = self.shape
        groups = -(-columns // self._group)
        words = -(-rows * self._bits // _WORD)
        if self._bits == 3 and words % 3:
            raise damaged(
                files.file_of[self.name], f"{self.name} has zero points cut short"
            )
        files.expect(self._parts["qzeros"], (groups, words), ("I32",))
        files.expect(self.first_part, files.header(self.first_part)[0], ("I32",))
        files.expect(self._parts["scales"], (groups, rows), ("F16", "BF16", "F32"))
        if "g_idx" in self._parts:
            files.expect(self._parts["g_idx"], (columns,), ("I32", "I64"))

    def read(self, files: WeightFiles) -> Tensor | Packed:
        """As `HeldMatrix.read`."""
        rows, columns = self.shape
        codes = _separated(files.stored(self._parts["qweight"]).t(), self._bits)
        words = files.stored(self._parts["qzeros"])
        if self._less_one:
            ones = sum(1 << b for b in range(0, _WORD, self._bits))
            words = (words.long() + ones).to(torch.int32)
        zero = _separated(words, self._bits)[:, :rows].t()
        scale = files.finite(self._parts["scales"]).t()
        group_of = self._groups(files)
        in_order = torch.equal(group_of, torch.arange(columns) // GROUP)
        if self._bits == 4 and in_order:
            filled = torch.nn.functional.pad(codes, (0, -columns % GROUP))
            tensors = {
                "values": joined(filled, 4),
                "scale": scale.contiguous(),
                "zero": zero.contiguous(),
            }
            return Packed("int4", self.shape, tensors)
        steps = codes.float() - zero.float()[:, group_of]
        return steps.mul_(scale[:, group_of])

    def _groups(self, files: WeightFiles) -> Tensor:
        """[in] the group of each input, int64."""
        columns = self.shape[1]
        in_order = torch.arange(columns) // self._group
        if "g_idx" not in self._parts:
            return in_order
        name = self._parts["g_idx"]
        found: Tensor = files.stored(name).long()
        groups = -(-columns // self._group)
        if not torch.equal(found.unique(), torch.arange(groups)):
            raise damaged(
                files.file_of[name],
                f"{name} does not name each of {groups} groups of {self._group} inputs",
            )
        return found


@register_method
class Gptq(Method):
    """Codes of 2 to 8 bits in groups of inputs, in any order (`desc_act`)."""

    name = "gptq"
    reads = "2, 4 or 8 bits in the formats gptq and gptq_v2, 3 bits in gptq_v2"

    def matrices(
        self, settings: Mapping[str, Any], files: WeightFiles
    ) -> Iterator[HeldMatrix]:
        """As `Method.matrices`."""
        bits, group = settings.get("bits"), settings.get("group_size", 128)
        if type(bits) is not int or bits not in _BITS:
            raise not_read(f"bits is {bits!r}")
        if type(group) is not int or not (group == -1 or 0 < group < 2**31):
            raise not_read(f"group_size is {group!r}")
        named = {key: settings.get(key) for key in ("checkpoint_format", "format")}
        for key, value in named.items():
            if value not in _FORMATS:
                raise not_read(f"{key} is {value!r}")
        if settings.get("is_marlin_format"):
            raise not_read("is_marlin_format is set")
        if settings.get("dynamic"):
            raise not_read("dynamic gives some modules other bits than others")
        less_one = all(_FORMATS[value] for value in named.values())
        if bits == 3 and less_one:
            raise not_read("bits is 3 in the format gptq")
        for name in [name for name in files.where if name.endswith(".qweight")]:
            yield _Grouped(name.removesuffix("qweight"), bits, group, less_one, files)


def _separated(words: Tensor, bits: int) -> Tensor:
    """[..., n] words as [..., n * 32 / bits] codes uint8, the first in lowest bits."""
    flat = words.contiguous().flatten().view(torch.uint8)
    stored = flat.unflatten(0, (*words.shape[:-1], -1))
    return stored if bits == 8 else separated(stored, bits)
