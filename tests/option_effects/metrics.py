"""Options of what is measured while a run trains."""

from __future__ import annotations

from option_effects import shows
from tiny_runs import Runs


@shows("metrics")
def kinds(runs: Runs) -> None:
    basic, full = runs.both("metrics", "basic", "full", log_every_n_batches=2)
    assert basic.column("loss") == full.column("loss")
    assert not basic.column("token_accuracy") and not basic.column("cpu_utilization")
    assert len(full.column("token_accuracy")) == 3
    for name in ("gradient_variance", "cpu_utilization", "disk_free_bytes"):
        assert [row["step"] for row in full.rows if name in row] == [2], name
