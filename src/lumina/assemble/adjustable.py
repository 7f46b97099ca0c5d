"""What may change between two steps while the program stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Adjustable:
    """Device scalars a step reads: what changes without assembling again.

    Attributes:
        learning_rate: [] float32.
        max_grad_norm: [] float32; 0: no clipping.
        weight_decay: a plain float, handed to the kernel at each step.
        learning_rate_scale: factor on the schedule.
        of_kinds: what controls set that only a kind of model reads, by name; without an
            entry it is as planned.
        source_weights: the share of each source of a mixture; None: as they are set.
        next_phase: the phase that the run goes on to before its next step.
        rewarm: the step at which the rate began to warm up again, the steps that it
            takes, and the share of the rate that it begins with; None: it does not.
        glide: the step at which the rate began to fall evenly beside the schedule, the
            steps that it takes, and the share that it ends at; None: it does not.
        ending: why the run ends before its next step; None: it goes on.
        feed_again: what reads the rows is made again before the next step.
        rollback: takes the run back before its next step; None where no run trains.
        snapshot: has a snapshot taken after the next step; likewise.
        save: has a checkpoint written after the next step; likewise.
    """

    learning_rate: Tensor
    max_grad_norm: Tensor
    weight_decay: float
    learning_rate_scale: float = 1.0
    of_kinds: dict[str, Any] = field(default_factory=dict)
    source_weights: dict[str, float] | None = None
    next_phase: str | None = None
    rewarm: tuple[int, int, float] | None = None
    glide: tuple[int, int, float] | None = None
    ending: Mapping[str, Any] | None = None
    feed_again: bool = False
    rollback: Callable[[Mapping[str, Any]], None] | None = None
    snapshot: Callable[[], None] | None = None
    save: Callable[[], None] | None = None

    def warmed(self, step: int) -> float:
        """The share of the rate that a rate which warms up again has reached.

        Args:
            step: completed steps.
        """
        if self.rewarm is None:
            return 1.0
        begin, steps, share = self.rewarm
        return share + (1.0 - share) * _part(step - begin, steps)

    def glided(self, step: int) -> float:
        """The share of the rate that is left after a fall beside the schedule.

        Args:
            step: completed steps.
        """
        if self.glide is None:
            return 1.0
        begin, steps, share = self.glide
        return 1.0 - (1.0 - share) * _part(step - begin, steps)

    def bent(self, step: int) -> float:
        """What a new warm-up and a fall beside the schedule multiply the rate by."""
        return self.warmed(step) * self.glided(step)

    def rate_scale(self, step: int) -> float:
        """What the schedule is multiplied by after `step` completed steps."""
        return self.learning_rate_scale * self.bent(step)


def _part(passed: int, steps: int) -> float:
    """The share of some steps that has passed, from 0 to 1."""
    return min(max(passed / steps, 0.0), 1.0)
