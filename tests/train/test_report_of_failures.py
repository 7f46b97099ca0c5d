"""A run that fails leaves its report all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import lumina
from lumina.errors import LuminaError
from lumina.train import loop
from reported_run import section


def test_a_run_that_fails_leaves_a_report(
    tiny_config: lumina.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DIVERGED_AFTER", 0)
    run = tmp_path / "run"
    with pytest.raises(LuminaError):
        lumina.Trainer(tiny_config.replace(run_dir=str(run), steps=3)).train()
    assert "E301 no finite gradient" in section(run, "run")
    assert f"lumina train --resume {run}" in section(run, "next")
    assert ">failed<" in (run / "report.html").read_text()
