"""Tokens a second of the training, as `lumina bench train` measures them."""

from __future__ import annotations

from typing import Any

from lumina.data.kinds import names_data
from lumina.train.bench.page import alone
from lumina.train.bench.training import measure_training
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import session_of


def run(asked: Asked) -> dict[str, Any] | None:
    """Warm up and time."""
    with session_of(asked) as session:
        found = measure_training(
            session,
            warm_up=asked.amounts.warm_up,
            steps=asked.amounts.steps,
            synthetic=not names_data(asked.config),
            stopped=asked.stopped,
        )
    return None if found["interrupted"] else found


def page(found: dict[str, Any]) -> list[str]:
    """The lines of `lumina bench train`."""
    return [*(f"- {line}" for line in alone(found).splitlines()), ""]


register_piece(Piece("speed", run, page))
