"""What a Plan relies on is tried here, and not for a machine that is elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.features import Feature
from lumina.guard import guarded as module
from lumina.guard.guarded import guarded
from lumina.guard.pretest import Result
from machines import cpu, plan_for


@pytest.mark.parametrize("tries", [True, False])
def test_nothing_is_tried_for_a_machine_that_is_described(
    tries: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    kept: list[tuple[str, str]] = []

    def run(name: str, plugins: Any, *, device: str) -> Result:
        tried.append(name)
        return Result(name, False, "it does not work", 0.1)

    one = Feature(name="one", summary="", pretest=lambda machine: None)
    monkeypatch.setattr(module, "FEATURES", {"one": one})
    monkeypatch.setattr(module, "active_features", lambda *given: ["one"])
    monkeypatch.setattr(module, "run_pretest", run)
    remember = lambda result, device: kept.append((result.feature, device))  # noqa: E731
    monkeypatch.setattr(module, "remember", remember)
    plan = plan_for(Config.resolve(preset="debug", flags={"steps": 5}))
    made, machine = guarded(lambda machine: plan, cpu(), Ranks(), tries=tries)
    assert made is plan
    assert tried == (["one"] if tries else [])
    assert kept == ([("one", "a processor")] if tries else [])
    failed = {"one": "it does not work"} if tries else {}
    assert machine.failed_pretests == failed
