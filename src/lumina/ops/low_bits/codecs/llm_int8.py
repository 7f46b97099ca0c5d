"""LLM.int8 (Dettmers et al., 2022, arXiv:2208.07339): products of 8-bit integers.

Both sides of a product are rounded to 8 bits by their rows, multiplied as integers and
added up in 32 bits. Inputs of the largest size, which a few columns have, would spoil
the steps of all others: those columns are found in each product anew, and multiplied
in the type of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Packed, register_codec
from lumina.ops.low_bits.codecs.int8 import LARGEST, Int8

THRESHOLD = 6.0
"""A column with an input of this size or more is not rounded, as in the paper."""

AT_ONCE = 2**22
"""Most sums of 32 bits that are held at a time."""

_LEAST_ROWS, _MULTIPLE = 32, 8
"""What CUDA's product of integers asks of rows (more than 16) and of columns."""


@register_codec
class LlmInt8(Int8):
    """The integers and scales of `Int8`; a product also rounds what it multiplies.

    The gradient of the input is that of the matrix, as in bitsandbytes: rounding has
    none. Experts are widened, and their inputs are not rounded.
    """

    name = "llm_int8"
    summary = "8-bit integers, and inputs in 8 bits but for columns of outliers"
    rounds_inputs = True

    def rounded_inputs(self, x: Tensor) -> Tensor:
        """As `Codec.rounded_inputs`; waits for nothing, and compiles."""
        wide = x.float()
        apart = wide.abs().amax(dim=tuple(range(x.ndim - 1))) >= THRESHOLD
        step = _step(wide.masked_fill(apart, 0.0))
        rounded = (wide / step).round() * step
        return torch.where(apart, x, rounded.to(x.dtype))

    def linear(self, x: Tensor, packed: Packed) -> Tensor:
        """[..., in] to [..., out] in the type of `x`, by products of integers."""
        values, scale = packed.tensors["values"], packed.tensors["scale"].float()
        rows = x.reshape(-1, x.shape[-1])
        columns = outlier_columns(rows)
        most = max(1, AT_ONCE // max(1, values.shape[0]))
        parts = [
            _product(part, values, scale, columns).to(x.dtype)
            for part in rows.split(most)
        ]
        return torch.cat(parts).view(*x.shape[:-1], values.shape[0])


def outlier_columns(rows: Tensor) -> Tensor:
    """[c] the columns of [N, in] that are not rounded; waits for the device."""
    if not rows.numel():
        return torch.zeros(0, dtype=torch.int64, device=rows.device)
    least, most = torch.aminmax(rows, dim=0)
    found: Tensor = (torch.maximum(-least, most) >= THRESHOLD).nonzero().squeeze(-1)
    return found


def _product(rows: Tensor, values: Tensor, scale: Tensor, columns: Tensor) -> Tensor:
    """[N, out] float32: integers without the columns, and the columns."""
    calm = rows.float().index_fill(1, columns, 0.0)
    step = _step(calm)
    codes = (calm / step).round().to(torch.int8)
    y = integer_product(codes, values).float() * step * scale
    if len(columns):
        matrix = values[:, columns].to(rows.dtype) * scale.to(rows.dtype).unsqueeze(-1)
        y += F.linear(rows[:, columns], matrix).float()
    return y


def _step(rows: Tensor) -> Tensor:
    """[..., 1] the distance of the integers that rows [..., in] are rounded to."""
    step = rows.abs().amax(dim=-1, keepdim=True) / LARGEST
    return torch.where(step > 0, step, 1.0)


def integer_product(one: Tensor, other: Tensor) -> Tensor:
    """[N, out] int32, exact, of int8 matrices [N, in] and [out, in]."""
    if not one.is_cuda:
        return torch._int_mm(one, other.t())
    rows, outputs = one.shape[0], other.shape[0]
    short = max(_LEAST_ROWS - rows, 0)
    one = F.pad(one, (0, -one.shape[1] % _MULTIPLE, 0, short))
    other = F.pad(other, (0, -other.shape[1] % _MULTIPLE, 0, -outputs % _MULTIPLE))
    return torch._int_mm(one, other.t())[:rows, :outputs]
