"""How the tensors of a folder are written: as they are, or in few bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.ops.gptq.coded import Coded, Grid
from lumina.ops.low_bits.grouped import joined
from lumina.state.huggingface import int8
from lumina.state.huggingface.names import Entry

WORD = 32


@dataclass(frozen=True)
class Stored:
    """Every tensor in `dtype`."""

    dtype: torch.dtype

    def size(self, entry: Entry) -> int:
        """Bytes that a tensor takes."""
        return math.prod(entry.shape) * self.dtype.itemsize

    def tensors(self, entry: Entry, whole: Tensor) -> dict[str, Tensor]:
        """What is written of a tensor."""
        return {entry.name: whole.to(self.dtype).contiguous()}

    def settings(self, ignored: list[str]) -> dict[str, Any] | None:
        """The `quantization_config`; `ignored`: modules that keep their weights."""
        return None


@dataclass(frozen=True)
class EightBits(Stored):
    """The large matrices with 8 bits and a scale for each row."""

    def size(self, entry: Entry) -> int:
        """As `Stored.size`."""
        if int8.is_int8(entry):
            return int8.stored_bytes(entry.shape, self.dtype.itemsize)
        return super().size(entry)

    def tensors(self, entry: Entry, whole: Tensor) -> dict[str, Tensor]:
        """As `Stored.tensors`."""
        if int8.is_int8(entry):
            return int8.stored(entry.name, whole, self.dtype)
        return super().tensors(entry, whole)

    def settings(self, ignored: list[str]) -> dict[str, Any]:
        """As `Stored.settings`."""
        return int8.quantization_config(ignored)


@dataclass(frozen=True)
class GptqStored(Stored):
    """The large matrices in the layout of AutoGPTQ and GPTQModel.

    The layout is described in `lumina.state.huggingface.quantised.methods.gptq`. With 3
    bits, whose codes cross words, zero points are stored as they are ("gptq_v2"), since
    tools disagree about the other format.

    Attributes:
        matrices: logical name -> its codes.
        grid: of all of them.
        act_order: groups are not in the order of inputs.
        damping: as the codes were found with.
        whole_rows: a group is all inputs of a matrix.
        true_sequential: each matrix was coded on what those before it in its block
            left.
    """

    matrices: Mapping[str, Coded]
    grid: Grid
    act_order: bool
    damping: float
    whole_rows: bool = False
    true_sequential: bool = False

    def size(self, entry: Entry) -> int:
        """As `Stored.size`."""
        if entry.logical not in self.matrices:
            return super().size(entry)
        rows, columns = entry.shape
        groups = -(-columns // self.grid.group)
        bits = rows * columns * self.grid.bits + groups * rows * (self.grid.bits + 16)
        return bits // 8 + 4 * columns

    def tensors(self, entry: Entry, whole: Tensor) -> dict[str, Tensor]:
        """As `Stored.tensors`.

        Raises:
            LuminaError: E002 for a matrix that is not of whole words of codes.
        """
        if entry.logical not in self.matrices:
            return super().tensors(entry, whole)
        coded, bits = self.matrices[entry.logical], self.grid.bits
        if entry.expert is not None:
            coded = coded.expert(entry.expert)
        if any(extent * bits % WORD for extent in entry.shape):
            raise LuminaError(
                "E002",
                f"{entry.name} has shape {list(entry.shape)}, and codes of {bits} bits "
                "do not fill words of 32 bits",
                "store it with 8 bits: --quantize without --quantization-method",
            )
        zero = coded.zero.t().contiguous()
        stem = entry.name.removesuffix("weight")
        return {
            f"{stem}qweight": words(coded.codes, bits).t().contiguous(),
            f"{stem}qzeros": words(zero - int(bits != 3), bits),
            f"{stem}scales": coded.scale.t().to(self.grid.scale_dtype).contiguous(),
            f"{stem}g_idx": coded.group_of.to(torch.int32),
        }

    def settings(self, ignored: list[str]) -> dict[str, Any]:
        """As `Stored.settings`."""
        return {
            "quant_method": "gptq",
            "bits": self.grid.bits,
            "group_size": -1 if self.whole_rows else self.grid.group,
            "desc_act": self.act_order,
            "sym": self.grid.symmetric,
            "lm_head": False,
            "true_sequential": self.true_sequential,
            "damp_percent": self.damping,
            "checkpoint_format": "gptq_v2" if self.grid.bits == 3 else "gptq",
            "pack_dtype": "int32",
        }


def words(codes: Tensor, bits: int) -> Tensor:
    """Codes [..., n] uint8 as [..., n * bits / 32] int32, the first in lowest bits."""
    found = codes if bits == 8 else joined(codes.contiguous(), bits)
    flat: Tensor = found.contiguous().flatten().view(torch.int32)
    whole: Tensor = flat.unflatten(0, (*found.shape[:-1], -1))
    return whole
