"""Optimizers that keep their states in few bits, and so in less memory."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import Tolerance, Trial


def _declare(name: str, kept: str, learned: float) -> None:
    register(
        Feature(
            name=name,
            option="optimizer",
            summary=f"AdamW with moments in {kept}",
            without="--optimizer adamw",
            change_cost="restart",
            requested=lambda c: c.train.optimizer == name,
            active=lambda p: p.optimizer == name,
            trial=Trial(
                {"optimizer": name},
                tolerance=Tolerance(learned=learned),
                figures=(f"optimizer.{name}",),
            ),
        )
    )


_declare("adamw_8bit", "8 bits", 0.03)
_declare("adamw_4bit", "4 bits", 0.06)
_declare("adamw_bf16", "bfloat16", 0.03)
