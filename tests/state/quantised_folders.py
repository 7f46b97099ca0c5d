"""Makes folders in few bits by hand, from the layouts that their tools publish.

Nothing here is shared with what reads them. Each function turns the matrices of blocks
of an exported folder into the tensors of a tool, and gives what these stand for, worked
out number by number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [
    0.0, 0.0052083333, 0.6666667, 1.0, 0.3333333, 0.5, 0.1666667, 0.25,
    0.0, -0.0052083333, -0.6666667, -1.0, -0.3333333, -0.5, -0.1666667, -0.25,
]  # fmt: skip

Made = tuple[dict[str, Tensor], Tensor]
"""Tensors by the ends of their names, and the matrix that they stand for."""

Maker = Callable[[Tensor], Made]


def four_bits(
    matrix: Tensor, kind: str = "nf4", nested: bool = False, block: int = 64
) -> Made:
    """bitsandbytes' 4 bits; with `nested`, scales in 8 bits of a map made up here."""
    table = torch.tensor(NF4 if kind == "nf4" else FP4)
    flat = matrix.flatten()
    blocks = list(flat.split(block))
    scales = torch.stack([one.abs().max() for one in blocks])
    codes = torch.cat(
        [
            (one[:, None] / scale - table).abs().argmin(1)
            for one, scale in zip(blocks, scales, strict=True)
        ]
    )
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": block,
        "dtype": "float32",
        "shape": list(matrix.shape),
    }
    parts = {
        "weight": (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)[:, None],
        "weight.quant_map": table,
    }
    if nested:
        levels = torch.linspace(-1, 1, 256)
        mean = float(scales.mean())
        largest = torch.stack([(s - mean).abs().max() for s in scales.split(256)])
        spread = largest.repeat_interleave(256)[: len(scales)]
        small = ((scales - mean) / spread)[:, None] - levels
        index = small.abs().argmin(1)
        state |= {"nested_blocksize": 256, "nested_offset": mean}
        state |= {"nested_dtype": "float32"}
        parts |= {
            "weight.absmax": index.to(torch.uint8),
            "weight.nested_absmax": largest,
            "weight.nested_quant_map": levels,
        }
        scales = levels[index] * spread + mean
    else:
        parts["weight.absmax"] = scales
    text = json.dumps(state).encode()
    parts[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text)).byte()
    of_each = scales.double().repeat_interleave(block)[: codes.numel()]
    numbers = (table.double()[codes.long()] * of_each).float()
    return parts, numbers.view(matrix.shape)


def eight_bits(matrix: Tensor) -> Made:
    """bitsandbytes' LLM.int8: the largest value of each row, and 127 steps to it."""
    largest = matrix.abs().amax(1)
    values = (matrix / largest[:, None] * 127).round()
    parts = {
        "weight": values.to(torch.int8),
        "SCB": largest,
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return parts, values * largest[:, None] / 127


def gptq(
    matrix: Tensor,
    bits: int = 4,
    group: int = 32,
    shuffled: bool = False,
    second: bool = False,
    symmetric: bool = False,
) -> Made:
    """AutoGPTQ's layout, word by word; the codes are the nearest ones."""
    rows, columns = matrix.shape
    group = columns if group == -1 else group
    groups, top = -(-columns // group), 2**bits - 1
    group_of = torch.arange(columns) // group
    if shuffled:
        group_of = group_of[torch.randperm(columns)]
    scale, zero = torch.zeros(groups, rows), torch.zeros(groups, rows, dtype=torch.long)
    codes = torch.zeros(rows, columns, dtype=torch.long)
    for g in range(groups):
        part = matrix[:, group_of == g]
        least, most = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if symmetric:
            scale[g] = (part.abs().amax(1) * 2 / top).half().float()
            zero[g] = (top + 1) // 2
        else:
            scale[g] = ((most - least) / top).half().float()
            zero[g] = (-least / scale[g]).round().clamp(1, top).long()
        steps = (part / scale[g][:, None]).round().long() + zero[g][:, None]
        codes[:, group_of == g] = steps.clamp(0, top)
    each = 32 // bits
    qweight = torch.zeros(columns // each, rows, dtype=torch.long)
    qzeros = torch.zeros(groups, rows // each, dtype=torch.long)
    for place in range(each):
        qweight += codes.t()[place::each] << (bits * place)
        qzeros += (zero[:, place::each] - int(not second)) << (bits * place)
    parts = {
        "qweight": _words(qweight),
        "qzeros": _words(qzeros),
        "scales": scale.half(),
        "g_idx": group_of.int(),
    }
    wide = torch.zeros(rows, columns)
    for column, g in enumerate(group_of.tolist()):
        wide[:, column] = scale[g] * (codes[:, column] - zero[g])
    return parts, wide


def _words(unsigned: Tensor) -> Tensor:
    """Numbers below 2^32 as int32 with the same bits."""
    return (unsigned - (unsigned >= 2**31) * 2**32).to(torch.int32)


def rewrite(folder: Path, settings: dict[str, Any], make: Maker) -> dict[str, Tensor]:
    """Put the matrices of a folder's blocks into few bits.

    Args:
        folder: of plain weights; it is changed in place.
        settings: its `quantization_config`.
        make: a matrix to its tensors.

    Returns:
        Matrix -> what its tensors stand for.
    """
    path, config = folder / "model.safetensors", folder / "config.json"
    tensors, meant = load_file(path), {}
    for name in [n for n in tensors if re.search(r"(_proj|\.w[123])\.weight$", n)]:
        parts, meant[name] = make(tensors.pop(name).float())
        stem = name.removesuffix("weight")
        tensors |= {stem + end: part.contiguous() for end, part in parts.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    values = json.loads(config.read_text()) | {"quantization_config": settings}
    config.write_text(json.dumps(values))
    return meant


def plain_twin(folder: Path, meant: dict[str, Tensor], twin: Path) -> Path:
    """The same folder with float32 matrices in place of those in few bits.

    Args:
        folder: before it was rewritten; it stays as it is.
        meant: the matrices.
        twin: is written.
    """
    twin.mkdir()
    (twin / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors") | meant
    save_file(tensors, twin / "model.safetensors", metadata={"format": "pt"})
    return twin
