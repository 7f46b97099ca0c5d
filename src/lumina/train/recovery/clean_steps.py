"""How many steps without an alarm have followed a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.observe.metric_table import OF_A_RANK
from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding, Watching

HARM = frozenset(
    {
        "high_rate",
        "loss_spike",
        "severe_loss_spike",
        "divergence",
        "nonfinite",
        "exploding_gradients",
        "oscillation",
        "attention_logits",
        "underflow",
        "forgetting",
        "dead_experts",
    }
)
"""Anomalies that may have spoilt the weights of the steps before they were seen."""

RECENT = 2
"""Steps after an alarm in which there is no snapshot: it might be of what is spoilt."""

GRAVE = ("error", "critical")
"""Severities at which any other anomaly counts too."""


class CleanSteps:
    """Counts, for each step that is watched, the steps without an alarm behind it.

    An alarm sets all counts to 0: whatever it is about may have begun before. The
    checks are those that all ranks see alike, so that all ranks count the same.

    Args:
        plan: of the run.
        wanted: steps after which a step is known to be good.
    """

    def __init__(self, plan: Plan, wanted: int) -> None:
        self._plan = plan
        self._wanted = wanted
        self._watching = Watching.of(plan, ranks_alike=True)
        self._counts: dict[int, int] = {}
        self._skipped: int | None = None
        self._since_alarm: int | None = None

    @property
    def recent_alarm(self) -> bool:
        """Whether there was an alarm in one of the last `RECENT` steps."""
        return self._since_alarm is not None and self._since_alarm < RECENT

    def watch(self, step: int) -> None:
        """Count from a step on, unless that is done already."""
        self._counts.setdefault(step, 0)

    def rewind(self, step: int) -> None:
        """The run was taken back; it is watched anew, and later steps are forgotten."""
        self._watching = Watching.of(self._plan, ranks_alike=True)
        self._counts = {held: 0 for held in self._counts if held <= step}
        self._skipped = self._since_alarm = None

    def see(self, row: Mapping[str, Any]) -> list[int]:
        """Take in the row of a step; all ranks see the same rows.

        Returns:
            The steps that are known to be good now; they are watched no more.
        """
        row = {key: row[key] for key in row if key not in OF_A_RANK}
        if not self._clean(row):
            self._counts = dict.fromkeys(self._counts, 0)
            self._since_alarm = 0
            return []
        if self._since_alarm is not None:
            self._since_alarm += 1
        for step in self._counts:
            self._counts[step] += step < row["step"]
        good = [step for step, n in self._counts.items() if n >= self._wanted]
        for step in good:
            del self._counts[step]
        return good

    def _clean(self, row: Mapping[str, Any]) -> bool:
        before, self._skipped = self._skipped, row["skipped"]
        alarms = any(_harmful(finding) for finding in self._watching.see(row))
        skipped = before is not None and row["skipped"] > before
        loss = row["loss"]
        return not (alarms or skipped or (loss is not None and not math.isfinite(loss)))


def _harmful(finding: Finding) -> bool:
    return finding.anomaly in HARM or finding.severity in GRAVE
