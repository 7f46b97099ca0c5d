"""Products of few rows as Triton kernels: the time is that of reading the weights.

The norm before a product, the gate after it and the residual are part of it, so that a
layer is six kernels. A row's sums run in one order, over tiles whose size does not
depend on how many rows there are: with a fixed `rows` of a tile, what a row gives does
not depend on the others. A single row has a kernel of its own without tensor cores,
whose chains of sums would take as long as the reading (`rows=1`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Rows of a tile: the fewest that tensor cores take."""


class Tile(NamedTuple):
    """How a product is divided.

    Attributes:
        outputs: of a program.
        inputs: read at a time.
        warps: of a program.
        stages: tiles that are on their way at a time.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int


TILES = {
    "linear": Tile(16, 256, 4, 5),
    "wide": Tile(64, 128, 4, 4),
    "swiglu": Tile(32, 128, 4, 4),
    "experts": Tile(16, 256, 4, 3),
    "row": Tile(8, 1024, 4, 1),
    "row, gate": Tile(4, 1024, 4, 1),
}
"""Of products to few outputs, to many, with a gate, by experts, and of a single row."""

WIDE = 16384
"""Outputs from which a product is divided as "wide"."""


@triton.jit
def _product_kernel(
    x_ptr, scale_ptr, w_ptr, bias_ptr, residual_ptr, y_ptr,
    rows, eps, inputs: tl.constexpr, outputs: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
    EVEN: tl.constexpr, EXACT: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row_there, column_there = row < rows, column < outputs
    kind = x_ptr.dtype.element_ty
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    upper = tl.zeros([ROWS, OUTPUTS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    x_at = x_ptr + row[:, None] * inputs
    w_at = w_ptr + column[None, :].to(tl.int64) * inputs
    for begin in range(0, inputs, INPUTS):
        channel = begin + tl.arange(0, INPUTS)
        x_there, w_there = row_there[:, None], column_there[None, :]
        if not EVEN:
            x_there = x_there & (channel < inputs)[None, :]
            w_there = w_there & (channel < inputs)[:, None]
        x = tl.load(x_at + channel[None, :], mask=x_there, other=0.0)
        if NORM:
            wide = x.to(tl.float32)
            squares += tl.sum(wide * wide, axis=1)
            if EVEN:
                scale = tl.load(scale_ptr + channel)
            else:
                scale = tl.load(scale_ptr + channel, mask=channel < inputs, other=0.0)
            x = (wide * scale.to(tl.float32)[None, :]).to(kind)
        w = tl.load(w_at + channel[:, None], mask=w_there, other=0.0)
        if EXACT:
            total = tl.dot(x, w, total, input_precision="ieee")
        else:
            total = tl.dot(x, w, total)
        if GATED:
            above = w_at + outputs * inputs + channel[:, None]
            w = tl.load(above, mask=w_there, other=0.0)
            if EXACT:
                upper = tl.dot(x, w, upper, input_precision="ieee")
            else:
                upper = tl.dot(x, w, upper)
    if NORM:
        length = tl.rsqrt(squares / inputs + eps)[:, None]
        total *= length
        upper *= length
    if BIAS:
        bias = tl.load(bias_ptr + column, mask=column_there, other=0.0)
        total += bias.to(tl.float32)[None, :]
    if GATED:  # rounded where the plain operations round
        gate = total.to(kind).to(tl.float32)
        gate = (gate / (1 + tl.exp(-gate))).to(kind).to(tl.float32)
        total = gate * upper.to(kind).to(tl.float32)
    there = row_there[:, None] & column_there[None, :]
    at = row[:, None].to(tl.int64) * outputs + column[None, :]
    y = total.to(kind)
    if ADD:
        residual = tl.load(residual_ptr + at, mask=there, other=0.0)
        y = (y.to(tl.float32) + residual.to(tl.float32)).to(kind)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def _row_kernel(
    x_ptr, scale_ptr, w_ptr, bias_ptr, residual_ptr, y_ptr, eps,
    inputs: tl.constexpr, outputs: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
    EVEN: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column_there = column < outputs
    kind = x_ptr.dtype.element_ty
    below = tl.zeros([OUTPUTS, INPUTS], tl.float32)
    above = tl.zeros([OUTPUTS, INPUTS], tl.float32)
    squares = tl.zeros([INPUTS], tl.float32)
    w_at = w_ptr + column[:, None].to(tl.int64) * inputs
    for begin in range(0, inputs, INPUTS):
        channel = begin + tl.arange(0, INPUTS)
        there, x_there = column_there[:, None], channel < inputs
        if not EVEN:
            there = there & x_there[None, :]
        w = tl.load(w_at + channel[None, :], mask=there, other=0.0)
        x = tl.load(x_ptr + row * inputs + channel, mask=x_there, other=0.0)
        x = x.to(tl.float32)
        if NORM:
            squares += x * x
            scale = tl.load(scale_ptr + channel, mask=x_there, other=0.0)
            x = (x * scale.to(tl.float32)).to(kind).to(tl.float32)
        below += w.to(tl.float32) * x[None, :]
        if GATED:
            w_up = w_at + outputs * inputs + channel[None, :]
            w = tl.load(w_up, mask=there, other=0.0)
            above += w.to(tl.float32) * x[None, :]
    total = tl.sum(below, axis=1)
    upper = tl.sum(above, axis=1)
    if NORM:
        length = tl.rsqrt(tl.sum(squares, axis=0) / inputs + eps)
        total *= length
        upper *= length
    if BIAS:
        bias = tl.load(bias_ptr + column, mask=column_there, other=0.0)
        total += bias.to(tl.float32)
    if GATED:  # rounded where the plain operations round
        gate = total.to(kind).to(tl.float32)
        gate = (gate / (1 + tl.exp(-gate))).to(kind).to(tl.float32)
        total = gate * upper.to(kind).to(tl.float32)
    at = row * outputs + column
    y = total.to(kind)
    if ADD:
        residual = tl.load(residual_ptr + at, mask=column_there, other=0.0)
        y = (y.to(tl.float32) + residual.to(tl.float32)).to(kind)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=column_there)


@triton.jit
def _chosen_swiglu_kernel(
    x_ptr, w_ptr, ids_ptr, y_ptr, inputs: tl.constexpr, outputs: tl.constexpr,
    CHOSEN: tl.constexpr, EVEN: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(1)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column_there = (column < outputs)[:, None]
    expert = tl.load(ids_ptr + place).to(tl.int64)
    kind = x_ptr.dtype.element_ty
    gate = tl.zeros([OUTPUTS, INPUTS], tl.float32)
    upper = tl.zeros([OUTPUTS, INPUTS], tl.float32)
    x_ptr += (place // CHOSEN) * inputs
    w_ptr += expert * 2 * outputs * inputs
    w_at = w_ptr + column[:, None].to(tl.int64) * inputs
    for begin in range(0, inputs, INPUTS):
        channel = begin + tl.arange(0, INPUTS)
        there, x_there = column_there, channel < inputs
        if not EVEN:
            there = there & x_there[None, :]
        x = tl.load(x_ptr + channel, mask=x_there, other=0.0).to(tl.float32)
        at = w_at + channel[None, :]
        w = tl.load(at, mask=there, other=0.0)
        gate += w.to(tl.float32) * x[None, :]
        w = tl.load(at + outputs * inputs, mask=there, other=0.0)
        upper += w.to(tl.float32) * x[None, :]
    low = tl.sum(gate, axis=1).to(kind).to(tl.float32)
    low = (low / (1 + tl.exp(-low))).to(kind).to(tl.float32)
    y = low * tl.sum(upper, axis=1).to(kind).to(tl.float32)
    tl.store(y_ptr + place * outputs + column, y.to(kind), mask=column < outputs)


@triton.jit
def _chosen_down_kernel(
    h_ptr, w_ptr, ids_ptr, scores_ptr, residual_ptr, y_ptr,
    inputs: tl.constexpr, outputs: tl.constexpr,
    CHOSEN: tl.constexpr, EVEN: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column_there = column < outputs
    kind = h_ptr.dtype.element_ty
    total = tl.zeros([OUTPUTS], tl.float32)
    for choice in range(CHOSEN):
        place = row * CHOSEN + choice
        expert = tl.load(ids_ptr + place).to(tl.int64)
        w_at = w_ptr + (expert * outputs + column[:, None].to(tl.int64)) * inputs
        own = tl.zeros([OUTPUTS, INPUTS], tl.float32)
        for begin in range(0, inputs, INPUTS):
            channel = begin + tl.arange(0, INPUTS)
            there, h_there = column_there[:, None], channel < inputs
            if not EVEN:
                there = there & h_there[None, :]
            h = tl.load(h_ptr + place * inputs + channel, mask=h_there, other=0.0)
            w = tl.load(w_at + channel[None, :], mask=there, other=0.0)
            own += w.to(tl.float32) * h.to(tl.float32)[None, :]
        score = tl.load(scores_ptr + place)
        total += tl.sum(own, axis=1).to(kind).to(tl.float32) * score
    at = row * outputs + column
    residual = tl.load(residual_ptr + at, mask=column_there, other=0.0)
    y = total.to(kind).to(tl.float32) + residual.to(tl.float32)
    tl.store(y_ptr + at, y.to(kind), mask=column_there)


MEASURED: dict[tuple[bool, int, int, int], Tile] = {
    (False, 2048, 3072, 1): Tile(4, 1024, 4, 1),
    (False, 2048, 2048, 1): Tile(2, 2048, 4, 1),
    (True, 2048, 8192, 1): Tile(4, 1024, 4, 1),
    (False, 8192, 2048, 1): Tile(8, 1024, 8, 3),
    (False, 2048, 128256, 1): Tile(4, 2048, 8, 1),
    (False, 2048, 3072, 32): Tile(32, 256, 4, 3),
    (False, 2048, 2048, 32): Tile(16, 128, 4, 5),
    (True, 2048, 8192, 32): Tile(64, 128, 4, 3),
    (False, 2048, 128256, 32): Tile(64, 128, 4, 3),
}
"""Tiles that were measured to be best on an H200, by `tile_of`'s arguments
(`benchmarks/decoding.py --tiles`)."""


def tile_of(gated: bool, inputs: int, outputs: int, rows: int) -> Tile:
    """How a product is divided.

    Args:
        gated: whether a gate follows.
        inputs: of the matrix.
        outputs: of the product.
        rows: of a tile; 1 for a single row's own kernel.
    """
    if (gated, inputs, outputs, rows) in MEASURED:
        return MEASURED[gated, inputs, outputs, rows]
    if rows == 1:
        return TILES["row, gate" if gated else "row"]
    return TILES["swiglu" if gated else "wide" if outputs >= WIDE else "linear"]


def norm_linear(
    x_bd: Tensor,
    scale: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    out: torch.dtype | None = None,
    rows: int = ROWS,
) -> Tensor:
    """As the reference; `rows` are those of a tile."""
    y = x_bd.new_empty(len(x_bd), len(weight), dtype=out or x_bd.dtype)
    return _product(x_bd, weight, y, rows, scale=scale, eps=eps, bias=bias)


def norm_swiglu(
    x_bd: Tensor, scale: Tensor, eps: float, gate_up: Tensor, rows: int = ROWS
) -> Tensor:
    """As the reference; `rows` are those of a tile."""
    y = x_bd.new_empty(len(x_bd), len(gate_up) // 2)
    return _product(x_bd, gate_up, y, rows, scale=scale, eps=eps, gated=True)


def linear(
    x_bd: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    out: torch.dtype | None = None,
    rows: int = ROWS,
) -> Tensor:
    """A product alone: [B, D] and [N, D] to [B, N]."""
    y = x_bd.new_empty(len(x_bd), len(weight), dtype=out or x_bd.dtype)
    return _product(x_bd, weight, y, rows, bias=bias)


def swiglu(x_bd: Tensor, gate_up: Tensor, rows: int = ROWS) -> Tensor:
    """silu(gate x) * up x: [B, D] and [2M, D] to [B, M]."""
    y = x_bd.new_empty(len(x_bd), len(gate_up) // 2)
    return _product(x_bd, gate_up, y, rows, gated=True)


def linear_add(
    x_bd: Tensor, weight: Tensor, residual_bn: Tensor, rows: int = ROWS
) -> Tensor:
    """As the reference; `rows` are those of a tile."""
    y = torch.empty_like(residual_bn)
    return _product(x_bd, weight, y, rows, residual=residual_bn)


def _product(
    x_bd: Tensor,
    weight: Tensor,
    y: Tensor,
    rows: int,
    *,
    scale: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    """Run the kernel of products into `y`, [B, N]."""
    assert x_bd.is_contiguous() and weight.is_contiguous()
    assert x_bd.dtype == weight.dtype
    count, outputs = y.shape
    inputs = x_bd.shape[1]
    tile = tile_of(gated, inputs, outputs, rows)
    if rows == 1:
        _row_kernel[(triton.cdiv(outputs, tile.outputs), count)](
            x_bd, x_bd if scale is None else scale, weight,
            x_bd if bias is None else bias, x_bd if residual is None else residual, y,
            eps, inputs, outputs,
            NORM=scale is not None, GATED=gated, ADD=residual is not None,
            BIAS=bias is not None, EVEN=inputs % tile.inputs == 0,
            OUTPUTS=tile.outputs, INPUTS=tile.inputs,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return y
    grid = (triton.cdiv(outputs, tile.outputs), triton.cdiv(count, rows))
    _product_kernel[grid](
        x_bd, x_bd if scale is None else scale, weight,
        x_bd if bias is None else bias, x_bd if residual is None else residual, y,
        count, eps, inputs, outputs,
        NORM=scale is not None, GATED=gated, ADD=residual is not None,
        BIAS=bias is not None, EVEN=inputs % tile.inputs == 0,
        EXACT=x_bd.dtype == torch.float32,
        ROWS=rows, OUTPUTS=tile.outputs, INPUTS=tile.inputs,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def experts_swiglu(x_bd: Tensor, gate_up: Tensor, ids_bk: Tensor) -> Tensor:
    """As the reference: every choice reads the matrices of its own expert."""
    assert x_bd.is_contiguous() and gate_up.is_contiguous() and ids_bk.is_contiguous()
    count, chosen = ids_bk.shape
    outputs, inputs = gate_up.shape[1] // 2, gate_up.shape[2]
    y = x_bd.new_empty(count, chosen, outputs)
    tile = TILES["experts"]
    _chosen_swiglu_kernel[(triton.cdiv(outputs, tile.outputs), count * chosen)](
        x_bd, gate_up, ids_bk, y, inputs, outputs,
        CHOSEN=chosen, EVEN=inputs % tile.inputs == 0,
        OUTPUTS=tile.outputs, INPUTS=tile.inputs,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def experts_down_add(
    hidden_bkm: Tensor,
    down: Tensor,
    ids_bk: Tensor,
    scores_bk: Tensor,
    residual_bd: Tensor,
) -> Tensor:
    """As the reference: choices are added in their order."""
    assert hidden_bkm.is_contiguous() and down.is_contiguous()
    assert ids_bk.is_contiguous() and scores_bk.is_contiguous()
    count, chosen, inputs = hidden_bkm.shape
    outputs = down.shape[1]
    y = torch.empty_like(residual_bd)
    tile = TILES["experts"]
    _chosen_down_kernel[(triton.cdiv(outputs, tile.outputs), count)](
        hidden_bkm, down, ids_bk, scores_bk, residual_bd, y, inputs, outputs,
        CHOSEN=chosen, EVEN=inputs % tile.inputs == 0,
        OUTPUTS=tile.outputs, INPUTS=tile.inputs,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y
