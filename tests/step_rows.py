"""The row of metrics.jsonl that a single step would leave."""

from __future__ import annotations

import io

from lumina.observe.console import Console
from lumina.train.recorder import Recorder


def settled(plan, folder, known, values):
    """The row of a step.

    Args:
        plan: what the step's program realised.
        folder: where a recorder may write.
        known: what the host knows of the step, where it is not the first of a run.
        values: what `train_step` returned, as a list.
    """
    recorder = Recorder(
        folder,
        plan,
        Console(stream=io.StringIO(), live=False),
        main=False,
        device_name="NVIDIA H100",
    )
    base = {"step": 1, "tokens": 10, "epoch": 0.1, "learning_rate": 1e-3}
    base |= {"data_wait_seconds": 0.0, "step_tokens": 10, "loss_tokens": 10}
    base |= {"step_seconds": 0.5}
    return recorder.row(plan, base | known, values)
