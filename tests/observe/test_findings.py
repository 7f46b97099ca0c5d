"""What the report reads out of the figures of a run, and what it advises."""

from __future__ import annotations

from lumina.observe.report.findings import find
from lumina.observe.report.metrics import Metrics
from reported_run import a_row


def findings(changes, steps=100, plan=None):
    rows = [a_row(step, steps, **changes(step)) for step in range(1, steps + 1)]
    return " ".join(
        f.observed for f in find(Metrics(rows), plan or {"max_grad_norm": 1.0})
    )


def test_findings_name_what_stands_out_and_nothing_else():
    assert find(Metrics(), {}) == []
    calm = findings(lambda s: {"grad_norm": 0.5})
    assert calm == ""

    def rising(s):
        return {
            "grad_norm": 0.5,
            "eval_loss": abs(s - 40) / 10 + 2 if s % 10 == 0 else None,
        }

    assert "best at step 40 (2.0000) and rose to 8.0000" in findings(rising)

    def falling(s):
        return {"grad_norm": 0.5, "eval_loss": 5 - s / 50 if s % 10 == 0 else None}

    assert "still fell" in findings(falling)
    assert "100.0% of the second half" in findings(lambda s: {"grad_norm": 3.0})
    assert "12 of 100 steps" in findings(lambda s: {"grad_norm": 0, "skipped": 12})
    assert "waiting for data" in findings(
        lambda s: {"grad_norm": 0, "data_wait_seconds": 0.2}
    )
    assert "left 2 experts" in findings(
        lambda s: {"grad_norm": 0, "moe.dead_experts": [0, 2]}
    )
