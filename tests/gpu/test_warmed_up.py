"""Loading the libraries of a GPU before the first step changes nothing but its time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_runs import story
from training import DENSE, SHAPE

pytestmark = pytest.mark.gpu


@pytest.mark.covers("TRN-29")
def test_a_warmed_up_run_is_the_run_that_was_not(tmp_path: Path) -> None:
    """Each in a process of its own, for a process loads its libraries once."""
    data = tmp_path / "story.txt"
    data.write_text(story())
    found = {}
    for switch in ("--no-cuda-warm-up", "--cuda-warm-up"):
        run = tmp_path / switch.strip("-")
        flags = ["--device", "cuda", "--steps", "3", "--run-dir", str(run), switch]
        shape = [*SHAPE, *DENSE, "--train-data", str(data)]
        command = [sys.executable, "-m", "lumina", "train", *shape, *flags]
        subprocess.run(command, check=True, cwd=tmp_path)
        rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        found[switch] = [row["loss"] for row in rows]
        print(switch, "first step", rows[0]["step_seconds"], "s")
    first, second = found.values()
    assert first == second
