"""A process of a comparison that stays: one contestant, a turn for each line.

    python -m lumina.train.bench.serve PARENT FOLDER CONTESTANT

Commands come as lines of JSON on standard input, answers go to standard output; what
libraries print goes to standard error. CONTESTANT is `reference`, `lumina` or a peer
with its options.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from lumina.child_processes import die_with_parent
from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.observe.gpu_watch import GpuWatch
from lumina.train.bench.lumina_side import Lumina, make_reference
from lumina.train.bench.peer import Contestant, PeerContestant, chosen_peer
from lumina.train.bench.timing import memory, timed
from lumina.train.bench.work import (
    Work,
    exact_products,
    halves,
    load_losses,
    sharpened,
)


class Server:
    """Answers the commands of a comparison.

    Args:
        work: what is done.
        contestant: what trains.
    """

    def __init__(self, work: Work, contestant: Contestant) -> None:
        self.work = work
        self.contestant = contestant
        self._rows: list[Any] = []
        self._done = 0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command's answer."""
        known: dict[str, Callable[..., dict[str, Any]]] = {
            "same": self.same,
            "rows": self.rows,
            "turn": self.turn,
        }
        values = dict(command)
        return known[values.pop("do")](**values)

    def same(self) -> dict[str, Any]:
        """How far the losses of the first rows are from the reference's."""
        assert isinstance(self.contestant, PeerContestant)
        exact_products()
        ids, labels = halves(self.work.rows(0)[0])
        plain, sharp = load_losses(self.work)
        with sharpened(self.contestant.model, self.work.sharpness):
            found = self.contestant.token_losses(ids, labels)
        self._set_products()
        return {
            "reference": float(plain.double().mean()),
            "apart": apart(found.double(), sharp.double()),
        }

    def rows(self, seed: int) -> dict[str, Any]:
        """Take the rows of a block to the device, and begin with the first."""
        steps = self.work.rows(seed)
        self._rows = [self.contestant.ready(*halves(rows)) for rows in steps]
        self._done = 0
        return {"steps": len(self._rows)}

    def turn(self, untimed: int, steps: int) -> dict[str, Any]:
        """Some steps that do not count, then some that are timed."""
        device = self.work.plan.device
        seen: list[tuple[Tensor, Tensor]] = []

        def launch() -> None:
            rows = self._rows[self._done % len(self._rows)]
            loss, norm = self.contestant.step(rows)
            seen.append((loss.detach().clone(), norm.detach().clone()))
            self._done += 1

        for _ in range(untimed):
            launch()
        if device == "cuda":
            torch.cuda.synchronize()
        with GpuWatch(device) as watch:
            seconds = timed(launch, steps, device, lambda: False)
        used = memory(device)
        if device == "cuda":  # the other contestant has the turn after this one
            torch.cuda.empty_cache()
        return {
            "seconds": seconds,
            "losses": [float(loss) for loss, _ in seen],
            "norms": [float(norm) for _, norm in seen],
            "memory": used,
            "gpu": watch.readings(),
        }

    def _set_products(self) -> None:
        kind = "high" if self.work.plan.tf32 else "highest"
        torch.set_float32_matmul_precision(kind)


def apart(found: Tensor, wanted: Tensor) -> float:
    """Root mean square difference, as a part of how the wanted values spread."""
    if found.shape != wanted.shape or not bool(found.isfinite().all()):
        return float("inf")
    difference = (found - wanted).square().mean().sqrt()
    return float(difference / wanted.std().clamp(min=1e-12))


def contestant_of(work: Work, name: str) -> Contestant:
    """Lumina, or the peer of a name with its options."""
    if name == "lumina":
        return Lumina(work)
    peer, options = chosen_peer(name)
    peer.require(work.plan)
    return peer.make(work.plan, work.model, options)


def main(words: list[str]) -> int:
    """Serve until standard input ends."""
    parent, folder, name = words
    die_with_parent(int(parent))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        work = Work.load(Path(folder))
        load_plugins(work.plugins)
        if name == "reference":
            make_reference(work)
            _say(answers, {})
            return 0
        contestant = contestant_of(work, name)
        _say(answers, {"parameters": contestant.parameters})
        server = Server(work, contestant)
        for line in sys.stdin:
            _say(answers, server.answer(json.loads(line)))
    except LuminaError as error:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        _say(answers, {"error": told})
        return 1
    except torch.OutOfMemoryError as error:
        text = str(error).splitlines()[0]
        _say(answers, {"error": {"code": "E201", "message": text, "hint": ""}})
        return 1
    return 0


def _say(answers: TextIO, values: dict[str, Any]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
