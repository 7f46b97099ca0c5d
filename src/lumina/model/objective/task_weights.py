"""How much each task's loss weighs: as asked for, or following how fast it falls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumina.model.interface import LossSums
from lumina.model.objective.multi_task import LOSSES
from lumina.model.spec import TaskSpec

TEMPERATURE = 2.0
"""Of dynamic weight averaging, as in its paper: larger ones make tasks more alike."""


class TaskWeights:
    """Weights of the tasks' mean losses, together one; on the device throughout.

    Dynamic weight averaging (Liu, Johns and Davison, 2019, arXiv:1803.10704): every
    `balancing_window` steps, each task's mean loss L over them is measured; from the
    second measurement on, a task weighs w * softmax(L(k) / L(k-1) / T), where w is
    what was asked for. A loss that falls more slowly than others weighs more.

    Args:
        tasks: what was asked for.
        device: where the weights are read.

    Attributes:
        now: [tasks] float32.
    """

    def __init__(self, tasks: TaskSpec, device: torch.device) -> None:
        count = len(tasks.names)
        self._tasks = tasks
        self._asked = torch.tensor(tasks.weights or [1 / count] * count, device=device)
        # Loss and tokens since the last measurement; then the last two measurements.
        self._sums = torch.zeros(count, 2, dtype=torch.float64, device=device)
        self._before = torch.zeros(count, dtype=torch.float64, device=device)
        self._last = torch.zeros(count, dtype=torch.float64, device=device)
        self._steps = 0
        self.now = self._weights()

    def loss(self, losses: LossSums, loss_tokens: tuple[float, ...]) -> Tensor:
        """A micro-batch's part of the weighted sum of the tasks' mean losses.

        A task without a token in this step adds nothing.

        Args:
            losses: of the micro-batch.
            loss_tokens: counted tokens of each task in the whole step, or what these
                weigh.
        """
        parts = zip(losses.terms[LOSSES], loss_tokens, strict=True)
        means = torch.stack([loss / (tokens or 1) for loss, tokens in parts])
        return (self.now * means).sum()

    def update(self, statistics: Tensor, skip: Tensor) -> None:
        """Take note of a finished step; nothing is read back.

        Args:
            statistics: [tasks, 2], cross entropy and counted tokens over all ranks.
            skip: [] 1.0 where the step's gradients were not finite: it says nothing.
        """
        if self._tasks.balancing == "none":
            return
        self._sums += torch.where(skip > 0, 0.0, statistics.double())
        self._steps += 1
        if self._steps % self._tasks.balancing_window:
            return
        loss, tokens = self._sums.unbind(1)
        # A task that had no token stands where it stood.
        mean = torch.where(tokens > 0, loss / tokens.clamp(min=1), self._last)
        self._before, self._last = self._last, mean
        self._sums = torch.zeros_like(self._sums)
        self.now = self._weights()

    def _weights(self) -> Tensor:
        if self._steps < 2 * self._tasks.balancing_window:
            return self._asked
        known = self._before > 0
        pace = torch.where(known, self._last / self._before.clamp(min=1e-12), 1.0)
        weights = self._asked * torch.softmax(pace / TEMPERATURE, dim=0).float()
        return weights / weights.sum()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain JSON values."""
        return {
            "steps": self._steps,
            "sums": self._sums.tolist(),
            "before": self._before.tolist(),
            "last": self._last.tolist(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._steps = int(state["steps"])
        for name in ("sums", "before", "last"):
            held: Tensor = getattr(self, f"_{name}")
            held.copy_(torch.tensor(state[name], dtype=torch.float64))
        self.now = self._weights()
