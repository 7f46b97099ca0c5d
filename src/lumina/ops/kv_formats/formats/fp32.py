"""Keys and values in 32-bit floating point."""

from __future__ import annotations

import torch

from lumina.ops.kv_formats.table import Cast, register_format

register_format(Cast("fp32", torch.float32, "32-bit floating point"))
