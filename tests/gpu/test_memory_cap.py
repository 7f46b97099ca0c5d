"""A cap on a large card ends what does not fit, and is lifted with the run."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from tiny_runs import Runs

pytestmark = pytest.mark.gpu


def test_a_run_keeps_to_its_cap(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs = Runs(tmp_path, monkeypatch)
        # The cap is one of the process, in which earlier tests may hold some memory.
        gc.collect()
        torch.cuda.empty_cache()
        most = 600 + torch.cuda.memory_reserved() // 2**20
        asked = {"device": "cuda", "seq_length": 512, "hidden_size": 256}
        asked |= {"steps": 2, "cap_memory": f"{most} MiB", "compile": False}
        asked |= {"global_batch_size": 64, "batch_size": None}
        torch.cuda.reset_peak_memory_stats()
        run = runs.train(**asked)
        assert torch.cuda.max_memory_reserved() <= most * 2**20
        assert run.rows[-1]["memory_utilization"] > 0.02
        torch.empty(2**30, dtype=torch.uint8, device="cuda")
