"""Decisions in runs of models with parts of a plug-in, and of several tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from option_effects.adaptive import alarm, decisions
from option_effects.parts import OWN
from option_effects.tasks import two_tasks
from tiny_runs import Runs

CUSTOM = {"plugins": (OWN,), "block_type": ("standard", "parallel")}


@pytest.mark.thorough
@pytest.mark.covers("ORC-44")
@pytest.mark.parametrize("kind", ["custom", "tasks"])
def test_the_rate_is_halved_whatever_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    options: dict[str, Any] = CUSTOM if kind == "custom" else two_tasks(runs)
    with alarm("divergence", 1):
        run = runs.train(**(options | {"adaptive": "on", "steps": 4}))
    assert [d["action"] for d in decisions(run)] == ["lower_rate"]
    assert run.column("learning_rate") == [3e-3, 3e-3, 1.5e-3, 1.5e-3]
    if kind == "tasks":
        assert run.rows[-1]["total_decisions"] == 1
