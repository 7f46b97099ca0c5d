"""Keys and values in bfloat16."""

from __future__ import annotations

import torch

from lumina.ops.kv_formats.table import Cast, register_format

register_format(Cast("bf16", torch.bfloat16, "bfloat16"))
