"""A run that goes back by itself, because what was milder did not help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from tiny_runs import Runs


@pytest.mark.thorough
@pytest.mark.covers(
    "CKP-11: rollback automatic",
    "TRN-25: skip or rollback",
    "TRN-25: loss-spike detection",
)
def test_weights_that_are_spoilt_are_gone_back_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise on every weight after step 60, and the run has to learn all of it again.

    With the orchestrator it goes back to a snapshot from before, and ends lower.
    """
    taken: list[int] = []

    @contextmanager
    def spoilt(program: Program, batches: Any) -> Iterator[None]:
        yield
        taken.append(1)
        if len(taken) == 60:
            generator = torch.Generator().manual_seed(0)
            for slot in program.optimizer.slots:
                noise = torch.randn(slot.master.shape, generator=generator)
                slot.master.data.add_(0.3 * noise)

    runs = Runs(tmp_path, monkeypatch)
    options: dict[str, Any] = {
        "steps": 130, "eval_fraction": 0.0, "learning_rate": 1e-3, "warmup_steps": 5,
        # The rate is low for so short a run, and a higher one would be help of its own.
        "adaptive_without": ("raise_rate_far",),
    }  # fmt: skip
    healed = runs.train(spoilt, adaptive="on", **options)
    found = [event for event in healed.events if event["kind"] == "rolled_back"]
    assert len(found) == 1 and found[0]["step"] < 60 < found[0]["data"]["from_step"]
    assert found[0]["data"]["target"] == "snapshot"
    decided = [
        event["data"]["action"]
        for event in healed.events
        if event["kind"] == "decision" and event["data"]["level"] == 3
    ]
    assert decided == ["rollback_lower_rate"]
    taken.clear()
    spoilt_for_good = runs.train(spoilt, **options)
    assert healed.column("step") == list(range(1, 131))
    mine, other = (
        sum(run.column("loss")[-10:]) / 10 for run in (healed, spoilt_for_good)
    )
    assert mine < other - 0.3
