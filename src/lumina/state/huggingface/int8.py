"""Weights of 8 bits in the layout of compressed-tensors, which other tools open.

Each output channel of a matrix has one scale: w = scale * q, q in -127 to 127. A matrix
`X.weight` is stored as `X.weight_packed` (four values to an int32, each plus 128, the
first in the lowest byte), `X.weight_scale` [out, 1] and `X.weight_shape` [2]: the
"pack-quantized" format with per-channel symmetric weights, called W8A16 elsewhere.
Embeddings, norms, biases, routers and the head stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Packed
from lumina.ops.low_bits.codecs.int8 import rounded
from lumina.state.huggingface.names import EMBEDDING, HEAD, Entry

PACKED, SCALE, SHAPE = "weight_packed", "weight_scale", "weight_shape"
_OFFSET = 128

_SCHEME = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "channel",
    "dynamic": False,
}


def quantised(weight: Tensor, dtype: torch.dtype) -> Packed:
    """The nearest matrix in 8 bits, its scales of `dtype`, in which they are stored."""
    return Packed("int8", tuple(weight.shape), rounded(weight, dtype))


def is_int8(entry: Entry) -> bool:
    """Whether a tensor of a folder is stored with 8 bits: every large matrix."""
    kept = entry.logical in (EMBEDDING, HEAD) or entry.logical.endswith("router.weight")
    return len(entry.shape) == 2 and not kept


def stored(name: str, weight: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that the matrix `name` is stored as."""
    small = quantised(weight, dtype)
    stem = name.removesuffix("weight")
    return {
        stem + PACKED: packed(small.tensors["values"]),
        stem + SCALE: small.tensors["scale"].unsqueeze(-1),
        stem + SHAPE: torch.tensor(weight.shape),
    }


def stored_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """What `stored` takes."""
    rows, columns = shape
    return rows * (4 * math.ceil(columns / 4) + itemsize) + 16


def packed(values: Tensor) -> Tensor:
    """[out, in] int8 as [out, ceil(in / 4)] int32."""
    filled = F.pad(values.to(torch.int16) + _OFFSET, (0, -values.shape[1] % 4))
    return filled.to(torch.uint8).contiguous().view(torch.int32)


def unpacked(words: Tensor, columns: int) -> Tensor:
    """The inverse of `packed`."""
    values = words.contiguous().view(torch.uint8)[:, :columns]
    return (values.to(torch.int16) - _OFFSET).to(torch.int8)


def quantization_config(ignored: list[str]) -> dict[str, Any]:
    """The entry of `config.json`; `ignored`: modules that keep their weights."""
    weights = _SCHEME | {"group_size": None, "actorder": None, "observer": "minmax"}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": "pack-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def differs(entry: Mapping[str, Any]) -> str:
    """In what a `quantization_config` is not the one written here; "": in nothing."""
    groups = entry.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        return "config_groups is missing"
    if entry.get("format") != "pack-quantized":
        return f"format is {entry.get('format')!r}"
    if entry.get("kv_cache_scheme"):
        return "kv_cache_scheme is set"
    for name, group in groups.items():
        scheme = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(scheme, Mapping):
            return f"{name} has no weights"
        for key, value in _SCHEME.items():
            if scheme.get(key) != value:
                return f"{key} of {name} is {scheme.get(key)!r}"
        if group.get("input_activations"):
            return f"input_activations of {name} is set"
    return ""
