"""bitsandbytes: LLM.int8 (arXiv:2208.07339) and 4 bits (QLoRA, arXiv:2305.14314).

In 4 bits, `X.weight` [n / 2, 1] holds two codes a byte, the first in the high bits, of
the matrix row after row; `X.weight.absmax` the scale of each block of 64 (or other)
codes, and `X.weight.quant_map` [16] what a code stands for. With double quantisation,
`absmax` are codes themselves, of `X.weight.nested_quant_map` [256], with the scales of
blocks of 256 in `X.weight.nested_absmax` and their mean in the JSON that
`X.weight.quant_state.bitsandbytes__nf4` holds as bytes, beside shape and block sizes.

In 8 bits, `X.weight` [out, in] is int8 and `X.SCB` [out] the largest value of each row.
The matrix is exactly what these stand for. bitsandbytes itself also rounds activations
to 8 bits as it multiplies, which is not done here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Packed, Shape
from lumina.ops.low_bits.codecs import nf4, nf4_double
from lumina.ops.low_bits.codecs.int8 import LARGEST
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.state.huggingface.files import WeightFiles, damaged
from lumina.state.huggingface.quantised.method import (
    HeldMatrix,
    Method,
    not_read,
    register_method,
    taken,
)

_STATE = re.compile(r"(.+\.)weight\.quant_state\.bitsandbytes__(\w+)")
_MOST = 2**16
"""Bytes of the JSON beside a matrix; it has a few hundred."""
_BYTES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
"""Types that codes may be stored as (`bnb_4bit_quant_storage`), with their bytes."""


class _FourBits(HeldMatrix):
    """A matrix of 4-bit codes and its state."""

    def __init__(self, stem: str, kind: str, files: WeightFiles) -> None:
        self.name = f"{stem}weight"
        state = f"weight.quant_state.bitsandbytes__{kind}"
        nested = ("weight.nested_absmax?", "weight.nested_quant_map?")
        codes = ("weight", "weight.absmax", "weight.quant_map", state)
        self._parts = taken(files, stem, (*codes, *nested))
        self.first_part = self._parts["weight"]
        self._kind, where = kind, self._parts[state]
        if math.prod(files.header(where)[0]) > _MOST:
            raise damaged(files.file_of[where], f"{where} is too large")
        try:
            values = json.loads(bytes(files.stored(where).tolist()))
            self.shape = _sizes(values["shape"])
            (self._block,) = _sizes([values["blocksize"]])
            self._nested, self._mean = 0, 0.0
            if "weight.nested_absmax" in self._parts:
                (self._nested,) = _sizes([values.get("nested_blocksize", 256)])
                self._mean = float(values["nested_offset"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(files.file_of[where], f"{where}: {error!r}") from None
        if not math.isfinite(self._mean):
            raise damaged(files.file_of[where], f"{where}: an offset that is no number")

    def check(self, files: WeightFiles) -> None:
        """As `HeldMatrix.check`."""
        numbers = math.prod(self.shape)
        shape, dtype = files.header(self._parts["weight"])
        size = _BYTES.get(dtype, 0)
        if size * math.prod(shape) != -(-numbers // 2):
            raise damaged(
                files.file_of[self.name],
                f"{self.name} does not hold {numbers} codes of 4 bits",
            )
        blocks = -(-numbers // self._block)
        absmax = ("U8",) if self._nested else ("F32",)
        files.expect(self._parts["weight.absmax"], (blocks,), absmax)
        files.expect(self._parts["weight.quant_map"], (16,), ("F32",))
        if self._nested:
            groups = -(-blocks // self._nested)
            files.expect(self._parts["weight.nested_absmax"], (groups,), ("F32",))
            files.expect(self._parts["weight.nested_quant_map"], (256,), ("F32",))

    def read(self, files: WeightFiles) -> Tensor | Packed:
        """As `HeldMatrix.read`."""
        codes = files.stored(self._parts["weight"]).flatten().view(torch.uint8)
        table = files.finite(self._parts["weight.quant_map"])
        parts = {"values": codes, **self._scales(files)}
        name = self._codec(table, files)
        if name:
            rows, columns = self.shape
            parts["values"] = codes.reshape(rows, columns // 2)
            parts["scale"] = parts["scale"].reshape(rows, columns // nf4.BLOCK)
            return Packed(name, self.shape, parts)
        scale = parts["scale"]
        if self._nested:
            levels = files.finite(self._parts["weight.nested_quant_map"])
            scale = levels[scale.int()] * _spread(
                parts["scale_scale"], self._nested, len(scale)
            )
            scale += self._mean
        pairs = torch.stack([codes >> 4, codes & 15], dim=-1).flatten()
        numbers = table[pairs.int()][: math.prod(self.shape)]
        return (numbers * _spread(scale, self._block, len(numbers))).view(self.shape)

    def _scales(self, files: WeightFiles) -> dict[str, Tensor]:
        """The scales of blocks, by the names that our codecs have for them."""
        if not self._nested:
            return {"scale": files.finite(self._parts["weight.absmax"])}
        return {
            "scale": files.stored(self._parts["weight.absmax"]),
            "scale_scale": files.finite(self._parts["weight.nested_absmax"]),
            "scale_mean": torch.tensor([self._mean]),
        }

    def _codec(self, table: Tensor, files: WeightFiles) -> str:
        """Which of our codecs holds the very same; "" where none does."""
        if self._block != nf4.BLOCK or self.shape[1] % nf4.BLOCK:
            return ""
        if not torch.equal(table, torch.tensor(nf4.CODES)):
            return ""
        if not self._nested:
            return "nf4"
        levels = files.finite(self._parts["weight.nested_quant_map"])
        ours = torch.tensor(dynamic_map(8, signed=True))
        alike = torch.allclose(levels, ours, rtol=1e-6, atol=1e-7)
        return "nf4_double" if alike and self._nested == nf4_double.SCALES else ""


class _EightBits(HeldMatrix):
    """A matrix of int8, and the largest value of each row."""

    def __init__(self, stem: str, files: WeightFiles) -> None:
        self.name = f"{stem}weight"
        self._parts = taken(files, stem, ("weight", "SCB", "weight_format?"))
        self.first_part = self._parts["weight"]
        order = self._parts.get("weight_format")
        if order is not None:
            files.expect(order, (), ("U8",))
            if bool(files.stored(order)):
                raise not_read(f"{order} says that {self.name} is not in rows")
        self.shape = files.header(self._parts["weight"])[0]

    def check(self, files: WeightFiles) -> None:
        """As `HeldMatrix.check`."""
        files.expect(self._parts["weight"], self.shape, ("I8",))
        files.expect(self._parts["SCB"], self.shape[:1], ("F32", "F16", "BF16"))

    def read(self, files: WeightFiles) -> Packed:
        """As `HeldMatrix.read`."""
        scale = files.finite(self._parts["SCB"]) / LARGEST
        values = files.stored(self._parts["weight"])
        return Packed("int8", self.shape, {"values": values, "scale": scale})


@register_method
class BitsAndBytes(Method):
    """Matrices in NF4, FP4 or int8; each says by its tensors which it is in."""

    name = "bitsandbytes"
    reads = "8 bits; nf4 and fp4, also with double quantisation"

    def matrices(
        self, settings: Mapping[str, Any], files: WeightFiles
    ) -> Iterator[HeldMatrix]:
        """As `Method.matrices`."""
        for name in list(files.where):
            state = _STATE.fullmatch(name)
            if state is not None and state[2] not in ("nf4", "fp4"):
                raise not_read(f"{name} is of the type {state[2]!r}")
            if state is not None:
                yield _FourBits(state[1], state[2], files)
            elif name.endswith(".SCB"):
                yield _EightBits(name.removesuffix("SCB"), files)


def _sizes(values: Any) -> Shape:
    """Whole numbers above 0, which sizes are.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(values, list) or not 1 <= len(values) <= 2:
        raise ValueError(f"{values!r} are no sizes of a matrix")
    for one in values:
        if type(one) is not int or not 0 < one < 2**40:
            raise ValueError(f"{one!r} is no size")
    return tuple(values)


def _spread(scales: Tensor, block: int, numbers: int) -> Tensor:
    """[numbers]: the scale of each number, which `block` of them share."""
    return scales.repeat_interleave(block)[:numbers]
