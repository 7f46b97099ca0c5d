"""Keys and values in 16-bit floating point."""

from __future__ import annotations

import torch

from lumina.ops.kv_formats.table import Cast, register_format

register_format(Cast("fp16", torch.float16, "16-bit floating point"))
