"""Writes safetensors files tensor by tensor, with their digest, in one pass.

The library's own writer hides the errno of a full disk and returns no digest. Here the
digest is of the bytes in memory, so a later reading of the file proves the device.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON
header, then the tensors).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Written:
    """What one file holds: its length, and the digest of what was sent to it."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write a safetensors file and flush it to the device.

    Raises:
        OSError: when the system cannot; an incomplete file may be left.
        TypeError: for a dtype the format lacks.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digest = hashlib.sha256()
    count = 0
    with open(path, "wb", buffering=0) as file:
        pieces = (_bytes_of(tensors[name]) for name in order)
        for view in chain((memoryview(_header(tensors, order)),), pieces):
            digest.update(view)
            count += len(view)
            while view:  # the system may take less than it is given
                view = view[file.write(view) or 0 :]
        os.fsync(file.fileno())
    return Written(count, digest.hexdigest())


def _header(tensors: Mapping[str, Tensor], order: list[str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in DTYPE_NAMES:
            raise TypeError(f"{name} has dtype {tensor.dtype}, which cannot be saved")
        end = start + tensor.nbytes
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps every tensor aligned in a memory map
    return struct.pack("<Q", len(text)) + text


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
