"""Keys and values in the type in which the model computes."""

from __future__ import annotations

from lumina.ops.kv_formats.table import Cast, register_format

register_format(Cast("auto", None, "as the model computes them"))
