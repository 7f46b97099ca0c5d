"""Other trainers beside Lumina, those that are installed."""

from __future__ import annotations

from typing import Any

from lumina.errors import LuminaError
from lumina.train.bench.against import compare_trainers
from lumina.train.bench.page import peer_lines
from lumina.train.bench.peer import chosen_peer
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import planned

USUAL = {
    "cpu": ("transformers",),
    "cuda": ("transformers+compile", "liger", "torchtitan+compile"),
}
"""Those that are tried where none are named, by device."""


def run(asked: Asked) -> dict[str, Any] | None:
    """Run each in turn with Lumina; say of the others why not."""
    plan = planned(asked).plan
    left: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    for name in asked.against or USUAL.get(plan.device, ()):
        if asked.stopped():
            return None
        try:
            chosen_peer(name)[0].require(plan)
            compared = compare_trainers(
                asked.config,
                [name],
                synthetic=False,
                warm_up=asked.amounts.warm_up,
                blocks=asked.amounts.blocks,
                steps=asked.amounts.steps,
                tell=asked.tell,
                stopped=asked.stopped,
            )
        except LuminaError as error:
            if asked.against:  # asked for by name: it is not left out silently
                raise
            left[name] = error.message
            continue
        if compared["interrupted"]:
            return None
        found += compared["peers"]
    return {"peers": found, "left_out": left}


def page(found: dict[str, Any]) -> list[str]:
    """The lines of each comparison, and who is missing."""
    lines = []
    for one in found["peers"]:
        lines += ["```", *peer_lines(one), "```", ""]
    lines += [f"- left out: {name}: {why}" for name, why in found["left_out"].items()]
    return [*lines, ""] if lines else ["No other trainer was compared.", ""]


register_piece(Piece("peers", run, page))
