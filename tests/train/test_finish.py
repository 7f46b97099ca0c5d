"""The end of a run as a person sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_runs import Runs


def test_the_end_says_why_how_good_where_and_what_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Runs(tmp_path, monkeypatch).train(steps=2)
    said = dict(
        line.split(maxsplit=1)
        for line in run.printed.splitlines()[-10:]
        if line.strip()
    )
    assert said["ended"].startswith("done: ") and "step 2" in said["ended"]
    assert said["steps"] == "2"
    assert said["loss"] == f"{run.rows[-1]['loss']:.4f}"
    assert said["run"] == str(run.folder)
    assert Path(said["report"]).is_file()
    assert said["next"] == f"lumina generate {run.folder} --prompt 'Once'"
