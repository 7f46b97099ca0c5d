"""What is kept of the activations, and where."""

from __future__ import annotations

from typing import Any

from option_effects import shows
from tiny_runs import Program, Runs, seen


@shows("activation_budget")
def budget(runs: Runs) -> None:
    """A smaller budget makes more blocks run their forward pass again."""
    shape = {"num_layers": 4, "seq_length": 512, "batch_size": 2, "steps": 1}
    taken, losses = [], set()
    for size in (3 * 2**20, 2**26):
        calls: list[int] = []

        def count(program: Program, _: Any, calls: list[int] = calls) -> None:
            for block in program.network.backbone.blocks:
                norm = block.feedforward_norm
                norm.register_forward_hook(lambda *_: calls.append(1))

        run = runs.train(
            seen(count, []),
            **shape,
            gradient_checkpointing="budget",
            activation_budget=size,
        )
        taken.append(len(calls))
        losses.add(run.first_loss)
    # Two forwards of four blocks.
    assert taken[0] - taken[1] == 8 and len(losses) == 1
