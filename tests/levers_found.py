"""Findings of a lever as a pretest leaves them."""

from __future__ import annotations

import random
from typing import Any

from lumina.guard.findings import Findings, Numbers
from lumina.guard.thresholds import THRESHOLDS


def findings_of(name: str = "one", seed: int = 0, **changes: Any) -> Findings:
    """A lever that is right, and 1.2x as fast with a spread of 2%."""
    draw = random.Random(seed)
    numbers = Numbers(
        "8 x 64",
        slopes=[1 + draw.gauss(0, 3e-4) for _ in range(8)],
        tensor_slopes={"w": [1 + draw.gauss(0, 1e-3) for _ in range(8)]},
        errors={"w": (0.011, 0.01), "v": (0.009, 0.01)},
        losses=[(5.0, 5.0 + draw.gauss(0, 2e-3), 5.001) for _ in range(8)],
    )
    values: dict[str, Any] = {
        "lever": name,
        "claim": "exact",
        "faster": True,
        "steps": 1000,
        "numbers": [numbers],
        "paired": [(5.0, 5.001, 5.001)] * THRESHOLDS.paired_steps,
        "held": [(12 * n, 12 * n) for n in range(8)],
        "reloaded": 0.0,
        "ratios": [1.2 + draw.gauss(0, 0.02) for _ in range(8)],
        "step_seconds": (1.2, 1.0),
    }
    return Findings(**(values | changes))
