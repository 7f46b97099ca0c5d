"""The largest attention logit, and how many heads QK-clip scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lumina.train.watch import Look, register_look


@register_look
class ClippedLogits(Look):
    """What `--qk-clip` found in the step; null in a step that trained nothing."""

    name = "logit_clip"

    def values(self) -> Tensor | None:
        """[2]: the largest logit, and the number of heads."""
        clip = self.program.logit_clip
        return None if clip is None else clip.found

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """Both, under their names."""
        if not values:
            return {}
        largest, heads = values
        there = math.isfinite(largest)
        return {
            "largest_attention_logit": largest if there else None,
            "clipped_heads": int(heads) if there else None,
        }
