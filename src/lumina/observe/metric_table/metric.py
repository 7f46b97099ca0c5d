"""What the documentation says of one key of metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A key of a row of metrics.jsonl.

    Attributes:
        key: as it stands in the file; NAME stands for a name that a run gives.
        meaning: what it says, in one sentence without a full stop.
        unit: what it is counted in; "" for a pure number.
        formula: how it is computed from other keys or from what the step has; "" where
            the meaning says it.
        when: the rows that have it.
        also: the name under which `Trainer.get_current_metrics` gives it as well.
        of_a_rank: its value differs between the processes of a run, so that no rule
            that changes the run may see it.
        of_a_machine: it measures the machine, so that it has another value whenever the
            run is repeated.
    """

    key: str
    meaning: str
    unit: str = ""
    formula: str = ""
    when: str = "every step"
    also: tuple[str, ...] = ()
    of_a_rank: bool = False
    of_a_machine: bool = False
